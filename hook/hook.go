// Package hook is what Nix runs after each build: its outputs become jobs.
//
// Nix waits for the hook, and stops building if it fails. So a build never
// suffers from larder: whatever is wrong, Run does as much as can be done in the
// time it has, says in one line what could not be done, and the program ends
// with 0. It reads no standard input, which may be Nix's own connection, and
// starts no process.
//
// # Order
//
//  1. A root for every output. Nix still holds the outputs while the hook runs,
//     so no collector can have taken them, and from here on none will.
//  2. The rows of the queue, in one transaction.
//  3. The roots once more: the worker may have finished an earlier job of the
//     same path between 1 and 2, and taken its root away.
//
// If the queue can't be had in time, the roots are enough: the worker turns
// roots without rows into jobs.
package hook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

// forgotten is how long no worker has to have been alive before the hook makes
// no more roots: they keep paths in the store, and nobody would remove them.
const forgotten = 7 * 24 * time.Hour

// Config tells Run what to do.
type Config struct {
	// Argv0 is the path under which the hook was executed. The file of the same
	// name with .queue behind it, if there is one, names the queue.
	Argv0 string

	// Queue is the queue's database. If it is empty, LARDER_QUEUE, the file beside
	// Argv0, and the user's default are asked, in this order.
	Queue string

	// Getenv is asked for DRV_PATH, OUT_PATHS and what else the environment says.
	// It must not be nil.
	Getenv func(string) string

	// Busy is how long to wait for other processes that write to the queue.
	Busy time.Duration

	// Stage, if it is not nil, is told what Run is doing, for when it takes too
	// long.
	Stage *atomic.Value
}

// Run adds the outputs that the environment tells of to the queue.
func Run(ctx context.Context, c Config) error {
	build, problems := parseBuild(nixstore.DefaultDirs(), c.Getenv)

	c.stage("finding the queue")
	file, err := c.findQueue()
	if err != nil {
		return errors.Join(problems, err)
	}
	id, err := identify(file, build.dirs.State)
	if err != nil {
		return errors.Join(problems, err)
	}
	r := rooter{dirs: build.dirs, file: file, id: id, roots: gcroot.Open(build.dirs.State, id.ID)}

	// What the environment names is safe before Nix's database is opened.
	c.stage("making roots")
	problems = errors.Join(problems, r.root(build.outputs))
	c.stage("reading Nix's database")
	all, err := build.allOutputs(ctx, c.Busy)
	problems = errors.Join(problems, err)
	c.stage("making roots")
	problems = errors.Join(problems, r.root(all))
	if len(all) == 0 {
		return problems
	}

	c.stage("waiting for the queue")
	if err := becomeOwner(id); err != nil {
		return errors.Join(problems, err)
	}
	q, err := queue.OpenForHook(ctx, file, c.Busy)
	if err != nil {
		return errors.Join(problems, err)
	}
	// The process ends without closing the queue: see OpenForHook.
	if err := q.Add(ctx, build.drv, all...); err != nil {
		return errors.Join(problems, err)
	}
	c.stage("making roots")
	return errors.Join(problems, r.again(all))
}

func (c Config) stage(s string) {
	if c.Stage != nil {
		c.Stage.Store(s)
	}
}

// identify returns the identity of a queue, or the one that it will have if there
// is none yet.
func identify(file, stateDir string) (queue.Identity, error) {
	id, err := queue.Identify(file)
	if errors.Is(err, fs.ErrNotExist) {
		id = queue.Identity{ID: queue.ExpectedID(file), UID: os.Geteuid(), GID: os.Getegid()}
		id.Worker, err = gcroot.Open(stateDir, id.ID).Since()
	}
	return id, err
}

// findQueue returns the queue's database.
func (c Config) findQueue() (string, error) {
	if file := cmp.Or(c.Queue, c.Getenv("LARDER_QUEUE")); file != "" {
		return filepath.Abs(file)
	}
	if filepath.IsAbs(c.Argv0) {
		text, err := os.ReadFile(c.Argv0 + ".queue")
		if err == nil {
			return string(bytes.TrimSuffix(text, []byte("\n"))), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find queue: %w", err)
		}
	}
	return queue.DefaultFile(os.Geteuid(), c.Getenv)
}

// A rooter makes the roots of one hook.
type rooter struct {
	dirs  nixstore.Dirs
	file  string
	id    queue.Identity
	roots *gcroot.Dir
	made  bool // the directory is there
}

// root makes roots for paths.
func (r *rooter) root(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	if time.Since(r.id.Worker) > forgotten {
		return fmt.Errorf("no worker since %s: no root was made; start larder daemon, or remove the hook",
			r.id.Worker.Format(time.DateOnly))
	}
	if !r.made {
		owner := gcroot.Owner{Queue: r.file, ID: r.id.ID, UID: r.id.UID, GID: r.id.GID}
		if _, err := gcroot.Make(r.dirs.State, owner); err != nil {
			return err
		}
		r.made = true
	}
	return r.again(paths)
}

// again makes those roots that are gone.
func (r *rooter) again(paths []string) error {
	if !r.made {
		return nil
	}
	for _, path := range paths {
		if err := r.roots.Add(path); err != nil {
			return err
		}
	}
	return nil
}

// becomeOwner gives up root's rights for those of the queue's owner. The files of
// a queue are then the owner's, and whatever lies in that directory, links
// included, can't be used to reach what the owner could not reach alone.
func becomeOwner(id queue.Identity) error {
	if os.Geteuid() != 0 || id.UID == 0 {
		return nil
	}
	err := errors.Join(
		syscall.Setgroups(nil),
		syscall.Setresgid(id.GID, id.GID, id.GID),
		syscall.Setresuid(id.UID, id.UID, id.UID),
	)
	if err != nil {
		return fmt.Errorf("become user %d: %w", id.UID, err)
	}
	return nil
}

// OneLine returns err as the one line that a hook may print.
func OneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
