package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// pusher is a machine without hook or queue, in which something was built.
func pusher(t *testing.T, n nix) (l *larder, top string) {
	t.Helper()
	l = &larder{machine: newMachine(t, n), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
	return l, l.build(t, standardGraph)[0]
}

func (l *larder) push(t *testing.T, args ...string) string {
	t.Helper()
	return l.run(t, append([]string{"larder", "push", "--cache", l.cache}, args...)...)
}

func TestPushCopiesClosuresAndNothingElse(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		l.buildOne(t, "something-else")
		want := l.closure(t, top)
		doc := slices.DeleteFunc(l.outputs(t, l.derivations(t, standardGraph)...), func(path string) bool {
			return !strings.HasSuffix(path, "-lib-doc")
		})[0]
		if slices.Contains(want, doc) {
			t.Fatalf("%s is in the closure of %s", doc, top)
		}
		l.push(t, top)
		equalPaths(t, "cache", l.cached(t), want)
		checkWhole(t, l.cache)
		l.verify(t)
		newMachine(t, n).substitute(t, l.cache, top)

		l.push(t, top, doc) // now that is new
		equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values(append(want, l.closure(t, doc)...))))
		if _, err := os.Stat(filepath.Dir(l.host(l.queue))); err == nil {
			t.Error("push made a queue")
		}
	})
}

func TestSecondPushChangesNothing(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		outs := l.outputs(t, l.derivations(t, standardGraph)...)
		l.push(t, outs...)
		before := files(t, l.cache)
		if out := l.push(t, outs...); !strings.HasPrefix(out, "copied 0 of ") {
			t.Errorf("it says %q", out)
		}
		l.push(t, top, top, top)
		l.push(t, "--compression", "none", top) // is for what is new
		unchanged(t, "cache", before, files(t, l.cache))
	})
}

// A derivation is a store path as well.
func TestPushTakesDerivationsAndSources(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := pusher(t, n)
		drv := l.instantiate(t, standardGraph)[0]
		want := l.closure(t, drv)
		l.push(t, drv)
		equalPaths(t, "cache", l.cached(t), want)
		fresh := newMachine(t, n)
		fresh.run(t, "nix", "copy", "--derivation", "--no-check-sigs", "--from", "file://"+l.cache, drv)
		equalPaths(t, "store", fresh.validPaths(t), want)
	})
}

// However a path is named: what counts is the store path.
func TestPushTakesWhateverNamesAStorePath(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	l.run(t, "nix-build", standardGraph) // makes ./result
	l.run(t, "ln", "-s", "result", "link-to-result")
	for name, arg := range map[string]string{
		"itself":             top,
		"something inside":   top + "/left/deeper/than/that",
		"a result":           "./result",
		"a result's name":    "result",
		"a link to a result": "link-to-result",
		"with a slash":       top + "/",
	} {
		t.Run(name, func(t *testing.T) {
			here := *l
			here.cache = filepath.Join(tempDir(t), "cache")
			here.push(t, arg)
			equalPaths(t, "cache", here.cached(t), l.closure(t, top))
		})
	}
}

// A store path that is itself a link is what ./result means, not what it links to.
func TestPushOfAResultThatIsALink(t *testing.T) {
	t.Parallel()
	l := &larder{machine: newMachine(t, nixes[0]), cache: filepath.Join(tempDir(t), "cache")}
	l.run(t, "nix-build", "--expr", `let d = import /larder/graphs/derive.nix; in d "link" { } "ln -s ${d "target" { } "echo target > $out"} $out"`)
	link := l.run(t, "readlink", "result")
	if !strings.HasSuffix(link, "-link") {
		t.Fatalf("result is %s", link)
	}
	l.push(t, "./result")
	equalPaths(t, "cache", l.cached(t), l.closure(t, link))
}

func TestPushReadsPathsFromStdin(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	one, other := l.buildOne(t, "one"), l.buildOne(t, "other")
	push := "larder push --cache " + l.cache + " --stdin "
	l.run(t, "sh", "-euc", "printf '"+one+"\\n\\n  "+other+"  ' | "+push+top)
	equalPaths(t, "cache", l.cached(t), l.closure(t, one, other, top))
	before := files(t, l.cache)
	l.run(t, "sh", "-euc", push+"< /dev/null") // nothing is asked, nothing is done
	refusal{1, `"nonsense" is not a store path`, "/nix/store/<hash>-<name>"}.of(t, l.machine, "sh", "-euc", "echo nonsense | "+push)
	unchanged(t, "cache", before, files(t, l.cache))
}

func TestPushesAtOnceDoNotDisturbEachOther(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := pusher(t, n)
		outs := append(l.outputs(t, l.derivations(t, standardGraph)...),
			l.build(t, manyGraph, "--arg", "count", "30", "--arg", "chained", "true")...)
		slices.Sort(outs)
		var all sync.WaitGroup
		var pushes []*process
		for range 4 {
			p := l.start(t, append([]string{"larder", "push", "--cache", l.cache}, outs...)...)
			pushes = append(pushes, p)
		}
		done := make(chan struct{})
		all.Go(func() { // whoever reads meanwhile
			for {
				checkWhole(t, l.cache)
				select {
				case <-done:
					return
				default:
				}
			}
		})
		for _, p := range pushes {
			p.endsWell(t)
		}
		close(done)
		all.Wait()
		equalPaths(t, "cache", l.cached(t), l.closure(t, outs...))
		checkWhole(t, l.cache)
		l.verify(t)
		for _, dir := range []string{".larder/tmp", "."} {
			left, err := filepath.Glob(filepath.Join(l.cache, dir, "*[0-9]-[A-Z0-9]*"))
			must(t, err)
			if len(left) > 0 {
				t.Errorf("unfinished files are left: %q", left)
			}
		}
	})
}

// The user's queue says which cache it is, if nothing else does.
func TestPushGoesToTheCacheOfTheQueue(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--compression", "none")
	path := l.buildWithoutHook(t, "--expr", oneExpr("built"))[0].outs[0]
	l.run(t, "larder", "push", path)
	equalPaths(t, "cache", l.cached(t), []string{path})
	hasCompression(t, l.cache, "none")
	l.nothingLeft(t)
}

// A user pushes from the store of all to a cache of her own.
func TestUserPushesToHerOwnCache(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		m.startDaemon(t)
		m.hold(t)
		l := &larder{machine: m.as(alice), cache: m.host("/home/alice/cache")}
		top := l.build(t, standardGraph)[0]
		l.run(t, "larder", "push", "--cache", "cache", top)
		equalPaths(t, "cache", l.cached(t), m.closure(t, top))
		m.ownedBy(t, alice, "/home/alice/cache", "/home/alice/cache/nar", "/home/alice/cache/nix-cache-info")
	})
}
