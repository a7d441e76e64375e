package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/queue"
)

// What a file system should have left.
const (
	littleSpace, noSpace = 1 << 30, 1 << 20 // bytes
	fewInodes, noInodes  = 1000, 10
)

// checkDisks looks whether the file systems can do what cache and queue need.
func checkDisks(_ context.Context, s *Setup) []Finding {
	var findings []Finding
	if s.Cache != "" {
		findings = append(findings, s.cacheDisk()...)
	}
	if s.Queue != nil && s.Queue.Err == nil {
		findings = append(findings, s.queueDisk()...)
	}
	return findings
}

func (s *Setup) cacheDisk() []Finding {
	dir := existing(s.Cache)
	findings := s.space("cache", dir, s.minFree())
	switch d, err := statDisk(dir); {
	case err != nil:
		return one(Finding{Severity: Problem, What: err.Error()})
	case d.memory:
		findings = append(findings, Finding{
			Severity: Warning,
			What:     fmt.Sprintf("the cache %s is in memory (%s)", s.Cache, d.name),
			Why:      "it is gone when the machine is",
			Advice:   "choose a directory on a disk with --cache DIR",
		})
	case d.name == "overlay":
		findings = append(findings, Finding{
			Severity: Warning,
			What:     fmt.Sprintf("the cache %s is in the container's own file system (overlay)", s.Cache),
			Why:      "it is gone when the container is",
			Advice:   "mount a volume there, or save it at the end",
		})
	case d.remote:
		findings = append(findings, fine("the cache is on %s: other clients see new entries when their attribute cache lets them", d.name)...)
	}
	if !s.writes() {
		return append(findings, fine("the cache belongs to another user: only that one can tell whether it can be written")...)
	}
	if dir != filepath.Clean(s.Cache) {
		return append(findings, s.probe(dir)...)
	}
	for _, inner := range []string{".larder", ".larder/tmp", ".larder/runs", ".larder/lock"} {
		isLock := inner == ".larder/lock"
		inner = filepath.Join(dir, inner)
		info, err := os.Lstat(inner)
		switch {
		case err != nil: // larder makes it
		case !isLock && !info.IsDir():
			return append(findings, inTheWay(inner, "a link, or a file"))
		case isLock && !info.Mode().IsRegular():
			return append(findings, inTheWay(inner, "no file"))
		}
	}
	if tmp := filepath.Join(dir, ".larder", "tmp"); exists(tmp) {
		dir = tmp
	}
	return append(findings, s.probe(dir)...)
}

// inTheWay says that something is in the place of what larder makes in a cache.
func inTheWay(name, what string) Finding {
	return Finding{
		Severity: Problem,
		What:     name + " is " + what,
		Why:      "larder writes nothing through what it has not made: it would be written elsewhere",
		Run:      []string{fmt.Sprintf("mv %s %s", quote(name), quote(name+".away"))},
		Advice:   "larder makes it again",
	}
}

// writes tells whether it is us who write to the cache: the queue's owner does, or for
// larder run whoever calls it.
func (s *Setup) writes() bool {
	if s.Queue == nil {
		return true
	}
	id, err := queue.Identify(s.Queue.File)
	return err != nil || id.UID == os.Geteuid()
}

func (s *Setup) queueDisk() []Finding {
	dir := filepath.Dir(s.Queue.File)
	findings := s.space("queue", dir, 0)
	if d, err := statDisk(dir); err == nil && d.memory {
		findings = append(findings, Finding{
			Severity: Warning,
			What:     fmt.Sprintf("the queue %s is in memory (%s)", s.Queue.File, d.name),
			Why:      "what is queued is gone when the machine is; roots of it stay for 7 days",
			Advice:   "choose a file on a disk: larder init --queue FILE --cache " + quote(s.Cache),
		})
	}
	return findings
}

// A disk is what is to be known of a file system.
type disk struct {
	name           string // of its kind, or "" if there is nothing to say of that
	remote, memory bool
	readOnly       bool
	free           uint64 // bytes that we may use
	inodes         uint64 // that are left
	countsInodes   bool
	noexec         bool
}

// minFree returns how much of the cache's disk is to stay free.
func (s *Setup) minFree() uint64 {
	if s.Queue == nil {
		return 0
	}
	b, err := s.Queue.Settings.Bounds()
	if err != nil {
		return 0 // (ignored) checkQueue says so
	}
	return uint64(b.MinFree)
}

