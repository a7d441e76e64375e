package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// stickyJob builds something whose job is as good as done, but does not end until
// release is called: its entry is damaged, and the lock that it takes to replace
// one is ours.
func (l *larder) stickyJob(t *testing.T) (path string, release func()) {
	t.Helper()
	release = l.stick(t)
	// From here on a worker may be at it.
	path = l.build(t, "--option", "substituters", "", "--expr", oneExpr("sticky"))[0]
	return path, release
}

// stick makes the job of oneExpr("sticky") such a one, before it is built.
func (l *larder) stick(t *testing.T) (release func()) {
	t.Helper()
	path := l.outputs(t, l.instantiate(t, "--expr", oneExpr("sticky"))...)[0]
	must(t, os.WriteFile(filepath.Join(l.cache, filepath.Base(path)[:32]+".narinfo"), nil, 0o644))
	lock, err := os.OpenFile(filepath.Join(l.cache, ".larder", "lock"), os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { lock.Close() })
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	return func() { lock.Close() }
}

// inHand waits until a worker has claimed the queue's only job, and has written
// the NAR.
func (l *larder) inHand(t *testing.T) {
	t.Helper()
	eventually(t, "the job to be in hand", func() bool {
		nars, err := filepath.Glob(filepath.Join(l.cache, "nar", "*.nar*"))
		must(t, err)
		return len(nars) > 0 && l.status(t).Claimed == 1
	})
}

// endsWell waits for the process to end, and fails the test if its exit is not 0.
func (p *process) endsWell(t *testing.T) {
	t.Helper()
	if _, _, exit := p.wait(t); exit != 0 {
		t.Errorf("exit %d, want 0: %v", exit, p)
	}
}

func TestHookWakesTheDaemon(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.startWorker(t, "--poll", "1h")
		for _, name := range []string{"first", "second"} {
			path := l.buildOne(t, name)
			eventually(t, "the worker", func() bool { return slices.Contains(l.cached(t), path) })
			eventually(t, "the queue to be empty", func() bool { return len(l.queued(t)) == 0 })
		}
		l.nothingLeft(t)
	})
}

func TestDaemonFinishesWhatItHasInHand(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			l := newLarder(t, nixes[0])
			path, release := l.stickyJob(t)
			d := l.startWorker(t, "--stop-timeout", "1h")
			l.inHand(t)
			d.signal(t, sig)
			d.waitFor(t, "msg=draining")
			later := l.buildOne(t, "later")
			release()
			d.endsWell(t)
			if queued := l.queued(t); !slices.Equal(queued, []string{later}) {
				t.Errorf("queued is %q, want what came after the signal alone, %q", queued, later)
			}
			equalPaths(t, "cache", l.cached(t), []string{path})
			l.verify(t)
		})
	}
}

// bigExpr is a derivation that takes long to compress.
const bigExpr = `import /larder/graphs/derive.nix "big" { } "head -c 64M /dev/urandom > $out"`

// What can't be finished in time goes back to the queue: after --stop-timeout, or
// at the second signal.
func TestDaemonReturnsWhatItCannotFinish(t *testing.T) {
	for name, stop := range map[string]struct {
		timeout string
		signals int
	}{
		"after the timeout":    {"1ms", 1},
		"at the second signal": {"1h", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLarder(t, nixes[0], "--compression", "zstd:22")
			path := l.build(t, "--expr", bigExpr)[0]
			d := l.startWorker(t, "--stop-timeout", stop.timeout)
			eventually(t, "the job to be in hand", func() bool { return l.status(t).Claimed == 1 })
			d.signal(t, syscall.SIGTERM)
			d.waitFor(t, "msg=draining")
			if stop.signals == 2 {
				d.signal(t, syscall.SIGTERM)
				d.waitFor(t, "msg=hurrying")
			}
			d.endsWell(t)
			d.waitFor(t, `msg="returned job"`)
			jobs := l.status(t).Jobs
			if len(jobs) != 1 || jobs[0].Path != path || jobs[0].State != "waiting" || jobs[0].Attempts != 0 || jobs[0].Error != "" {
				t.Errorf("jobs are %+v", jobs)
			}
			equalPaths(t, "cache", l.cached(t), nil)
			equalPaths(t, "roots", l.rooted(t), []string{path})
			unfinished, err := filepath.Glob(filepath.Join(l.cache, ".larder", "tmp", "[^.]*"))
			must(t, err)
			if len(unfinished) > 0 {
				t.Errorf("unfinished files are left: %q", unfinished)
			}
		})
	}
}

// Whoever holds the cache's lock may be on another host, and may hold it for long.
func TestDaemonStopsThoughTheCacheIsLocked(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path, release := l.stickyJob(t)
	d := l.startWorker(t, "--stop-timeout", "1ms")
	l.inHand(t)
	d.signal(t, syscall.SIGTERM)
	d.endsWell(t)
	if queued := l.queued(t); !slices.Equal(queued, []string{path}) {
		t.Errorf("queued is %q, want %q", queued, path)
	}
	release()
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
}

func TestQueueHasOneDaemon(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	d := l.startWorker(t)
	refusal{1, "another worker has this queue", "larder status"}.of(t, l.machine, "larder", "daemon")
	if d.ended() || !l.status(t).WorkerAlive {
		t.Errorf("the first one is gone: %v", d)
	}
	d.signal(t, syscall.SIGTERM)
	d.endsWell(t)
	if l.status(t).WorkerAlive {
		t.Error("a worker is said to be alive")
	}
	l.startWorker(t)
}

