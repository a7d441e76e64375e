package integration

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/mattn/go-sqlite3"
)

// openQueue opens the queue's database, as the program that larder is not.
func (l *larder) openQueue(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+l.host(l.queue)+"?mode=rw&_txlock=exclusive&_busy_timeout=10000")
	must(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// lockQueue keeps everybody else from writing to the queue until unlock is called.
func (l *larder) lockQueue(t *testing.T) (unlock func()) {
	t.Helper()
	db := l.openQueue(t)
	tx, err := db.Begin()
	must(t, err)
	return func() {
		t.Helper()
		must(t, tx.Rollback())
		must(t, db.Close())
	}
}

// A finished is a derivation that was built, with what Nix says of it to a hook.
type finished struct {
	drv  string
	outs []string
}

// buildWithoutHook builds an expression of independent derivations.
func (l *larder) buildWithoutHook(t *testing.T, args ...string) []finished {
	t.Helper()
	l.build(t, append(args, "--option", "post-build-hook", "")...)
	var all []finished
	for _, drv := range l.instantiate(t, args...) {
		all = append(all, finished{drv, l.outputs(t, drv)})
	}
	return all
}

// startHook runs the hook as Nix would after a build. Nix 2.8.0 does not say what
// the outputs are.
func (l *larder) startHook(t *testing.T, f finished, env ...string) *process {
	t.Helper()
	outs := strings.Join(f.outs, " ")
	if l.version == "2.8.0" {
		outs = ""
	}
	env = append([]string{"DRV_PATH=" + f.drv, "OUT_PATHS=" + outs, "NIX_CONFIG=access-tokens = github.com=TOPSECRET"}, env...)
	return l.with(env...).start(t, l.hook(t))
}

func TestSixtyFourHooksAtOnceLoseNothing(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		builds := l.buildWithoutHook(t, manyGraph, "--arg", "count", "64", "--argstr", "salt", "hooks")
		var want []string
		var hooks []*process
		unlock := l.lockQueue(t)
		for _, f := range builds {
			want = append(want, f.outs...)
			hooks = append(hooks, l.startHook(t, f))
		}
		// Each has its root before it needs the queue, and then they all want it.
		slices.Sort(want)
		eventually(t, "all hooks to wait for the queue", func() bool { return len(l.rootFiles(t)) == len(want) })
		unlock()
		for _, h := range hooks {
			if stdout, stderr, exit := h.wait(t); stdout+stderr != "" || exit != 0 {
				t.Errorf("exit %d, stdout %q, stderr %q", exit, stdout, stderr)
			}
		}
		equalPaths(t, "queue", l.queued(t), want)
		equalPaths(t, "roots", l.rooted(t), want)
		l.drain(t)
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), want)
	})
}

// Since 2.35 Nix runs several hooks at a time, while it builds. They have the
// deadline that they have without being told.
func TestHooksBesideBuildsAndAWorkerLoseNothing(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		builds := l.buildWithoutHook(t, manyGraph, "--arg", "count", "64", "--argstr", "salt", "hooks")
		args := []string{manyGraph, "--arg", "count", "32", "--argstr", "salt", "beside"}
		l.startWorker(t)
		beside := l.start(t, append([]string{"nix-build", "--no-out-link", "--max-jobs", "4"}, args...)...)

		var want, heard []string // of all, and without those whose hook gave up
		var hooks []*process
		for _, f := range builds {
			want = append(want, f.outs...)
			hooks = append(hooks, l.startHook(t, f, "LARDER_HOOK_DEADLINE="))
		}
		for i, h := range hooks {
			stdout, stderr, exit := h.wait(t)
			if stdout != "" || exit != 0 || strings.Contains(stderr, "SECRET") {
				t.Errorf("exit %d, stdout %q, stderr %q", exit, stdout, stderr)
			}
			if !gaveUp(h) {
				heard = append(heard, builds[i].outs...)
			}
		}
		if _, _, exit := beside.wait(t); exit != 0 {
			t.Errorf("the build beside them: %v", beside)
		}
		outs := l.outputs(t, l.instantiate(t, args...)...)
		want = append(want, outs...)
		if !gaveUp(beside) {
			heard = append(heard, outs...)
		}
		slices.Sort(want)
		l.inCacheQueueOrRooted(t, heard)
		l.drain(t)
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), want)
	})
}

// inCacheQueueOrRooted makes sure that no path is lost at the moment, while a
// worker may be at work.
func (l *larder) inCacheQueueOrRooted(t *testing.T, want []string) {
	t.Helper()
	// In the order in which a path goes through them.
	have := slices.Concat(l.rooted(t), l.queued(t), l.cached(t))
	slices.Sort(have)
	hasPaths(t, "roots, queue and cache", have, want)
}

// gaveUp tells whether a hook says so. Then nothing may be there yet: a watcher finds
// what was built when it looks.
func gaveUp(p *process) bool { return strings.Contains(p.stderr.String(), "gave up") }

