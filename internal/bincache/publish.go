package bincache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Temp is an unfinished file below .larder/tmp. Its flock, which the system
// drops with the process, tells sweepers that somebody is writing it.
type Temp struct {
	*os.File
	cache *Cache
	dir   *os.File // .larder/tmp
	name  string   // in dir
	gone  atomic.Bool
}

// CreateTemp makes an unfinished file. Its name is unique among the hosts and
// processes that share the cache.
func (c *Cache) CreateTemp() (*Temp, error) {
	dir, err := c.dir(tmpDir)
	if err != nil {
		return nil, err
	}
	name := tempPrefix() + rand.Text()
	f, err := openIn(dir, name, os.O_RDWR|os.O_CREATE|os.O_EXCL, c.fileMode)
	if err != nil {
		return nil, err
	}
	t := &Temp{File: f, cache: c, dir: dir, name: name}
	// A file system without flock has sweepers that can't lock either.
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // (ignored)
	if err := t.fixMode(); err != nil {
		t.Discard()
		return nil, err
	}
	return t, nil
}

// fixMode gives the file the mode that the umask may have cut. Where it has not, the
// file system is spared one more change to each file.
func (t *Temp) fixMode() error {
	var s unix.Stat_t
	err := retry(func() error { return unix.Fstat(int(t.Fd()), &s) })
	if err == nil && fs.FileMode(s.Mode)&fs.ModePerm == t.cache.fileMode {
		return nil
	}
	return t.Chmod(t.cache.fileMode)
}

// tempPrefix is what the names of this process's unfinished files begin with.
var tempPrefix = sync.OnceValue(func() string {
	return fmt.Sprintf("%s-%d-", hostName(), os.Getpid())
})

// hostName returns this machine's name, for a file's.
func hostName() string {
	host, _ := os.Hostname() // (ignored) the random part is what makes it unique
	host, _, _ = strings.Cut(host, "/")
	return host
}

// StartSync has the system begin to write what is in the file, so that a Sync
// that comes later has less to wait for, most of all when many files have begun.
func (t *Temp) StartSync() { startSync(t.File) }

// Publish makes the file appear under its final name, which is below the cache's
// directory. If there is one of that name already, the error wraps
// [fs.ErrExist], and the Temp is as it was.
//
// It does not make anything durable: the caller syncs the file before, and its
// directory after.
func (t *Temp) Publish(name string) error {
	err := t.cache.inDir(path.Dir(name), func(dir *os.File) error {
		return retry(func() error { return unix.Linkat(int(t.dir.Fd()), t.name, int(dir.Fd()), path.Base(name), 0) })
	})
	if cannotLink(err) {
		// Such a file system has no way to give a name only if it is free, but
		// what another writer would publish under it is the same.
		if _, err := t.cache.root.Lstat(name); err == nil {
			return &fs.PathError{Op: "publish", Path: name, Err: fs.ErrExist}
		}
		return t.Replace(name)
	}
	if err != nil {
		return &os.LinkError{Op: "link", Old: t.Name(), New: name, Err: err}
	}
	t.Discard()
	return nil
}

// Replace is Publish over a file that is damaged.
func (t *Temp) Replace(name string) error {
	err := t.cache.inDir(path.Dir(name), func(dir *os.File) error {
		return retry(func() error { return unix.Renameat(int(t.dir.Fd()), t.name, int(dir.Fd()), path.Base(name)) })
	})
	if err != nil {
		return &os.LinkError{Op: "rename", Old: t.Name(), New: name, Err: err}
	}
	t.gone.Store(true)
	return t.Close()
}

// Discard removes the unfinished file. After Publish or Replace it does nothing.
func (t *Temp) Discard() {
	if t.gone.Swap(true) {
		return
	}
	_ = retry(func() error { return unix.Unlinkat(int(t.dir.Fd()), t.name, 0) }) // (ignored) a sweeper finds it later
	_ = t.Close()                                                                // (ignored) nobody wants what is in it
}

func cannotLink(err error) bool {
	for _, errno := range []error{syscall.EPERM, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EMLINK} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// SyncDir makes the names in a directory of the cache durable.
func (c *Cache) SyncDir(name string) error {
	err := c.inDir(name, (*os.File).Sync)
	// Some network and FUSE file systems have nothing to sync in a directory.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

// writeOnce writes a small file unless there is one.
func (c *Cache) writeOnce(name, text string) error {
	if _, err := c.root.Lstat(name); err == nil {
		return nil
	}
	t, err := c.TempText([]byte(text))
	if err != nil {
		return err
	}
	defer t.Discard()
	if err := t.Sync(); err != nil {
		return err
	}
	return ignoreExist(t.Publish(name))
}

// SweepTemp removes unfinished files whose writers are gone. It leaves alone what
// is younger than age, since a file is there for a moment before it is locked.
func (c *Cache) SweepTemp(age time.Duration) error {
	names, err := c.readDir(tmpDir)
	if err != nil {
		return fmt.Errorf("sweep unfinished files: %w", err)
	}
	dir, err := c.dir(tmpDir)
	if err != nil {
		return fmt.Errorf("sweep unfinished files: %w", err)
	}
	for _, name := range names {
		if name == ".keep" {
			continue
		}
		if err := sweep(dir, name, age); err != nil {
			return fmt.Errorf("sweep unfinished files: %w", err)
		}
	}
	return nil
}

// sweep removes an unfinished file that is old enough, and whose writer is gone.
func sweep(dir *os.File, name string, age time.Duration) error {
	var s unix.Stat_t
	err := retry(func() error { return unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil || s.Mode&unix.S_IFMT != unix.S_IFREG || time.Since(time.Unix(s.Mtim.Unix())) < age {
		return nil // (ignored) published or swept meanwhile
	}
	f, err := openIn(dir, name, os.O_RDWR|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ELOOP) {
		return nil // gone, or another user's to sweep
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // its writer is alive
	}
	err = retry(func() error { return unix.Unlinkat(int(dir.Fd()), name, 0) })
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // another sweeper was faster, or it is another user's to sweep
	}
	return err
}

// lockPoll is how often a lock that somebody else has is looked at again.
const lockPoll = 20 * time.Millisecond

// lock takes the cache's one lock, for what changes entries or removes them. It
// waits for whoever has it until ctx ends: flock itself can't be told to stop.
func (c *Cache) lock(ctx context.Context) (unlock func() error, err error) {
	if err := c.writeOnce(lockFile, ""); err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	f, err := c.openLock()
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if err == syscall.EWOULDBLOCK {
			select {
			case <-time.After(lockPoll):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		f.Close()
		return nil, fmt.Errorf("lock cache: %w", err)
	}
}

// openLock opens the file of the lock, for which nothing but a file will do.
func (c *Cache) openLock() (*os.File, error) {
	dir, err := c.dir(path.Dir(lockFile))
	if err != nil {
		return nil, err
	}
	var s unix.Stat_t
	err = retry(func() error { return unix.Fstatat(int(dir.Fd()), path.Base(lockFile), &s, unix.AT_SYMLINK_NOFOLLOW) })
	if err == nil && s.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s: %w", lockFile, isNoFile)
	}
	return openIn(dir, path.Base(lockFile), os.O_RDWR|unix.O_NONBLOCK, 0)
}
