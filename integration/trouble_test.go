package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newSmallLarder is newLarder with its cache on a disk of its own, of 4 MiB.
func newSmallLarder(t *testing.T, n nix) *larder {
	t.Helper()
	l := &larder{machine: newMachine(t, n).with(patient), cache: "/srv/cache", queue: rootsQueue}
	must(t, l.inside(func() error {
		if err := os.MkdirAll("/srv", 0o755); err != nil {
			return err
		}
		return unix.Mount("tmpfs", "/srv", "tmpfs", 0, "size=4m")
	}))
	l.conf = l.lines(t, "larder", "init", "--cache", l.cache)
	l.configure(t, l.conf[0]) // not the substituter: what is built stays a build
	return l
}

// fill fills the disk, up to the last byte.
func (l *larder) fill(t *testing.T) {
	t.Helper()
	l.run(t, "sh", "-c", "dd if=/dev/zero of=/srv/filler bs=4k; test $(stat --file-system --format %a /srv) = 0")
}

func (l *larder) makeSpace(t *testing.T) {
	t.Helper()
	l.run(t, "rm", "/srv/filler")
}

// listed returns what Nix finds in the cache, sorted. Unlike cached it also
// works for one on a disk that only the machine has.
func (l *larder) listed(t *testing.T) []string {
	t.Helper()
	paths := l.lines(t, "nix", "path-info", "--store", "file://"+l.cache, "--all")
	slices.Sort(paths)
	return paths
}

// incompressible is a derivation that needs a MiB in the cache.
func incompressible(name string) string {
	return fmt.Sprintf(`import /larder/graphs/derive.nix "%s" { } "head -c 1M /dev/urandom > $out"`, name)
}

func TestJobWaitsUntilThereIsSpace(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newSmallLarder(t, n)
		l.fill(t)
		path := l.build(t, "--expr", incompressible("big"))[0]
		waits := func() bool { // after it was tried
			t.Helper()
			jobs := l.status(t).Jobs
			if len(jobs) != 1 || jobs[0].Path != path || jobs[0].Attempts != 0 {
				t.Fatalf("jobs are %+v", jobs)
			}
			return jobs[0].State == "waiting" && strings.Contains(jobs[0].Error, "no space left on device")
		}
		eventually(t, "a drain to try the job", func() bool {
			refusal{3, "the timeout passed with 1 jobs left over", "larder drain goes on"}.ofDrain(t, l, "--timeout", "2s")
			return waits()
		})
		equalPaths(t, "roots", l.rooted(t), []string{path})
		for _, pattern := range []string{"*.narinfo", "nar/*.nar*", ".larder/tmp/[^.]*"} {
			must(t, l.inside(func() error {
				left, err := filepath.Glob(filepath.Join(l.cache, pattern))
				if len(left) > 0 {
					return fmt.Errorf("half written: %q", left)
				}
				return err
			}))
		}

		d := l.startWorker(t)
		d.waitFor(t, "no space left on device")
		eventually(t, "the job to wait again", waits)
		l.makeSpace(t)
		eventually(t, "the worker", func() bool { return len(l.queued(t)) == 0 })
		l.nothingLeft(t)
		equalPaths(t, "cache", l.listed(t), []string{path})
		l.verify(t)
	})
}

func TestPushToAFullDiskLeavesNothingHalfWritten(t *testing.T) {
	t.Parallel()
	l := newSmallLarder(t, nixes[0])
	path := l.build(t, "--expr", incompressible("big"))[0]
	l.fill(t)
	const list = "cd /srv/cache; find . -type f -printf '%p %i %s %T@\n' | sort"
	before := l.run(t, "sh", "-c", list)
	refusal{1, "no space left on device", "look for free space"}.of(t, l.machine, "larder", "push", path)
	if after := l.run(t, "sh", "-c", list); after != before {
		t.Errorf("the cache is\n%s, was\n%s", after, before)
	}
	l.makeSpace(t)
	l.run(t, "larder", "push", path)
	equalPaths(t, "cache", l.listed(t), []string{path})
	l.verify(t)
}

// ofDrain is of for a drain: it says what happened, and then what is not as it
// should be. The log may tell more.
func (r refusal) ofDrain(t *testing.T, l *larder, args ...string) {
	t.Helper()
	stdout, stderr, exit := l.tryRun(t, append([]string{"larder", "drain"}, args...)...)
	if exit != r.exit {
		t.Errorf("exit %d, want %d: %s", exit, r.exit, stderr)
	}
	if !strings.HasPrefix(stdout, "drained ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("stdout is %q", stdout)
	}
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	if n := len(lines); n < 2 || !strings.HasPrefix(lines[n-2], "larder: error: ") || !strings.Contains(lines[n-2], r.problem) ||
		!strings.HasPrefix(lines[n-1], "larder: hint: ") || !strings.Contains(lines[n-1], r.hint) {
		t.Errorf("stderr does not end in %q and %q: %s", r.problem, r.hint, stderr)
	}
}

// corrupt changes a file of the store behind Nix's back, and returns what mends it.
func (l *larder) corrupt(t *testing.T, path string) (mend func()) {
	t.Helper()
	before, err := os.ReadFile(l.host(path))
	must(t, err)
	must(t, os.WriteFile(l.host(path), []byte("something else\n"), 0o444))
	return func() {
		t.Helper()
		must(t, os.WriteFile(l.host(path), before, 0o444))
	}
}

