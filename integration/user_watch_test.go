package integration

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// userWatcher has alice make a queue and a cache in a home that only she can enter,
// on a machine where root has done nothing for larder. conf are lines of nix.conf.
func userWatcher(t *testing.T, n nix, conf ...string) (l *larder, nixDaemon *process) {
	t.Helper()
	m := newMachine(t, n, conf...).with(patient)
	must(t, os.Chmod(m.host(alice.home), 0o700))
	nixDaemon = m.startDaemon(t)
	l = &larder{
		machine: m.as(alice).with("NIX_REMOTE="), // Nix has to find out that there is a daemon
		cache:   m.host("/home/alice/cache"),     // where the host sees it
		queue:   "/home/alice/q/queue.db",
	}
	l.conf = l.lines(t, "sh", "-c", "larder init --watch-only --queue ~/q/queue.db --cache ~/cache")
	return l, nixDaemon
}

// A fullStatus is all that larder status --json prints.
type fullStatus struct {
	status
	Mode      string         `json:"mode"`
	Rules     map[string]any `json:"rules"`
	Unseen    *int64         `json:"unseen"`
	Roots     int            `json:"roots"`
	WeakRoots bool           `json:"weak_roots"`
}

func (l *larder) fullStatus(t *testing.T) fullStatus {
	t.Helper()
	var s fullStatus
	must(t, json.Unmarshal([]byte(l.run(t, "larder", "status", "--queue", l.queue, "--json")), &s))
	return s
}

// linked returns the store paths that links beside the queue keep, sorted.
func (l *larder) linked(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(l.host(l.queue + "-roots"))
	if !errors.Is(err, fs.ErrNotExist) {
		must(t, err)
	}
	var paths []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(l.host(l.queue+"-roots"), e.Name()))
		if !errors.Is(err, fs.ErrNotExist) { // the worker may have removed it
			must(t, err)
			paths = append(paths, target)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// holdUp keeps workers of the machine's user, who must not be root, from writing to
// the cache until release is called.
func (l *larder) holdUp(t *testing.T) (release func()) {
	t.Helper()
	must(t, os.Chmod(filepath.Join(l.cache, "nar"), 0o500))
	return func() {
		t.Helper()
		must(t, os.Chmod(filepath.Join(l.cache, "nar"), 0o755))
	}
}

// reach waits until the cache has the paths, and the queue no jobs.
func (l *larder) reach(t *testing.T, paths ...string) {
	t.Helper()
	eventually(t, "the worker", func() bool {
		cached := l.cached(t)
		return !slices.ContainsFunc(paths, func(path string) bool { return !slices.Contains(cached, path) })
	})
	eventually(t, "the queue to be empty", func() bool { return len(l.queued(t)) == 0 })
}

// noDrvs returns what of the paths is not a derivation.
func noDrvs(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return strings.HasSuffix(path, ".drv") })
}

// idle waits until nobody has Nix's database open. Nix before 2.22 then takes its
// log away.
func (m *machine) idle(t *testing.T) {
	t.Helper()
	if m.version != "2.8.0" {
		return
	}
	eventually(t, "Nix to be idle", func() bool {
		_, err := os.Stat(m.host("/nix/var/nix/db/db.sqlite-shm"))
		return err != nil
	})
}

// builtElsewhere builds on a machine of its own, and returns a cache that Nix made of
// the closure, and what is in it.
func builtElsewhere(t *testing.T, n nix, args ...string) (cache string, paths []string) {
	t.Helper()
	m := newMachine(t, n)
	cache = filepath.Join(tempDir(t), "elsewhere")
	outs := m.build(t, args...)
	m.run(t, append([]string{"nix", "copy", "--to", "file://" + cache}, outs...)...)
	return cache, m.closure(t, outs...)
}

// However something comes into the store, and whoever brings it.
func TestUserGetsWhateverEntersTheStore(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		getsWhateverEnters(t, n)
	})
	t.Run("trusted", func(t *testing.T) {
		t.Parallel()
		getsWhateverEnters(t, nixes[1], "trusted-users = root alice")
	})
}

