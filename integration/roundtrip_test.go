package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A build with the hook, a drain, and an empty machine of any version that wants
// it back: what larder is for.
func TestWhatIsBuiltComesBackFromTheCacheOnEveryNix(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, compression := range []string{"zstd", "none"} {
			t.Run(compression, func(t *testing.T) {
				t.Parallel()
				l := newLarder(t, n, "--compression", compression)
				outs := l.built(t, standardGraph)
				hasKinds(t, outs)
				if roots := l.rooted(t); !slices.Equal(roots, outs) {
					t.Errorf("rooted is %q, want %q", roots, outs)
				}
				if queued := l.queued(t); !slices.Equal(queued, outs) {
					t.Errorf("queued is %q, want %q", queued, outs)
				}
				l.drain(t)
				l.nothingLeft(t)
				hasCompression(t, l.cache, compression)

				want := l.closure(t, outs...)
				equalPaths(t, "cache", l.cached(t), want)
				dumps := l.dumps(t, want)
				for _, n := range nixes {
					t.Run("to "+n.name, func(t *testing.T) {
						t.Parallel()
						comesBack(t, n, l.cache, want, dumps)
					})
				}
			})
		}
	})
}

// comesBack fetches paths into empty machines, in both ways that Nix has.
func comesBack(t *testing.T, n nix, cache string, want []string, dumps map[string]string) {
	t.Helper()
	url := "file://" + cache
	before := files(t, cache)
	for how, fetch := range map[string]func(*machine){
		"substituted": func(m *machine) { m.substitute(t, cache, want...) },
		"copied": func(m *machine) {
			m.run(t, append([]string{"nix", "copy", "--from", url, "--no-check-sigs"}, want...)...)
		},
	} {
		fresh := newMachine(t, n)
		if paths := fresh.validPaths(t); paths != nil {
			t.Fatalf("a fresh machine has %q", paths)
		}
		fetch(fresh)
		equalPaths(t, how, fresh.validPaths(t), want)
		for path, dump := range fresh.dumps(t, want) {
			if dump != dumps[path] {
				t.Errorf("%s: dump of %s is %s, want %s", how, path, dump, dumps[path])
			}
		}
		fresh.run(t, "nix-store", "--verify", "--check-contents")
	}

	reader := newMachine(t, n)
	listed := reader.lines(t, append([]string{"nix", "path-info", "--recursive", "--store", url}, want...)...)
	slices.Sort(listed)
	equalPaths(t, "nix path-info", listed, want)
	reader.run(t, "nix", "store", "verify", "--store", url, "--all", "--no-trust")
	unchanged(t, "a cache that was read", before, files(t, cache))
}

// dumps returns a hash of what nix-store --dump says of each path: not what Nix
// remembers of it, but what it is.
func (m *machine) dumps(t *testing.T, paths []string) map[string]string {
	t.Helper()
	lines := m.lines(t, append([]string{"sh", "-euc", `for path; do nix-store --dump "$path" | sha256sum; done`, "-"}, paths...)...)
	if len(lines) != len(paths) {
		t.Fatalf("%d dumps of %d paths", len(lines), len(paths))
	}
	dumps := make(map[string]string)
	for i, path := range paths {
		dumps[path], _, _ = strings.Cut(lines[i], " ")
	}
	return dumps
}

// hasKinds makes sure that the standard graph still has what is easy to forget.
func hasKinds(t *testing.T, outs []string) {
	t.Helper()
	for _, name := range []string{"lib", "lib-dev", "lib-doc", "fetched", "fetched-tree", "names", "empty-dir", "empty-file", "script", "link", "top"} {
		if !slices.ContainsFunc(outs, func(path string) bool { return path[len("/nix/store/")+33:] == name }) {
			t.Errorf("the graph has no %s", name)
		}
	}
}

// hasCompression fails the test if a NAR in the cache is not compressed as asked.
func hasCompression(t *testing.T, cache, compression string) {
	t.Helper()
	ending := map[string]string{"zstd": ".nar.zst", "xz": ".nar.xz", "none": ".nar"}[compression]
	for path, n := range entries(t, cache) {
		if !strings.HasSuffix(n.nar, ending) {
			t.Errorf("NAR of %s is %s, want a name with %s", path, n.nar, ending)
		}
		narinfo, err := os.ReadFile(filepath.Join(cache, filepath.Base(path)[:32]+".narinfo"))
		must(t, err)
		if !strings.Contains(string(narinfo), "\nCompression: "+compression+"\n") {
			t.Errorf("compression is not %s in %s", compression, narinfo)
		}
	}
}

// If this one fails, tests that trust nix store verify say nothing.
func TestNixSeesADamagedEntry(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--compression", "none")
		path := l.buildOne(t, "damaged")
		l.drain(t)
		l.verify(t)
		nar := filepath.Join(l.cache, entries(t, l.cache)[path].nar)
		text, err := os.ReadFile(nar)
		must(t, err)
		must(t, os.WriteFile(nar, []byte(strings.Replace(string(text), "damaged\n", "changed\n", 1)), 0o644))
		if _, stderr, exit := l.tryRun(t, "nix", "store", "verify", "--store", "file://"+l.cache, "--all", "--no-trust"); exit == 0 {
			t.Errorf("nix store verify is content: %s", stderr)
		}
	})
}

// Of what Nix built before the hook was set, nothing is in the queue. What needs
// it brings it along.
func TestInputsFromBeforeTheHookAreInTheCacheToo(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		const expr = `let d = import /larder/graphs/derive.nix; old = d "old" { } "echo old > $out"; new = d "new" { } "echo ${old} > $out"; in `
		old := l.build(t, "--option", "post-build-hook", "", "--expr", expr+"old")
		if queued := l.queued(t); queued != nil {
			t.Fatalf("queued without a hook: %q", queued)
		}
		later := l.build(t, "--expr", expr+"new")
		if queued := l.queued(t); !slices.Equal(queued, later) {
			t.Errorf("queued is %q, want %q", queued, later)
		}
		l.drain(t)
		want := slices.Sorted(slices.Values(slices.Concat(old, later)))
		equalPaths(t, "cache", l.cached(t), want)
	})
}

// Nix calls no hook for what it fetches.
func TestWhatComesFromTheCacheIsNotQueuedAgain(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.build(t, standardGraph)
		l.drain(t)
		before := files(t, l.cache)
		l.collectGarbage(t)
		l.build(t, standardGraph, "--max-jobs", "0") // init's lines name the cache as a substituter
		l.nothingLeft(t)
		unchanged(t, "cache", before, files(t, l.cache))
	})
}

// Nix hides from a file system that it takes to know no case what it would mix up; a
// NAR has the names as they were.
func TestUseCaseHackOfNixConfIsFollowed(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := &larder{machine: newMachine(t, n, "use-case-hack = true"), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
		dir := filepath.Join(tempDir(t), "dir")
		must(t, os.Mkdir(dir, 0o755))
		for _, name := range []string{"A", "a"} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
		}
		path := l.run(t, "nix-store", "--add", dir)
		entries, err := os.ReadDir(l.host(path))
		must(t, err)
		if len(entries) != 2 || entries[1].Name() != "a~nix~case~hack~1" {
			t.Fatalf("in the store is %v", entries)
		}
		l.push(t, path)
		fresh := newMachine(t, n) // has a file system that knows case
		fresh.substitute(t, l.cache, path)
		for _, name := range []string{"A", "a"} {
			text, err := os.ReadFile(filepath.Join(fresh.host(path), name))
			if err != nil || string(text) != name {
				t.Errorf("%s has %q: %v", name, text, err)
			}
		}
	})
}