func TestClaimsOfAKilledDaemonReturn(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		path, release := l.stickyJob(t)
		d := l.startWorker(t)
		l.inHand(t)
		d.kill(t)
		if s := l.status(t); s.Claimed != 1 || s.WorkerAlive {
			t.Errorf("status after the kill is %+v", s)
		}
		equalPaths(t, "roots", l.rooted(t), []string{path})
		release()
		l.startWorker(t, "--poll", "1h")
		eventually(t, "the queue to be empty", func() bool { return len(l.queued(t)) == 0 })
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), []string{path})
		l.verify(t)
	})
}

// A drain waits for the daemon that does the work, and does it itself if that dies.
func TestDrainWaitsForTheDaemon(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path, release := l.stickyJob(t)
	d := l.startWorker(t)
	l.inHand(t)
	if _, stderr, exit := l.tryRun(t, "larder", "drain", "--timeout", "300ms"); exit != 3 {
		t.Errorf("exit %d, want 3: %s", exit, stderr)
	}
	waiting := l.start(t, "larder", "drain")
	d.kill(t)
	release()
	waiting.endsWell(t)
	l.nothingLeft(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
}

// A drained queue has nothing of which a root alone tells, whoever drained it.
func TestDrainBesideADaemonWaitsForRootsWithoutJobs(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.startWorker(t, "--poll", "1h")
	unlock := l.lockQueue(t)
	hurried := *l
	hurried.machine = l.with("LARDER_HOOK_DEADLINE=")
	outs := hurried.builtDespiteTheHook(t, "", "--expr", oneExpr("built"))
	unlock()
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), outs)
	l.nothingLeft(t)
}

// What a daemon remembers of a cache ends with the cache.
func TestDaemonFillsACacheThatWasMadeAnew(t *testing.T) {
	for name, again := range map[string]func(t *testing.T, l *larder, d *process){
		"after a while": func(t *testing.T, l *larder, d *process) {
			must(t, os.Rename(l.cache, l.cache+".gone")) // at once: a daemon may mend what is half deleted
			d.waitFor(t, "cache is unavailable")
			l.run(t, "larder", "init")
		},
		"at once": func(t *testing.T, l *larder, d *process) {
			l.remake(t, d, `rm -r "$1"`)
		},
		"around its nix-cache-info": func(t *testing.T, l *larder, d *process) {
			l.remake(t, d, `ln "$1"/nix-cache-info "$1".info; rm -r "$1"; mkdir "$1"; mv "$1".info "$1"/nix-cache-info`)
		},
		"emptied": func(t *testing.T, l *larder, d *process) {
			l.remake(t, d, `rm -r "$1"/* "$1"/.[!.]*`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLarder(t, nixes[0])
			l.unconfigure(t)
			l.configure(t, l.conf[0]) // without the substituter: nothing is to come back
			d := l.startWorker(t, "--poll", "50ms")
			expr := `let d = import /larder/graphs/derive.nix; in d "two" { } "echo ${d "one" { } "echo one > $out"} > $out"`
			outs := l.built(t, "--expr", expr)
			eventually(t, "the worker", func() bool { return len(l.queued(t)) == 0 })
			equalPaths(t, "cache", l.cached(t), outs)

			again(t, l, d)
			three := l.build(t, "--expr", `import /larder/graphs/derive.nix "three" { } "echo ${`+expr+`} > $out"`)
			eventually(t, "the worker", func() bool { return len(l.queued(t)) == 0 })
			equalPaths(t, "new cache", l.cached(t), l.closure(t, three...))
			checkWhole(t, l.cache)
			if d.ended() {
				t.Errorf("ended: %v", d)
			}
		})
	}
}

// remake makes the cache anew between two looks of the daemon, so that it never
// sees that there was none. File systems such as ext4 like to use the inodes of
// deleted files again, which is what we hope for.
func (l *larder) remake(t *testing.T, d *process, remove string) {
	t.Helper()
	inode := func() uint64 {
		info, err := os.Stat(filepath.Join(l.cache, "nix-cache-info"))
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Ino
	}
	before, now := inode(), uint64(0)
	l.freezeIdle(t, d)
	for try := 0; try < 5 && now != before; try++ {
		l.run(t, "sh", "-euc", remove+"; exec larder init", "-", l.cache)
		now = inode()
	}
	t.Logf("the inode of nix-cache-info was %d and is %d", before, now)
	d.signal(t, syscall.SIGCONT)
}

// A daemon that is not to make caches does not, or it would fill the folder that
// a disk is to be mounted on.
func TestDaemonMakesNoCacheOfItsOwn(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	must(t, os.RemoveAll(l.cache))
	refusal{1, "no such file or directory", "is the disk mounted?"}.of(t, l.machine, "larder", "daemon")
	refusal{1, "no such file or directory", "is the disk mounted?"}.of(t, l.machine, "larder", "drain")
	if _, err := os.Stat(l.cache); err == nil {
		t.Error("the cache was made")
	}
}

func TestDaemonLogsInJSONIfAsked(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "logged")
	d := l.start(t, "larder", "daemon", "--json")
	d.waitFor(t, `"msg":"copied job"`)
	if line := d.stderr.String(); !strings.Contains(line, `"path":"`+path+`"`) {
		t.Errorf("the log does not name %s: %s", path, line)
	}
}
