package queue

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/nix-larder/larder/internal/plainfile"
)

// An Identity is what can be known of a queue without its database, which may
// be locked, damaged, or of a newer release.
//
// It lies in the lock file beside the database. The file's content is the ID,
// its modification time is when a worker was last alive, and the flock on it
// belongs to the worker that is alive now.
type Identity struct {
	// ID names the queue in Nix's gcroots: 32 hexadecimal digits.
	ID string

	// UID and GID own the queue.
	UID, GID int

	// Worker is when a worker was last known to be alive. It is the time of the
	// queue's creation if there never was one.
	Worker time.Time
}

// isID tells whether text has the form of an ID. (A regular expression would cost
// every hook a tenth of its time.)
func isID(text string) bool {
	_, err := hex.DecodeString(text)
	return err == nil && len(text) == 32 && text == strings.ToLower(text)
}

func lockFile(file string) string { return file + "-lock" }

// Identify returns the identity of the queue whose database is file. The error
// wraps [fs.ErrNotExist] if there is none.
func Identify(file string) (Identity, error) {
	// The hook does this as root in a directory that may be a user's: neither a
	// link nor a pipe planted there may lead it astray.
	f, err := plainfile.Open(lockFile(file), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK)
	if err != nil {
		return Identity{}, fmt.Errorf("identify queue: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Identity{}, fmt.Errorf("identify queue: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Identity{}, fmt.Errorf("identify queue: %s is not a regular file", f.Name())
	}
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return Identity{}, fmt.Errorf("identify queue: %w", err)
	}
	id := strings.TrimSuffix(string(text), "\n")
	if !isID(id) {
		return Identity{}, fmt.Errorf("identify queue: %s holds no queue ID", f.Name())
	}
	sys := info.Sys().(*syscall.Stat_t)
	return Identity{ID: id, UID: int(sys.Uid), GID: int(sys.Gid), Worker: info.ModTime()}, nil
}

// identify is Identify, but makes the identity if there is none.
func identify(file string) (Identity, error) {
	id, err := Identify(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	// A finished file is linked in place, so that of two processes that make the
	// same queue one wins, and nobody ever reads half an ID.
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+"-lock.")
	if err != nil {
		return Identity{}, fmt.Errorf("identify queue: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(ExpectedID(file) + "\n")
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return Identity{}, fmt.Errorf("identify queue: %w", err)
	}
	if err := os.Link(tmp.Name(), lockFile(file)); err != nil && !errors.Is(err, fs.ErrExist) {
		return Identity{}, fmt.Errorf("identify queue: %w", err)
	}
	return Identify(file)
}

// ExpectedID returns the ID that a queue gets if it is made now. Hooks may run
// before that and leave roots, which the queue then has.
//
// The ID does not change when the queue is moved, or seen under another name in
// another mount namespace. The host is part of it, since containers that share
// one Nix often have their queues at the same place.
func ExpectedID(file string) string {
	host, _ := os.Hostname() // (ignored) without a name the path has to do
	sum := sha256.Sum256([]byte("larder queue\x00" + host + "\x00" + file))
	return hex.EncodeToString(sum[:16])
}

// A Lock makes its holder the only worker of a queue.
type Lock struct {
	flock *flock.Flock
}

// Lock makes this process the queue's worker and returns what an earlier worker
// had claimed when it died to waiting. It returns [ErrLocked] if another worker
// is alive.
func (q *Queue) Lock() (*Lock, error) {
	l := &Lock{flock: flock.New(lockFile(q.file), flock.SetFlag(os.O_RDWR))}
	if err := q.take(l.flock); err != nil {
		return nil, fmt.Errorf("lock queue: %w", err)
	}
	if err := l.Beat(); err != nil {
		l.Unlock()
		return nil, err
	}
	if err := q.reclaim(); err != nil {
		l.Unlock()
		return nil, err
	}
	return l, nil
}

// take takes the flock if no worker has it. Those who ask WorkerAlive have it
// too, shared and for a moment: they are waited for.
func (q *Queue) take(l *flock.Flock) error {
	for range 1000 {
		if free, err := l.TryLock(); free || err != nil {
			return err
		}
		alive, err := q.WorkerAlive()
		if err != nil {
			return err
		}
		if alive {
			return ErrLocked
		}
		time.Sleep(time.Millisecond)
	}
	return ErrLocked // somebody holds the shared lock, for whatever reason
}

// Beat notes that the worker is alive. Hooks make no roots for a queue whose
// worker has not been alive for a long time.
func (l *Lock) Beat() error {
	now := time.Now()
	if err := os.Chtimes(l.flock.Path(), now, now); err != nil {
		return fmt.Errorf("note that the worker is alive: %w", err)
	}
	return nil
}

// Unlock ends the holder's time as the worker.
func (l *Lock) Unlock() error { return l.flock.Close() }

// WorkerAlive tells whether some process holds the queue's lock.
func (q *Queue) WorkerAlive() (bool, error) { return workerAlive(q.file) }

func workerAlive(file string) (bool, error) {
	l := flock.New(lockFile(file), flock.SetFlag(os.O_RDONLY))
	free, err := l.TryRLock()
	if err != nil {
		return false, fmt.Errorf("look for the queue's worker: %w", err)
	}
	return !free, l.Close()
}

// End leaves word, where a queue was that has been removed, that there will be none
// again: hooks that are still called have nothing to do.
func End(file string) error {
	if err := os.WriteFile(endFile(file), nil, 0o644); err != nil {
		return fmt.Errorf("end queue: %w", err)
	}
	return nil
}

// Ended tells whether End has been called for a queue.
func Ended(file string) bool {
	_, err := os.Lstat(endFile(file))
	return err == nil
}

func endFile(file string) string { return file + "-ended" }
