package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/queue"
)

// forgotten is how long no worker has to have been alive before the hook makes no more
// roots: package hook.
const forgotten = 7 * 24 * time.Hour

// checkQueue looks whether the queue can be used, and whether somebody empties it.
func checkQueue(_ context.Context, s *Setup) []Finding {
	q := s.Queue
	if q == nil {
		return nil
	}
	id, err := queue.Identify(q.File)
	if err == nil {
		if f, bad := s.wrongOwner(id); bad {
			return one(f)
		}
	}
	if q.Err != nil {
		return one(s.unusable(id))
	}
	var findings []Finding
	if _, err := q.Settings.Bounds(); err != nil {
		findings = append(findings, Finding{
			Severity: Problem,
			What:     err.Error(),
			Why:      "nobody can tell what is bounded, so that nothing is copied",
			Run:      []string{s.init("--min-free", "0", "--max-queue", "0")},
			Advice:   "or with other bounds",
		})
	}
	if s.Cache != "" && q.Settings.Cache != "" && bincache.URL(s.Cache) != q.Settings.Cache {
		findings = append(findings, Finding{
			Severity: Problem,
			What:     fmt.Sprintf("the queue feeds %s, and not %s", q.Settings.Cache, bincache.URL(s.Cache)),
			Run:      []string{"larder doctor --queue " + quote(q.File)},
			Advice:   "a queue belongs to one cache: name another one with --queue FILE",
		})
	}
	return append(findings, s.worker(id)...)
}

// unusable says why the queue can't be opened.
func (s *Setup) unusable(id queue.Identity) Finding {
	q := s.Queue
	f := Finding{Severity: Problem, What: fmt.Sprint(q.Err), Why: "hook and worker can't use it either"}
	switch {
	case errors.Is(q.Err, fs.ErrNotExist):
		f.Why = "nothing is queued; hooks that name it leave roots, which keep paths for 7 days"
		f.Run = []string{s.init()}
	case errors.Is(q.Err, fs.ErrPermission):
		f.Severity = Warning
		f.Why = "it is somebody else's, and only that user can say how it is"
		f.Run = []string{"sudo larder doctor --queue " + quote(q.File)}
		if id.UID != 0 && id.ID != "" {
			f.Run = []string{fmt.Sprintf("sudo -u '#%d' larder doctor --queue %s", id.UID, quote(q.File))}
		}
	case errors.Is(q.Err, queue.ErrTooNew):
		f.Advice = "a newer larder made it: install that one, or name another queue with --queue FILE"
	case errors.Is(q.Err, queue.ErrRemote):
		f.Why = "SQLite's shared memory does not work there"
		f.Run = []string{"larder init --queue /var/lib/larder/queue.db --cache " + quote(s.Cache)}
		f.Advice = "or another file on a local disk"
	case errors.Is(q.Err, queue.ErrCorrupt):
		f.Run = []string{"mv " + quote(q.File) + " " + quote(q.File+".corrupt"), s.init()}
		f.Advice = "paths that still have roots are queued anew"
	default:
		f.Advice = "name another queue with --queue FILE"
	}
	return f
}

// wrongOwner tells whether root has made the queue in somebody's home.
func (s *Setup) wrongOwner(id queue.Identity) (f Finding, bad bool) {
	dir := filepath.Dir(s.Queue.File)
	if id.UID != 0 {
		return f, false
	}
	home := homeAbove(dir)
	if home == 0 {
		return f, false
	}
	name := strconv.Itoa(home)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	f = Finding{
		Severity: Problem,
		What:     fmt.Sprintf("the queue %s is below a directory of %s, but belongs to root", s.Queue.File, name),
		Why:      fmt.Sprintf("root has made it (sudo larder init?), and %s can't be its worker", name),
	}
	give := func(files string) { f.Run = append(f.Run, asRoot("chown -R "+quote(name)+": "+files)) }
	if info, err := os.Stat(dir); err == nil && ownerOf(info) == 0 {
		give(quote(dir))
	} else {
		give(quote(s.Queue.File) + "*")
	}
	if roots := gcroot.Open(s.Dirs.State, id.ID).Path(); exists(roots) {
		give(quote(roots))
	}
	return f, true
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// homeAbove returns the user, not root, who owns the nearest directory above one that
// root does not, or 0. A directory that everybody may write, as /tmp, is no home.
func homeAbove(dir string) int {
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return 0
		}
		if uid := ownerOf(info); uid != 0 {
			return uid
		}
	}
	return 0
}

// worker looks whether somebody empties the queue.
func (s *Setup) worker(id queue.Identity) []Finding {
	q := s.Queue
	command := func(name string) string {
		if q.Default {
			return "larder " + name
		}
		return "larder " + name + " --queue " + quote(q.File)
	}
	var findings []Finding
	if q.Counts.Dead > 0 {
		findings = append(findings, Finding{
			Severity: Warning,
			What:     fmt.Sprintf("%s failed for good", count(int(q.Counts.Dead), "job")),
			Why:      "those paths are not in the cache; their roots keep them in the store",
			Run:      []string{command("status"), command("retry")},
		})
	}
	holder, held := lockHolder(q.File + "-lock")
	held = held || q.Worker // who may be in another container
	switch idle := time.Since(id.Worker); {
	case held && holder.stranger(id.UID):
		findings = append(findings, Finding{
			Severity: Problem,
			What:     fmt.Sprintf("process %d (%s) of user %d holds the queue's lock, and is no worker", holder.pid, holder.name, holder.uid),
			Why:      "as long as it does no worker can start; anybody who may read that file can do it",
			Run:      []string{asRootUnless(holder.uid, fmt.Sprintf("kill %d", holder.pid))},
		})
	case held:
		return append(findings, fine("a worker is alive")...)
	case idle > forgotten:
		findings = append(findings, Finding{
			Severity: Problem,
			What:     fmt.Sprintf("no worker has been alive since %s", id.Worker.Format(time.DateOnly)),
			Why:      "after 7 days the hook makes no more roots: the garbage collector may take what is queued",
			Run:      []string{command("drain")},
			Advice:   "larder daemon, as a service, does it all the time",
		})
	case q.Counts.Left() > 0:
		findings = append(findings, Finding{
			Severity: Warning,
			What:     fmt.Sprintf("%s in the queue, and no worker is alive", count(int(q.Counts.Left()), "job")),
			Why:      "they come into the cache when one runs",
			Run:      []string{command("drain")},
			Advice:   "larder daemon, as a service, does it all the time",
		})
	}
	if len(findings) == 0 {
		return fine("the queue is empty; no worker is alive now (larder daemon, or larder drain)")
	}
	return findings
}

// asRootUnless returns a command as we have to type it for something of a user.
func asRootUnless(uid int, command string) string {
	if uid == os.Geteuid() {
		return command
	}
	return asRoot(command)
}

// A holder is a process that has a lock.
type holder struct {
	pid, uid int
	name     string
}

// stranger tells whether it can't be a worker of that user's queue.
func (h holder) stranger(owner int) bool {
	return h.pid != 0 && (!strings.Contains(h.name, "larder") || h.uid != owner && h.uid != 0)
}