func getsWhateverEnters(t *testing.T, n nix, conf ...string) {
	t.Helper()
	l, _ := userWatcher(t, n, conf...)
	l.startWorker(t, "--poll", "1h") // woken by what Nix writes, and by nothing else
	l.as(bob).build(t, standardGraph)
	fetchedFrom, fetched := builtElsewhere(t, n, manyGraph, "--arg", "count", "3", "--arg", "chained", "true")
	l.asRoot().substitute(t, fetchedFrom, fetched...)
	copiedFrom, copied := builtElsewhere(t, n, "--expr", oneExpr("copied"))
	l.asRoot().run(t, append([]string{"nix", "copy", "--no-check-sigs", "--from", "file://" + copiedFrom}, copied...)...)
	brought := append(slices.Concat(fetched, copied),
		l.buildOne(t, "by-alice"), l.asRoot().buildOne(t, "by-root"),
		l.as(bob).run(t, "sh", "-euc", "echo mine > mine; nix-store --add mine"))
	slices.Sort(brought)

	want := noDrvs(l.asRoot().validPaths(t))
	hasPaths(t, "store", want, brought)
	hasKinds(t, want)
	l.reach(t, want...)
	equalPaths(t, "cache", l.cached(t), want)
	checkWhole(t, l.cache)
	l.run(t, "nix", "store", "verify", "--store", "file:///home/alice/cache", "--all", "--no-trust")
	l.ownedBy(t, alice, "/home/alice/cache/nar", l.queue)
	equalPaths(t, "links", l.linked(t), nil)
	if s := l.fullStatus(t); s.Mode != "watch-only" || !s.WeakRoots || s.Roots != 0 || s.Unseen == nil || *s.Unseen != 0 || !s.WorkerAlive {
		t.Errorf("status is %+v", s)
	}
	if _, err := os.Stat(l.host("/nix/var/nix/gcroots/larder")); err == nil {
		t.Error("there is a directory below gcroots")
	}
}

// Between a path's registration and its copy, links are all that keeps it.
func TestLinksOfAUserKeepWhatIsQueued(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := userWatcher(t, n)
		release := l.holdUp(t)
		l.startWorker(t, "--poll", "50ms")
		// Bob's result keeps it until there are links.
		l.as(bob).run(t, "nix-build", standardGraph)
		outs := l.asRoot().outputs(t, l.asRoot().derivations(t, standardGraph)...)
		want := l.asRoot().closure(t, outs...)
		eventually(t, "links", func() bool {
			linked := l.linked(t)
			return !slices.ContainsFunc(outs, func(path string) bool { return !slices.Contains(linked, path) })
		})
		l.as(bob).run(t, "rm", "result")
		l.asRoot().collectGarbage(t)
		hasPaths(t, "store", l.asRoot().validPaths(t), want)
		var s fullStatus
		eventually(t, "a job for each link, which comes first", func() bool {
			s = l.fullStatus(t)
			links := len(l.linked(t))
			return s.Roots == links && s.Waiting+s.Claimed == links
		})
		if !s.WeakRoots {
			t.Errorf("status is %+v", s)
		}
		if text := l.run(t, "larder", "status", "--queue", l.queue); !strings.Contains(text, "by links that nix-store makes") {
			t.Errorf("status does not say that the roots are weak: %s", text)
		}

		release()
		l.reach(t, want...)
		equalPaths(t, "cache", l.cached(t), want)
		equalPaths(t, "links", l.linked(t), nil)
		l.asRoot().collectGarbage(t)
		equalPaths(t, "store", l.asRoot().validPaths(t), nil)
	})
}

