package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCollectorTakesNothingThatIsQueued(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		outs := l.built(t, standardGraph)
		want := l.closure(t, outs...)
		dumps := l.dumps(t, want)
		l.collectGarbage(t)
		hasPaths(t, "store before the drain", l.validPaths(t), want)
		for path, dump := range l.dumps(t, want) {
			if dump != dumps[path] {
				t.Errorf("the collector changed %s", path)
			}
		}

		l.drain(t)
		l.collectGarbage(t)
		if left := l.validPaths(t); len(left) != 1 || !strings.HasSuffix(left[0], "-larder-hook") {
			t.Errorf("in the store after the drain: %q, want the hook alone", left)
		}

		l.substitute(t, l.cache, want...)
		hasPaths(t, "store after the cache gave it back", l.validPaths(t), want)
		for path, dump := range l.dumps(t, want) {
			if dump != dumps[path] {
				t.Errorf("%s came back as another one", path)
			}
		}
	})
}

// collectWhile has a collector run all the time until done says so.
func (l *larder) collectWhile(t *testing.T, what string, done func() bool) {
	t.Helper()
	collections := 0
	eventually(t, what, func() bool {
		l.collectGarbage(t)
		collections++
		return done()
	})
	t.Logf("%d collections", collections)
}

// A collector takes what a worker is done with, and what Nix lets go of, but
// nothing in between.
func TestCollectorBesideBuildsAndAWorkerTakesNothingTooEarly(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.startWorker(t, "--poll", "50ms")
		gate := newGate(t)
		args := []string{"--expr", `let items = import ` + manyGraph + ` { count = 30; chained = true; }; in
			items ++ [ (import /larder/graphs/derive.nix "last" { previous = builtins.elemAt items 29; } "read line < ` + string(gate) + `; echo > $out") ]`}
		// Roots for the derivations: between evaluating and building, Nix's own
		// collector is a danger to Nix's own nix-build.
		l.instantiate(t, append(args, "--add-root", "drv", "--indirect")...)
		drvs := l.instantiate(t, args...)
		build := l.start(t, append([]string{"nix-store", "--realise"}, drvs...)...)
		build.waitFor(t, "item-1.drv'...")
		var open func()
		l.collectWhile(t, "the last one to begin", func() (begun bool) {
			open, begun = gate.reached(t)
			return begun
		})
		open()
		build.endsWell(t)
		outs := strings.Fields(build.stdout.String())
		if len(outs) != 31 {
			t.Fatalf("%d outputs, want 31: %v", len(outs), build)
		}
		slices.Sort(outs)
		eventually(t, "the worker", func() bool { return len(l.rootFiles(t)) == 0 })
		hasPaths(t, "cache", l.cached(t), outs)
		checkWhole(t, l.cache)
		l.verify(t)
	})
}

// A collector that has looked at the roots, but not yet at what running builds
// hold, must not take what is rooted and let go of in between.
func TestCollectorTakesNothingOfABuildThatEnds(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		args := []string{manyGraph, "--arg", "count", "30"}
		l.instantiate(t, append(args, "--add-root", "drv", "--indirect")...)
		script := []string{"sh", "-euc", `for drv; do nix-store --realise --option substituters "" "$drv"; done`, "-"}
		builds := l.start(t, append(script, l.instantiate(t, args...)...)...)
		l.collectWhile(t, "the builds", builds.ended)
		builds.endsWell(t)
		l.drain(t)
		outs := strings.Fields(builds.stdout.String())
		slices.Sort(outs)
		if len(outs) != 30 {
			t.Fatalf("%d outputs, want 30: %v", len(outs), builds)
		}
		equalPaths(t, "cache", l.cached(t), outs)
	})
}

// Somebody took the root away and deleted the path. Nobody can want it any more,
// and other jobs do not wait for it.
func TestJobsOfDeletedPathsAreDropped(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		gone := l.buildOne(t, "gone")
		other := l.buildOne(t, "other")
		must(t, os.Remove(l.host("/nix/var/nix/gcroots/larder/"+filepath.Base(filepath.Dir(l.rootFiles(t)[0]))+"/"+filepath.Base(gone))))
		l.run(t, "nix-store", "--delete", gone)
		d := l.startWorker(t, "--poll", "1h")
		d.waitFor(t, `msg="dropped job: its path is gone"`)
		d.waitFor(t, `msg="copied job"`)
		eventually(t, "the queue to be empty", func() bool { return len(l.queued(t)) == 0 })
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), []string{other})
		for line := range strings.Lines(d.stderr.String()) {
			if strings.Contains(line, "dropped job") && !strings.Contains(line, "path="+gone) {
				t.Errorf("the log does not say which one: %s", line)
			}
		}
	})
}