var deadLetter = refusal{4, "1 jobs are dead letters", "larder retry"}

func TestCorruptPathIsADeadLetterUntilItIsMended(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		bad, good := l.buildOne(t, "bad"), l.buildOne(t, "good")
		mend := l.corrupt(t, bad)
		deadLetter.ofDrain(t, l)
		dead := func() {
			t.Helper()
			jobs := l.status(t).Jobs
			if len(jobs) != 1 || jobs[0].Path != bad || jobs[0].State != "dead" || !strings.Contains(jobs[0].Error, "the store is corrupt: nar hash is sha256:") {
				t.Errorf("jobs are %+v", jobs)
			}
			equalPaths(t, "cache", l.cached(t), []string{good})
			equalPaths(t, "roots", l.rooted(t), []string{bad})
		}
		dead()
		if text := l.run(t, "larder", "status"); !strings.Contains(text, bad+"\n  dead after 1 attempts, kept by its root\n  ") {
			t.Errorf("status does not show the dead letter: %s", text)
		}
		l.collectGarbage(t)
		deadLetter.ofDrain(t, l) // as long as nobody decides
		dead()
		l.run(t, "larder", "retry")
		deadLetter.ofDrain(t, l)
		dead()

		mend()
		if out := l.run(t, "larder", "retry", bad); out != "1 jobs are due now" {
			t.Errorf("retry says %q", out)
		}
		l.drain(t)
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values([]string{bad, good})))
		l.verify(t)
	})
}

// Whatever does not need the corrupt path gets into the cache, and nothing does
// that would be incomplete there.
func TestCorruptPathTakesOnlyThoseWithItThatNeedIt(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	outs := l.built(t, standardGraph)
	fetched := outs[slices.IndexFunc(outs, func(path string) bool { return strings.HasSuffix(path, "-fetched") })]
	l.corrupt(t, fetched)
	var good []string
	for _, path := range outs {
		if !slices.Contains(l.closure(t, path), fetched) {
			good = append(good, path)
		}
	}
	if len(good) < 3 || len(good) > len(outs)-3 {
		t.Fatalf("%d of %d do not need %s", len(good), len(outs), fetched)
	}
	refusal{4, fmt.Sprintf("%d jobs are dead letters", len(outs)-len(good)), "larder retry"}.ofDrain(t, l)
	hasPaths(t, "cache", l.cached(t), good)
	checkWhole(t, l.cache)
	l.verify(t)
	if slices.Contains(l.cached(t), fetched) {
		t.Errorf("the cache has %s", fetched)
	}
}

func TestDeadLettersBeatWhatIsLeftOver(t *testing.T) {
	t.Parallel()
	l := newSmallLarder(t, nixes[0])
	bad := l.buildOne(t, "bad")
	l.corrupt(t, bad)
	deadLetter.ofDrain(t, l)
	l.fill(t)
	l.build(t, "--expr", incompressible("big"))
	deadLetter.ofDrain(t, l, "--timeout", "1s")
	if s := l.status(t); s.Waiting != 1 || s.Dead != 1 || s.Claimed != 0 {
		t.Errorf("status is %+v", s)
	}
	l.makeSpace(t)
	deadLetter.ofDrain(t, l)
	if s := l.status(t); s.Waiting != 0 || s.Dead != 1 {
		t.Errorf("status is %+v", s)
	}
}

func TestRetryRefusesWhatHasNoJob(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	queued := l.buildOne(t, "queued")
	done := l.buildWithoutHook(t, "--expr", oneExpr("done"))[0].outs[0]
	refusal{1, "only 0 of 1 paths have a job", "larder status"}.changesNothing(t, l.machine, "larder", "retry", done)
	refusal{1, "only 1 of 2 paths have a job", "larder status"}.changesNothing(t, l.machine, "larder", "retry", queued, done)
	refusal{1, `"/etc/passwd" is not a store path`, "/nix/store/<hash>-<name>"}.changesNothing(t, l.machine, "larder", "retry", "/etc/passwd")
	if out := l.run(t, "larder", "retry", queued); out != "1 jobs are due now" {
		t.Errorf("retry says %q", out)
	}
	l.drain(t)
	if out := l.run(t, "larder", "retry"); out != "0 jobs are due now" {
		t.Errorf("retry says %q", out)
	}
}

// The disk of a cache may be away for a while.
func TestJobsWaitForADiskThatIsNotMounted(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	// Without the substituter: Nix makes a cache where it looks for one.
	l.unconfigure(t)
	l.configure(t, l.conf[0])
	away := filepath.Join(filepath.Dir(l.cache), "away")
	d := l.startWorker(t, "--poll", "50ms")
	must(t, os.Rename(l.cache, away))
	d.waitFor(t, "cache is unavailable")
	path := l.buildOne(t, "built")
	equalPaths(t, "queue", l.queued(t), []string{path})
	if _, err := os.Stat(l.cache); err == nil {
		t.Error("the daemon made a cache in its place")
	}
	must(t, os.Rename(away, l.cache))
	eventually(t, "the worker", func() bool { return len(l.queued(t)) == 0 })
	l.nothingLeft(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
}