// space looks for the space that is left, of which some is to stay free.
func (s *Setup) space(what, dir string, minFree uint64) []Finding {
	d, err := statDisk(dir)
	if err != nil || d.readOnly {
		return nil
	}
	f := Finding{Severity: Warning, Why: "a full disk makes jobs wait; builds go on"}
	// Much of it may be Nix's.
	if sameDisk(dir, s.Dirs.Store) {
		f.Run = []string{"nix-collect-garbage"}
	} else {
		f.Run = []string{"df -h " + quote(dir)}
	}
	f.Advice = "make room, or use a larger disk"
	switch {
	case d.free < noSpace, d.countsInodes && d.inodes < noInodes:
		f.Severity = Problem
		f.What = fmt.Sprintf("the disk of the %s is full: %s", what, d.left())
	case d.free < minFree:
		f.Severity = Problem
		f.What = fmt.Sprintf("workers pause: %s (--min-free)", bincache.RoomText(int64(d.free), int64(minFree)))
		f.Why = "nothing is copied until there is room; then it goes on by itself, and builds go on meanwhile"
		f.Advice = "larder gc --max-size SIZE makes room in the cache; or use a larger disk, or larder init --min-free SIZE"
	case d.free < littleSpace, d.countsInodes && d.inodes < fewInodes:
		f.What = fmt.Sprintf("the disk of the %s is nearly full: %s", what, d.left())
	default:
		return fine("the disk of the %s has %s", what, d.left())
	}
	return one(f)
}

func (d disk) left() string {
	if d.countsInodes && d.inodes < fewInodes {
		return fmt.Sprintf("%s and %d inodes left", humanize.IBytes(d.free), d.inodes)
	}
	return humanize.IBytes(d.free) + " left"
}

// remoteName returns what kind of file system another machine's is, or "".
func remoteName(dir string) string {
	if d, err := statDisk(dir); err == nil && d.remote {
		return d.name
	}
	return ""
}

func noexec(file string) bool {
	d, err := statDisk(filepath.Dir(file))
	return err == nil && d.noexec
}

func sameDisk(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && infoA.Sys().(*syscall.Stat_t).Dev == infoB.Sys().(*syscall.Stat_t).Dev
}

// probe does in a directory of the cache, or above it, what it takes to publish a file.
func (s *Setup) probe(dir string) []Finding {
	f := Finding{Severity: Problem, Why: "nothing can be published"}
	tmp, err := os.CreateTemp(dir, "doctor-") // swept with the rest if we are killed
	if err != nil {
		return one(s.cantWrite(dir, err))
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	var findings []Finding
	_, err = tmp.WriteString("larder doctor was here\n")
	if err == nil {
		err = tmp.Sync()
	}
	if err != nil {
		f.What = fmt.Sprintf("what is written to the cache can't be made durable: %v", err)
		f.Run = []string{"df -h " + quote(dir)}
		f.Advice = "without fsync(2) a power failure can leave half an entry: use another disk"
		return one(f)
	}
	if info, err := tmp.Stat(); err == nil {
		findings = append(findings, skewOf(time.Since(info.ModTime()))...)
	}
	link := tmp.Name() + "-link"
	defer os.Remove(link)
	switch err := os.Link(tmp.Name(), link); {
	case err != nil && !errors.Is(err, fs.ErrExist):
		findings = append(findings, Finding{
			Severity: Warning,
			What:     fmt.Sprintf("the cache's file system has no link(2): %v", err),
			Why:      "rename(2) has to do: two writers of one file may both write it, which costs time only",
		})
	}
	if err := os.Rename(tmp.Name(), link); err != nil {
		f.What = fmt.Sprintf("the cache's file system can't put one file in the place of another: %v", err)
		f.Advice = "use another disk"
		return append(findings, f)
	}
	if len(findings) == 0 {
		return fine("files can be published below %s", s.Cache)
	}
	return findings
}

// skewOf looks whether the file system's clock is ours: unfinished files are swept by
// their age.
func skewOf(skew time.Duration) []Finding {
	if skew.Abs() < 10*time.Second {
		return nil
	}
	return one(Finding{
		Severity: Warning,
		What:     fmt.Sprintf("the clock of the cache's file system is %s off", skew.Abs().Round(time.Second)),
		Why:      "what is old, and may be swept, is told by it",
		Run:      []string{asRoot("timedatectl set-ntp true")},
		Advice:   "on the file server, too",
	})
}

func (s *Setup) cantWrite(dir string, err error) Finding {
	f := Finding{
		Severity: Problem,
		What:     fmt.Sprintf("the cache can't be written: %v", err),
		Why:      "jobs wait until it can",
	}
	if s.Queue == nil {
		f.Severity = Warning
		f.Why = "larder run can only read from it"
		f.Run = []string{"larder run --read-only --cache " + quote(s.Cache) + " -- COMMAND"}
	}
	switch {
	case errors.Is(err, fs.ErrPermission) && s.Queue != nil:
		f.Run = []string{asRoot(fmt.Sprintf("chown -R %s: %s", quote(userName()), quote(s.Cache)))}
	case errors.Is(err, fs.ErrPermission):
		f.Advice = "or have its owner give you the right to"
	case errors.Is(err, syscall.EROFS):
		f.Advice = "the disk is mounted read-only"
		if s.Queue != nil {
			f.Run = []string{asRoot("mount -o remount,rw " + quote(mountPoint(dir)))}
		}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		f.Run = []string{"df -h " + quote(dir), "df -i " + quote(dir)}
	}
	return f
}

// mountPoint returns where the file system of a directory is mounted.
func mountPoint(dir string) string {
	for dir != "/" && sameDisk(dir, filepath.Dir(dir)) {
		dir = filepath.Dir(dir)
	}
	return dir
}