// What a hook could not do in time, a worker does when it starts.
func TestRootsWithoutJobsAreAdopted(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, work := range map[string]func(*larder){
			"by drain": func(l *larder) { l.drain(t) },
			"by a daemon": func(l *larder) {
				l.startWorker(t, "--poll", "1h")
				eventually(t, "the roots to go", func() bool { return len(l.rootFiles(t)) == 0 })
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLarder(t, n)
				l.machine = l.with("LARDER_HOOK_DEADLINE=1s") // of which it waits for more than half
				unlock := l.lockQueue(t)
				outs := l.builtDespiteTheHook(t, "", standardGraph)
				unlock()
				if queued := l.queued(t); queued != nil {
					t.Fatalf("queued although the queue was locked: %q", queued)
				}
				equalPaths(t, "roots", l.rooted(t), outs)
				work(l)
				l.nothingLeft(t)
				equalPaths(t, "cache", l.cached(t), l.closure(t, outs...))
			})
		}
	})
}

// builtDespiteTheHook is built, but the hook has to say what is wrong.
func (l *larder) builtDespiteTheHook(t *testing.T, complaint string, args ...string) []string {
	t.Helper()
	_, stderr, exit := l.tryRun(t, append([]string{"nix-build", "--no-out-link"}, args...)...)
	if exit != 0 {
		t.Fatalf("the build failed: %s", stderr)
	}
	said := slices.ContainsFunc(strings.Split(stderr, "\n"), func(line string) bool {
		return strings.Contains(line, "larder-hook: ") && strings.Contains(line, complaint)
	})
	if !said {
		t.Errorf("the hook does not say %q: %s", complaint, stderr)
	}
	return l.outputs(t, l.derivations(t, args...)...)
}

// A build never suffers, whatever has become of the queue. What is rooted comes
// into the cache when the queue is mended.
func TestBuildsGoOnWhateverIsWrongWithTheQueue(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, trouble := range map[string]struct {
			spoil, mend string // scripts in the queue's directory
			complaint   string
			unrooted    bool // even roots are not made
		}{
			"corrupt":         {"echo garbage > queue.db", "mv queue.db ../spoilt; larder init --cache $CACHE", "corrupt", false},
			"missing":         {"mv * ..", "mv ../queue.db* .", "no such file", false},
			"of a newer kind": {"cp queue.db ..; printf '\\143' | dd of=queue.db bs=1 seek=63 conv=notrunc", "mv ../queue.db .", "newer", false},
			"a directory":     {"mv queue.db ..; mkdir queue.db", "rmdir queue.db; mv ../queue.db .", "directory", false},
			"not there yet":   {"mv /var/lib/larder /var/lib/elsewhere", "mv ../elsewhere/* .", "no such file", false},
			"forgotten":       {"touch -d '8 days ago' queue.db-lock", "exit 0", "no worker since", true},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLarder(t, n)
				script := func(text string) {
					l.with("CACHE="+l.cache).run(t, "sh", "-euc", "mkdir -p /var/lib/larder; cd /var/lib/larder; "+text)
				}
				script(trouble.spoil)
				outs := l.builtDespiteTheHook(t, trouble.complaint, standardGraph)
				if trouble.unrooted {
					equalPaths(t, "roots", l.rooted(t), nil)
				} else {
					equalPaths(t, "roots", l.rooted(t), outs)
				}
				script(trouble.mend)
				l.drain(t)
				l.nothingLeft(t)
				hasPaths(t, "cache", l.cached(t), outs)
			})
		}
	})
}

// With a deadline that no hook can keep, builds go on as well.
func TestBuildsGoOnIfTheHookGivesUp(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		unlock := l.lockQueue(t)
		l.machine = l.with("LARDER_HOOK_DEADLINE=100us")
		outs := l.builtDespiteTheHook(t, "gave up", standardGraph)
		unlock()
		for _, path := range l.rooted(t) {
			if !slices.Contains(outs, path) {
				t.Errorf("a root for %s, which is not among %q", path, outs)
			}
		}
		rooted := l.rooted(t)
		l.drain(t)
		l.nothingLeft(t)
		hasPaths(t, "cache", l.cached(t), rooted)
	})
}

// The hook waits for nothing: neither for its input, nor at the end of it.
func TestHookReadsNothingAndLeavesNobody(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	f := l.buildWithoutHook(t, "--expr", oneExpr("built"))[0]
	// A pipe that never ends, as the input that Nix may pass on.
	fifo := filepath.Join(tempDir(t), "fifo")
	l.run(t, "mkfifo", fifo)
	script := fmt.Sprintf("exec 3<>%s; exec %s <&3", fifo, l.hook(t))
	if stdout, stderr, exit := l.with("DRV_PATH="+f.drv).tryRun(t, "sh", "-c", script); stdout+stderr != "" || exit != 0 {
		t.Errorf("exit %d, stdout %q, stderr %q", exit, stdout, stderr)
	}
	equalPaths(t, "queue", l.queued(t), f.outs)
	if running := l.processes(); running != nil {
		t.Errorf("still running: %q", running)
	}
}
