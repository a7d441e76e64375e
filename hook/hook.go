// Package hook is what Nix runs after each build: its outputs become jobs.
//
// Nix waits for the hook, and stops building if it fails. So a build never
// suffers from larder: whatever is wrong, Run does as much as can be done in the
// time it has, says in one line what could not be done, and the program ends
// with 0, unless there is another hook that has to be called after it: package
// hookmain says how. Run reads no standard input, which may be Nix's own connection,
// and starts no process.
//
// # Order
//
//  1. A root for every output. Nix still holds the outputs while the hook runs,
//     so no collector can have taken them, and from here on none will: one that
//     runs already, and may have looked at the roots before, is told.
//  2. The rows of the queue, in one transaction.
//  3. The roots once more: the worker may have finished an earlier job of the
//     same path between 1 and 2, and taken its root away.
//
// If the queue can't be had in time, the roots are enough: the worker turns
// roots without rows into jobs.
package hook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/plainfile"
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
	Stage func(stage string)
}

// Run adds the outputs that the environment tells of to the queue.
func Run(ctx context.Context, c Config) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	build, problems := parseBuild(nixstore.DefaultDirs(), c.Getenv)

	c.stage("finding the queue")
	file, err := c.findQueue()
	if err != nil {
		return errors.Join(problems, err)
	}
	id, err := identify(file, build.dirs.State)
	if errors.Is(err, errEnded) {
		return nil
	}
	if err != nil {
		return errors.Join(problems, err)
	}
	r := rooter{dirs: build.dirs, file: file, id: id, roots: gcroot.Open(build.dirs.State, id.ID)}

	// What the environment names is safe before anything else is looked at. What
	// goes wrong here goes wrong below once more, and is told of then.
	c.stage("making roots")
	_ = r.root(build.outputs)
	c.stage("reading the derivation")
	all, err := build.allOutputs(ctx, c.Busy)
	problems = errors.Join(problems, err)
	c.stage("making roots")
	problems = errors.Join(problems, r.root(all))
	if len(all) == 0 {
		return problems
	}
	if r.made {
		c.stage("telling the garbage collector")
		problems = errors.Join(problems, gcroot.TellCollector(build.dirs.State, c.Busy/3, all...))
	}

	c.stage("waiting for the queue")
	if err := becomeOwner(id); err != nil {
		return errors.Join(problems, err)
	}
	q, err := queue.OpenForHook(file, c.Busy)
	if err != nil {
		return errors.Join(problems, err)
	}
	// The process ends without closing the queue: see OpenForHook.
	if err := q.Add(build.drv, all...); err != nil {
		return errors.Join(problems, err)
	}
	c.stage("making roots")
	problems = errors.Join(problems, r.again(all))
	c.stage("emptying the queue's log")
	return errors.Join(problems, q.Tidy())
}

func (c Config) stage(s string) {
	if c.Stage != nil {
		c.Stage(s)
	}
}

// errEnded says that there was a queue, and that nobody wants anything any more.
var errEnded = errors.New("queue has ended")

// identify returns the identity of a queue, or the one that it will have if there
// is none yet.
func identify(file, stateDir string) (queue.Identity, error) {
	id, err := queue.Identify(file)
	if errors.Is(err, fs.ErrNotExist) {
		if queue.Ended(file) {
			return id, errEnded
		}
		id = queue.Identity{ID: queue.ExpectedID(file)}
		id.UID, id.GID = futureOwner(file)
		id.Worker, err = gcroot.Open(stateDir, id.ID).Since()
	}
	return id, err
}

// futureOwner returns who will own a queue that is not there yet, or that has
// lost its lock file: whoever owns the directory. Root must neither leave roots
// that the owner of the queue can't remove, nor open as root what a user put
// there.
func futureOwner(file string) (uid, gid int) {
	if os.Geteuid() != 0 {
		return os.Geteuid(), os.Getegid()
	}
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil {
			sys := info.Sys().(*syscall.Stat_t)
			return int(sys.Uid), int(sys.Gid)
		}
		if dir == filepath.Dir(dir) {
			return 0, 0
		}
	}
}

// findQueue returns the queue's database, by the name that everybody uses.
func (c Config) findQueue() (file string, err error) {
	if file = cmp.Or(c.Queue, c.Getenv("LARDER_QUEUE")); file == "" {
		file, err = c.queueBeside()
	}
	if file == "" && err == nil {
		file, err = queue.DefaultFile(os.Geteuid(), c.Getenv)
	}
	if err == nil {
		file, err = queue.Resolve(file)
	}
	if err != nil {
		return "", fmt.Errorf("find queue: %w", err)
	}
	return file, nil
}

// queueBeside returns what the file beside the program says, or "" if there is
// no such file.
func (c Config) queueBeside() (string, error) {
	if !filepath.IsAbs(c.Argv0) {
		return "", nil
	}
	name := c.Argv0 + ".queue"
	f, err := plainfile.Open(name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return "", err
	}
	file := strings.TrimSuffix(string(text), "\n")
	if !filepath.IsAbs(file) {
		return "", fmt.Errorf("%s says %q, which is no absolute path", name, file)
	}
	return file, nil
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
	// Root's setgid and setuid set the saved IDs too (POSIX), so that there is no way
	// back. macOS has no setresuid.
	err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(id.GID), syscall.Setuid(id.UID))
	if err != nil {
		return fmt.Errorf("become user %d: %w", id.UID, err)
	}
	return nil
}

// OneLine returns err as the one line that a hook may print. It is short enough
// for a pipe to take it whole.
func OneLine(err error) string {
	const limit = 1000
	line := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(line) > limit {
		line = strings.ToValidUTF8(line[:limit], "") + "…"
	}
	return line
}
