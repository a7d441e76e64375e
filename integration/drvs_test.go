package integration

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sorted returns several lists of paths as one, sorted, each path once.
func sorted(lists ...[]string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(lists...))))
}

func TestPushCopiesTheBuildTimeClosureThatNixNames(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		drv := l.query(t, "--deriver", top)
		want := l.query(t, "--requisites", append([]string{"--include-outputs"}, drv...)...)
		if len(want) <= len(l.closure(t, top))+len(l.derivations(t, standardGraph)) {
			t.Fatalf("the graph has no inputs that are of no use at run time: %q", want)
		}
		l.push(t, "--build-closure", top)
		equalPaths(t, "cache", l.cached(t), sorted(want, l.closure(t, top)))
		checkWhole(t, l.cache)
		l.verify(t)

		// By its derivation, and what of it is there.
		gone := l.outputs(t, slices.DeleteFunc(l.derivations(t, standardGraph), func(drv string) bool {
			return !strings.HasSuffix(drv, "-names.drv")
		})...)
		l.run(t, "nix-store", "--delete", top, gone[0])
		l.cache = filepath.Join(tempDir(t), "cache")
		l.push(t, append([]string{"--build-closure"}, drv...)...)
		left := slices.DeleteFunc(want, func(path string) bool { return path == top || path == gone[0] })
		equalPaths(t, "cache of what is left", l.cached(t), left)
	})
}

func TestWhatHasNoDerivationIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	source := m.addSource(t, "source")
	built := m.buildOne(t, "built")
	drv := m.query(t, "--deriver", built)[0]
	r := refusal{1, "find derivation of " + source + ": Nix does not know", "name a .drv"}
	r.changesNothing(t, m, "larder", "push", "--cache", "cache", "--build-closure", source)
	m.run(t, "larder", "push", "--cache", "cache", "--with-drvs", source, built)
	m.run(t, "nix-store", "--delete", "--option", "keep-derivations", "false", drv)
	r = refusal{1, "find derivation of " + built + ": " + drv + " is not in the store", "nix-instantiate"}
	r.changesNothing(t, m, "larder", "push", "--cache", "cache", "--build-closure", built)
	r.changesNothing(t, m, "larder", "push", "--cache", "cache", "--with-drvs", built)
}

// What was built can be looked at, and built again, on a machine that has nothing else.
func TestDerivationsComeWithWhatWasBuilt(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--with-drvs")
		outs := l.built(t, standardGraph)
		other := l.instantiate(t, "--expr", oneExpr("never-built"))[0]
		drvs := l.derivations(t, standardGraph)
		l.drain(t)
		l.nothingLeft(t)
		want := sorted(l.closure(t, outs...), l.closure(t, drvs...))
		equalPaths(t, "cache", l.cached(t), want)
		if slices.Contains(want, other) {
			t.Fatalf("%s was not to be built", other)
		}

		top := l.instantiate(t, standardGraph)[0]
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				fresh := newMachine(t, n)
				fresh.run(t, "nix", "copy", "--derivation", "--from", "file://"+l.cache, "--no-check-sigs", top)
				equalPaths(t, "derivations", fresh.query(t, "--requisites", top), l.closure(t, top))
				if got := fresh.lines(t, "nix-store", "--realise", top); !slices.Equal(got, l.outputs(t, top)) {
					t.Errorf("built %q, want %q", got, l.outputs(t, top))
				}
			})
		}
	})
}

// A rule that comes later is for all that was built since init.
func TestDerivationsAreFetchedUpWithLater(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	outs := l.built(t, standardGraph)
	drvs := l.derivations(t, standardGraph)
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), l.closure(t, outs...))
	equalPaths(t, "larder sync --dry-run", l.planned(t), nil)
	l.run(t, "larder", "init", "--with-drvs")
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), sorted(l.closure(t, outs...), l.closure(t, drvs...)))
	before := files(t, l.cache)
	l.drain(t)
	equalPaths(t, "larder sync --dry-run, with all of them", l.planned(t), nil)
	unchanged(t, "cache", before, files(t, l.cache))
}

// Derivations of both kinds are kept: what was asked for, and what that came
// down to.
func TestDerivationsOfContentAddressedBuildsAreKept(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		cache := filepath.Join(tempDir(t), "cache")
		m := newCAMachine(t, n)
		top := m.lines(t, "larder", "run", "--with-drvs", "--cache", cache, "--strict", "--", "nix-build", "--no-out-link", caGraph)
		checkRealised(t, cache)
		l := &larder{machine: m, cache: cache}
		cached := l.cached(t)
		for _, deriver := range m.query(t, "--deriver", top...) {
			if _, _, exit := m.tryRun(t, "nix-store", "--check-validity", deriver); exit == 0 {
				hasPaths(t, "cache", cached, m.closure(t, deriver))
			}
		}
		if m.version[:4] != "2.34" { // which calls no hook for what was asked for
			hasPaths(t, "cache", cached, m.closure(t, m.instantiate(t, caGraph)...))
		}
		comesFrom(t, n, cache, top, caGraph)
	})
}
