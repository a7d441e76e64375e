package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// baseLarder is newLarder with a base: a cache that Nix made, with the first two of a
// chain, which is built up to count. args are further ones for init.
func baseLarder(t *testing.T, n nix, args ...string) (l *larder, base string, inBase []string) {
	t.Helper()
	base, inBase = builtElsewhere(t, n, chain("2")...)
	l = newLarder(t, n, append([]string{"--base", base}, args...)...)
	l.unconfigure(t)
	l.configure(t, l.conf[0]) // without the substituter: what is built stays a build
	return l, base, inBase
}

// What a base has is not written again, and the base not at all.
func TestOnlyWhatABaseHasNotIsWritten(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, base, inBase := baseLarder(t, n)
		before := files(t, base)
		must(t, l.inside(func() error { // from here on larder could not, if it wanted to
			if err := unix.Mount(base, base, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Mount("", base, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}))
		items := l.build(t, chain("4")...)
		l.drain(t)
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values(items[2:])))
		unchanged(t, "base", before, files(t, base))
		if e := l.explained(t, inBase[0]); e.State != "base" || e.Base != "file://"+base {
			t.Errorf("explained is %+v", e)
		}
		if e := l.explained(t, items[2]); e.State != "cached" || e.MissingReferences != nil || e.Missing != nil {
			t.Errorf("explained is %+v", e)
		}
		if rules := l.fullStatus(t).Rules; len(rules["bases"].([]any)) != 1 || rules["bases"].([]any)[0] != "file://"+base {
			t.Errorf("rules are %v", rules)
		}
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				if stderr, ok := substitutes(t, n, items[3], nil, "file://"+l.cache+"?trusted=true", "file://"+base+"?trusted=true"); !ok {
					t.Errorf("with the base: %s", stderr)
				}
			})
		}
		if stderr, ok := substitutes(t, n, items[3], nil, "file://"+l.cache+"?trusted=true"); ok {
			t.Errorf("the cache alone has all: %s", stderr)
		}
	})
}

// A base may be anybody's, as long as it can be read.
func TestBaseMayBelongToSomebodyElse(t *testing.T) {
	t.Parallel()
	base, _ := builtElsewhere(t, nixes[0], chain("2")...)
	l, _ := userWatcher(t, nixes[0])
	before := files(t, base)
	l.run(t, "sh", "-euc", "cd "+filepath.Dir(base)+"; larder init --queue ~/q/queue.db --base "+filepath.Base(base))
	items := l.as(bob).build(t, chain("3")...)
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values(append(items[2:], l.sources(t)...))))
	unchanged(t, "base", before, files(t, base))
}

// sources returns what an evaluation has added to the store.
func (l *larder) sources(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(noDrvs(l.asRoot().validPaths(t)), func(path string) bool {
		return l.asRoot().run(t, "nix-store", "--query", "--deriver", path) != "unknown-deriver"
	})
}

// Half an entry is none.
func TestDamagedEntryOfABaseCountsAsMissing(t *testing.T) {
	t.Parallel()
	l, base, inBase := baseLarder(t, nixes[0])
	damaged := inBase[slices.IndexFunc(inBase, func(path string) bool { return strings.HasSuffix(path, "-item-1") })]
	must(t, os.Remove(filepath.Join(base, entries(t, base)[damaged].nar)))
	before := files(t, base)
	items := l.build(t, chain("3")...)
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values([]string{items[0], items[2]})))
	unchanged(t, "base", before, files(t, base))
}

// To copy what a base has would fill the cache because of a disk that is not mounted.
func TestJobsWaitForABaseThatIsAway(t *testing.T) {
	for name, away := range map[string]func(t *testing.T, base string) (back func()){
		"moved away": func(t *testing.T, base string) func() {
			must(t, os.Rename(base, base+".away"))
			return func() { must(t, os.Rename(base+".away", base)) }
		},
		"deleted and restored": func(t *testing.T, base string) func() {
			must(t, os.CopyFS(base+".copy", os.DirFS(base)))
			must(t, os.RemoveAll(base))
			return func() { must(t, os.Rename(base+".copy", base)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, base, _ := baseLarder(t, nixes[0])
			d := l.startWorker(t, "--poll", "50ms")
			back := away(t, base)
			items := l.build(t, chain("3")...)
			d.waitFor(t, base+": ") // whichever of its errors comes first
			for _, j := range l.status(t).Jobs {
				if j.Attempts > 0 || j.State == "dead" {
					t.Errorf("a job is made to pay for it: %+v", j)
				}
			}
			if cached := l.cached(t); cached != nil {
				t.Errorf("the cache has %q", cached)
			}
			back()
			eventually(t, "the worker", func() bool { return len(l.queued(t)) == 0 })
			equalPaths(t, "cache", l.cached(t), items[2:])
			if d.ended() {
				t.Errorf("ended: %v", d)
			}
		})
	}
}

func TestNothingIsDoneWithoutABase(t *testing.T) {
	t.Parallel()
	l, base, _ := baseLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	must(t, os.Rename(base, base+".away"))
	no := refusal{1, base, "--base '' none"}
	for _, args := range [][]string{{"daemon"}, {"drain"}, {"sync"}, {"sync", "--dry-run"}, {"explain", path}, {"init", "--base", base}} {
		no.changesNothing(t, l.machine, append([]string{"larder"}, args...)...)
	}
	l.run(t, "larder", "init", "--base", "")
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
}
