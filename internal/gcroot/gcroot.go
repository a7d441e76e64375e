// Package gcroot keeps queued store paths from Nix's garbage collector.
//
// A root is a regular file named like the store path, anywhere below gcroots, with
// whatever in it: Nix takes that for a root since before 2.8. So a root is made with
// one system call, without Nix, by whoever may write the directory it is in. Users for
// whom root has made no such directory have [Links].
//
//	/nix/var/nix/gcroots/larder/
//	    <queue ID>/              owned by the owner of the queue
//	        queue                names the queue: the path of its database
//	        <hash>-<name>        a root, from before its job until after it: a hard
//	                             link to that file
//	    hooks/
//	        <hash>-larder-hook   a hook that nix.conf may name
//
// The roots of a queue are also its safety net: a root without a job is a job
// whose hook could not reach the database in time.
package gcroot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	nameFile  = "queue"
	tmpPrefix = "new-" // of directories that are being made; no ID begins so
)

// base is the folder, below Nix's state directory, that holds all that is ours.
func base(stateDir string) string { return filepath.Join(stateDir, "gcroots", "larder") }

// hooks is the directory of the roots of installed hooks. No queue's ID is like it.
const hooks = "hooks"

// Hooks returns the roots of installed hooks. It does not look whether they exist.
func Hooks(stateDir string) *Dir { return Open(stateDir, hooks) }

// AddHook makes a root for an installed hook.
func AddHook(stateDir, storePath string) error {
	d := Hooks(stateDir)
	if err := makeBase(filepath.Dir(d.path)); err != nil {
		return fmt.Errorf("make root directory: %w", err)
	}
	if err := makeBase(d.path); err != nil {
		return fmt.Errorf("make root directory: %w", err)
	}
	return d.Add(storePath)
}

// A Dir holds the roots of one queue.
type Dir struct {
	stateDir string
	path     string
}

// An Owner says whose queue it is.
type Owner struct {
	Queue    string // the queue's database
	ID       string // the queue's ID
	UID, GID int    // who owns the queue, and so its roots
}

// Open returns the roots of a queue below Nix's state directory, such as
// /nix/var/nix. It does not look whether they exist.
func Open(stateDir, id string) *Dir {
	return &Dir{stateDir: stateDir, path: filepath.Join(base(stateDir), id)}
}

// Path returns the directory.
func (d *Dir) Path() string { return d.path }

// Make makes the directory if there is none, owned by the queue's owner. If it
// is somebody else's already, it returns an error: a queue that claims another
// one's ID must not reach its roots.
func Make(stateDir string, owner Owner) (*Dir, error) {
	d := Open(stateDir, owner.ID)
	info, err := os.Lstat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.create(owner); err != nil {
			return nil, fmt.Errorf("make root directory: %w", err)
		}
		info, err = os.Lstat(d.path)
	}
	if err != nil {
		return nil, fmt.Errorf("make root directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("make root directory: %s is something else", d.path)
	}
	if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != owner.UID {
		return nil, fmt.Errorf("make root directory: %s belongs to user %d, and the queue to user %d", d.path, uid, owner.UID)
	}
	return d, nil
}

func (d *Dir) create(owner Owner) error {
	if err := makeBase(filepath.Dir(d.path)); err != nil {
		return err
	}
	// Another hook may do the same at this moment: a finished directory is
	// renamed in place, and to come second is to be done.
	tmp, err := os.MkdirTemp(filepath.Dir(d.path), tmpPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	name := filepath.Join(tmp, nameFile)
	if err := os.WriteFile(name, []byte(owner.Queue+"\n"), 0o644); err != nil {
		return err
	}
	// Whatever our umask is, Nix and the queue's owner must be able to read it.
	if err := errors.Join(os.Chmod(name, 0o644), os.Chmod(tmp, 0o755)); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Lchown(name, owner.UID, owner.GID), os.Lchown(tmp, owner.UID, owner.GID)); err != nil {
			return err
		}
	}
	err = os.Rename(tmp, d.path)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

// makeBase makes a directory of ours, if there is none, so that every user can look
// for his own roots in it.
func makeBase(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// exists tells whether the queue has a directory of its own.
func (d *Dir) exists() bool {
	_, err := os.Lstat(d.path)
	return err == nil
}

// Since returns when the directory was made, or now if there is none.
func (d *Dir) Since() (time.Time, error) {
	info, err := os.Lstat(filepath.Join(d.path, nameFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("look at root directory: %w", err)
	}
	return info.ModTime(), nil
}

// Add makes a root for a store path. To have one already is success.
//
// A root protects the path from a collection that starts afterwards. From one
// that is running only a path is safe that Nix itself still holds, as it does
// while a hook runs.
func (d *Dir) Add(storePath string) error {
	// One more name for a file that is there costs a twentieth of a new file where
	// many were deleted lately, as while builds and a worker run: ext4 steps over
	// every inode that was in use in the last half minute.
	err := os.Link(filepath.Join(d.path, nameFile), d.file(storePath))
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	// It has all the names that a file may have, or it can't have another one, or it
	// is not there. O_EXCL does not follow what the directory's owner may have planted.
	f, err := os.OpenFile(d.file(storePath), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	return f.Close()
}

// Remove removes the root of a store path. To have none is success.
func (d *Dir) Remove(storePath string) error {
	err := os.Remove(d.file(storePath))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove root: %w", err)
	}
	return nil
}

// List returns the base names of all store paths that have a root, in no
// particular order. A directory that is not there has none.
func (d *Dir) List() ([]string, error) {
	f, err := os.Open(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list roots: %w", err)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list roots: %w", err)
	}
	var roots []string
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != nameFile {
			roots = append(roots, e.Name())
		}
	}
	return roots, nil
}

// RemoveAll removes all roots, and their directory. If that was made by root for
// another user, it stays, empty, until a worker of root sweeps it.
func (d *Dir) RemoveAll() error {
	names, err := d.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.Remove(name); err != nil {
			return err
		}
	}
	// By another name first: without its name file it would be nobody's to sweep.
	gone := d.path + ".gone"
	err = os.Rename(d.path, gone)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("remove roots: %w", err)
	}
	return nil
}

func (d *Dir) file(storePath string) string {
	return filepath.Join(d.path, filepath.Base(storePath))
}

// Sweep removes the roots of vanished queues: those whose directory has not
// changed for idle, and whose database gone says is no more. Looking alone would
// not do, since a queue may be in a mount namespace that is not ours. What it may
// not remove it leaves alone.
func Sweep(stateDir string, idle time.Duration, gone func(queue string) bool) error {
	dirs, err := os.ReadDir(base(stateDir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep roots: %w", err)
	}
	for _, dir := range dirs {
		path := filepath.Join(base(stateDir), dir.Name())
		info, err := dir.Info()
		if err != nil || time.Since(info.ModTime()) < idle {
			continue // (ignored) swept by somebody else, or still in use
		}
		if !strings.HasPrefix(dir.Name(), tmpPrefix) { // else Make was killed in the middle
			queue, err := queueOf(path)
			if err != nil || !gone(queue) {
				continue // (ignored) no directory of a queue, or not ours to read
			}
		}
		if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("sweep roots: %w", err)
		}
	}
	return nil
}

// queueOf returns the queue to which a directory of roots belongs, if it says so.
func queueOf(dir string) (string, error) {
	// Who owns the directory may have put there whatever he likes, and we may be
	// root: no link is followed, and no pipe waited for.
	f, err := os.OpenFile(filepath.Join(dir, nameFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", f.Name())
	}
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return strings.TrimSuffix(string(text), "\n"), err
}