// Nix realises what it makes roots for, which for a derivation is something else.
func TestLinksOfAUserKeepDerivations(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := userWatcher(t, n)
		l.run(t, "larder", "init", "--queue", l.queue, "--keep", "drvs,built")
		release := l.holdUp(t)
		l.startWorker(t, "--poll", "50ms")
		// A derivation that is not built, one that is, and what came out of it; roots of
		// bob's keep them until there are links.
		l.as(bob).run(t, "sh", "-euc", `nix-instantiate --add-root drv --indirect --expr '`+oneExpr("only-planned")+`'; nix-build --expr '`+oneExpr("built")+`'`)
		planned := l.as(bob).run(t, "readlink", "drv")
		built := l.as(bob).run(t, "readlink", "result")
		want := slices.Sorted(slices.Values([]string{planned, built, l.asRoot().query(t, "--deriver", built)[0]}))
		eventually(t, "jobs", func() bool { return len(l.queued(t)) == len(want) })
		equalPaths(t, "links", l.linked(t), want)
		if t.Failed() {
			return // it would wait for what is gone
		}
		l.as(bob).run(t, "rm", "drv", "result")
		l.asRoot().run(t, "nix-store", "--gc", "--option", "keep-derivations", "false")
		equalPaths(t, "store", l.asRoot().validPaths(t), want)
		release()
		l.reach(t, want...)
		equalPaths(t, "links", l.linked(t), nil)
	})
}

// Roots are for the time in between; the copy does not need them.
func TestUserWithoutNixInThePathGetsEverything(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := userWatcher(t, n)
		alone := *l
		alone.machine = l.with("PATH=/larder/bin")
		d := alone.startWorker(t, "--poll", "1h")
		path := l.as(bob).buildOne(t, "built")
		l.reach(t, path)
		d.waitFor(t, "queued paths are not kept from the garbage collector")
		d.waitFor(t, "nix-store")
		d.kill(t)
		other := l.as(bob).buildOne(t, "other")
		_, stderr, exit := alone.tryRun(t, "/larder/bin/larder", "drain", "--queue", l.queue)
		if exit != 0 || !strings.Contains(stderr, "queued paths are not kept from the garbage collector") {
			t.Errorf("exit %d, stderr %s", exit, stderr)
		}
		equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values([]string{path, other})))
		equalPaths(t, "links", l.linked(t), nil)
	})
}

// Nix before 2.22 takes the log of its database away when it is idle, and leaves it
// if it is killed: what a user can read is another thing each time.
func TestUserSeesTheStoreWhateverNixIsDoing(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := userWatcher(t, n)
		look := func(what, path string) {
			t.Helper()
			l.drain(t)
			if !slices.Contains(l.cached(t), path) {
				t.Errorf("%s: %s is not in the cache", what, path)
			}
		}
		path := l.as(bob).buildOne(t, "before")
		l.idle(t)
		look("idle", path)

		release := l.hold(t)
		look("busy", l.as(bob).buildOne(t, "meanwhile"))
		release()
		l.idle(t)

		// When it dies it has registered one, and has another one in hand.
		const one = `import /larder/graphs/derive.nix "one" { } "echo one > $out"`
		gate := newGate(t)
		dying := l.asRoot().start(t, "nix-build", "--no-out-link", "--expr",
			`import /larder/graphs/derive.nix "other" { one = `+one+`; } "read line < `+string(gate)+`"`)
		eventually(t, "the other build to begin", func() bool {
			_, begun := gate.reached(t)
			return begun
		})
		dying.kill(t)
		log, err := os.Stat(l.host("/nix/var/nix/db/db.sqlite-wal"))
		if err != nil || log.Size() == 0 {
			t.Fatalf("there is no log, the test does not show what it should: %v", err)
		}
		d := l.startWorker(t, "--poll", "50ms")
		eventually(t, "the worker", func() bool {
			return slices.ContainsFunc(l.cached(t), func(path string) bool { return strings.HasSuffix(path, "-one") })
		})
		if d.ended() {
			t.Errorf("ended: %v", d)
		}
	})
}

