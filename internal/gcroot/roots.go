package gcroot

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// Roots are all roots of a queue: files in its directory, and links, where its owner
// may not have such a directory.
type Roots struct {
	dir   *Dir
	links *Links
}

// Join makes one of a queue's directory of roots, which may not exist (yet: the hook,
// as root, may make it any time), and its links.
func Join(dir *Dir, links *Links) *Roots { return &Roots{dir, links} }

// collectorPatience is how long to wait for a running collector's answer.
const collectorPatience = 5 * time.Second

// Protect makes roots for store paths. After that a collection that starts keeps
// them, and one that is running has been told of them; it may have taken them before
// that. To have a root already is success.
func (r *Roots) Protect(ctx context.Context, paths ...string) error {
	if len(paths) == 0 {
		return nil
	}
	err := r.dir.protect(paths)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return r.links.Protect(ctx, paths...)
	}
	return err
}

func (d *Dir) protect(paths []string) error {
	for _, path := range paths {
		if err := d.Add(path); err != nil {
			return err
		}
	}
	return TellCollector(d.stateDir, collectorPatience, paths...)
}

// Again makes roots that Protect has made, and somebody removed since. Links it does
// not: they take too long.
func (r *Roots) Again(paths ...string) error {
	for _, path := range paths {
		if err := r.dir.Add(path); err != nil && r.dir.exists() {
			return err
		}
	}
	return nil
}

// Remove removes the roots of a store path. To have none is success.
func (r *Roots) Remove(storePath string) error {
	return errors.Join(r.dir.Remove(storePath), r.links.Remove(storePath))
}

// List returns the base names of all store paths that have a root, in no
// particular order.
func (r *Roots) List() ([]string, error) {
	files, err := r.dir.List()
	if err != nil {
		return nil, err
	}
	links, err := r.links.List()
	return append(files, links...), err
}

// Weak tells whether roots are links: the queue has no directory below gcroots.
func (r *Roots) Weak() bool { return !r.dir.exists() }

// RemoveAll removes all roots, and what they are in.
func (r *Roots) RemoveAll() error {
	return errors.Join(r.dir.RemoveAll(), r.links.RemoveAll())
}