// What root does later makes it better, and nothing worse.
func TestHookThatRootConfiguresLaterMakesRootsFiles(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, nixDaemon := userWatcher(t, n)
		release := l.holdUp(t)
		l.startWorker(t, "--poll", "50ms")
		first := l.as(bob).buildOne(t, "before-the-hook")
		eventually(t, "a link", func() bool { return slices.Equal(l.linked(t), []string{first}) })

		l.conf = l.lines(t, "larder", "init", "--queue", l.queue, "--watch-only=false")
		l.asRoot().configure(t, l.conf[0])
		l.asRoot().restartDaemon(t, nixDaemon)
		second := l.as(bob).buildOne(t, "with-the-hook")
		equalPaths(t, "roots", l.rooted(t), []string{second})
		l.ownedBy(t, alice, strings.TrimPrefix(filepath.Dir(l.rootFiles(t)[0]), l.dir))
		both := slices.Sorted(slices.Values([]string{first, second}))
		eventually(t, "roots", func() bool { return l.fullStatus(t).Roots >= 2 })
		if s := l.fullStatus(t); s.WeakRoots || s.Mode != "both" {
			t.Errorf("status is %+v", s)
		}
		l.asRoot().collectGarbage(t)
		hasPaths(t, "store", l.asRoot().validPaths(t), both)

		// Also for what no hook tells of.
		added := l.as(bob).run(t, "sh", "-euc", "echo mine > mine; nix-store --add mine")
		eventually(t, "its root", func() bool { return slices.Contains(l.rooted(t), added) })
		release()
		l.reach(t, append(both, added)...)
		l.nothingLeft(t)
		equalPaths(t, "links", l.linked(t), nil)
	})
}

// A store that was full before she came is no different for a user.
func TestUserSyncsAndExplains(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		m.startDaemon(t)
		early := m.as(bob).buildOne(t, "early")
		l := &larder{machine: m.as(alice), cache: m.host("/home/alice/cache"), queue: "/home/alice/q/queue.db"}
		l.run(t, "larder", "init", "--watch-only", "--queue", l.queue, "--cache", "/home/alice/cache")
		late := l.as(bob).buildOne(t, "late")
		m.idle(t)
		says := func(path, want string) {
			t.Helper()
			if got := l.explained(t, path); got.State != want {
				t.Errorf("%s is %q, want %q", path, got.State, want)
			}
		}
		says(early, "before")
		says(late, "unseen")
		l.run(t, "larder", "sync", "--queue", l.queue)
		both := slices.Sorted(slices.Values([]string{early, late}))
		equalPaths(t, "links", l.linked(t), both)
		says(early, "waiting")
		if !l.explained(t, early).Rooted {
			t.Error("its link is not seen")
		}
		m.collectGarbage(t)
		l.drain(t)
		equalPaths(t, "cache", l.cached(t), both)
		equalPaths(t, "links", l.linked(t), nil)
		says(early, "cached")
	})
}

func TestUninstallTakesAUsersLinksBack(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := userWatcher(t, n)
		path := l.as(bob).buildOne(t, "built")
		l.run(t, "larder", "sync", "--queue", l.queue)
		equalPaths(t, "links", l.linked(t), []string{path})
		refusal{1, "1 jobs are left", "larder drain"}.changesNothing(t, l.machine, "larder", "uninstall", "--queue", l.queue)
		l.run(t, "larder", "uninstall", "--force", "--queue", l.queue)
		if left := files(t, l.host("/home/alice/q")); len(left) != 1 {
			t.Errorf("left beside the queue: %q", left[1:])
		}
		l.asRoot().collectGarbage(t)
		equalPaths(t, "store", l.asRoot().validPaths(t), nil)
	})
}

// A disk that is away is no reason to let the collector take what is meant for it.
func TestWhatComesWhileTheCacheIsAwayIsKept(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--watch-only")
	l.unconfigure(t)
	d := l.startWorker(t, "--poll", "50ms")
	must(t, os.Rename(l.cache, l.cache+".away"))
	d.waitFor(t, "cache is unavailable")
	l.run(t, "nix-build", "--expr", oneExpr("built"))
	path := l.run(t, "readlink", "result")
	eventually(t, "its root", func() bool { return slices.Equal(l.rooted(t), []string{path}) })
	l.run(t, "rm", "result")
	l.collectGarbage(t)
	must(t, os.Rename(l.cache+".away", l.cache))
	l.reach(t, path)
}
