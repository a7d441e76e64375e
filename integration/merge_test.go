package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A merged is what larder merge --json prints.
type merged struct {
	Cache       string     `json:"cache"`
	Added       int        `json:"added"`
	Present     int        `json:"present"`
	Mended      int        `json:"mended"`
	Signatures  int        `json:"signatures"`
	Relying     int        `json:"relying_on_others"`
	LinkedBytes int64      `json:"linked_bytes"`
	CopiedBytes int64      `json:"copied_bytes"`
	Conflicts   []struct{} `json:"conflicts"`
	Damaged     []struct{} `json:"damaged"`
	LeftOut     []string   `json:"left_out"`
}

// merge merges caches on the machine, into the first one.
func (m *machine) merge(t *testing.T, args ...string) merged {
	t.Helper()
	var r merged
	must(t, json.Unmarshal([]byte(m.run(t, append([]string{"larder", "merge", "--json", "--cache"}, args...)...)), &r))
	return r
}

// A matrix is what three jobs have left that built overlapping graphs: two with
// larder, and one with Nix alone.
type matrix struct {
	caches []string
	keys   []string // of the first and the last one
	chain  []string // what all of them have at least in part
	want   []string
	dumps  map[string]string
}

func newMatrix(t *testing.T, n nix) matrix {
	t.Helper()
	one := newLarder(t, n)
	one.build(t, chain("3")...)
	one.drain(t)

	two, _ := builtElsewhere(t, n, chain("6")...)

	three := newLarder(t, n, "--compression", "none")
	x := matrix{caches: []string{one.cache, two, three.cache}, chain: three.build(t, chain("4")...)}
	three.build(t, standardGraph)
	three.drain(t)

	for _, l := range []*larder{one, three} {
		secret, public := l.newKey(t, "job-"+filepath.Base(filepath.Dir(l.cache)))
		l.run(t, append([]string{"nix", "store", "sign", "--store", "file://" + l.cache, "--key-file", secret}, l.cached(t)...)...)
		x.keys = append(x.keys, public)
	}
	three.build(t, chain("6")...)
	outs := slices.Concat(three.outputs(t, three.derivations(t, standardGraph)...), three.outputs(t, three.derivations(t, chain("6")...)...))
	x.want = three.closure(t, outs...)
	x.dumps = three.dumps(t, x.want)
	return x
}

// What a matrix of CI jobs is for: each builds its part, and the next run has all.
func TestMergedCachesOfAMatrixGiveEverythingBackOnEveryNix(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		x := newMatrix(t, n)
		m := newMachine(t, n).with("NIX_STATE_DIR=/nowhere", "NIX_STORE_DIR=/nowhere/store")
		cache := filepath.Join(tempDir(t), "merged")
		r := m.merge(t, append([]string{cache}, x.caches...)...)
		l := &larder{machine: m, cache: cache}
		equalPaths(t, "merged cache", l.cached(t), x.want)
		if r.Added != len(x.want) || r.LinkedBytes == 0 || r.CopiedBytes > 0 || r.Relying > 0 || len(r.Conflicts)+len(r.Damaged)+len(r.LeftOut) > 0 {
			t.Errorf("result is %+v, want %d added, all linked", r, len(x.want))
		}
		if r.Signatures != 4 {
			t.Errorf("%d signatures were added, want those of the last job for its 4 items, which others had before", r.Signatures)
		}
		before := files(t, cache)
		if r := m.merge(t, append([]string{cache}, x.caches...)...); r.Present != len(x.want) || r.Added+r.Signatures > 0 {
			t.Errorf("second result is %+v, want all present", r)
		}
		unchanged(t, "a cache that has all", before, files(t, cache))

		// As a CI provider saves it.
		restored := tempDir(t)
		const save = `find . -type f -size +0 ! -path './.*' -print0 | tar --null --mtime=@0 -T - -cf - | tar -C "$1" -xf -`
		tar := exec.Command("sh", "-euc", save, "-", restored)
		tar.Dir = cache
		if out, err := tar.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		checkWhole(t, restored)
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				own := filepath.Join(tempDir(t), "restored")
				must(t, os.CopyFS(own, os.DirFS(restored)))
				comesBack(t, n, withFolders(t, own), x.want, x.dumps)
				for _, key := range x.keys {
					if stderr, ok := substitutes(t, n, x.chain[2], []string{key}, "file://"+own); !ok {
						t.Errorf("with the key %s: %s", key, stderr)
					}
				}
				if _, ok := substitutes(t, n, x.chain[2], nil, "file://"+own); ok {
					t.Error("it needs no key at all")
				}
			})
		}
	})
}

// withFolders has larder make again what an archive has lost, as the next job does.
func withFolders(t *testing.T, cache string) string {
	t.Helper()
	empty := filepath.Join(tempDir(t), "empty")
	m := newMachine(t, nixes[0])
	m.run(t, "larder", "init", "--cache", empty)
	m.merge(t, cache, empty)
	return cache
}

// What a cache leaves to its base, the merged one does, and it says so.
func TestMergedCacheReliesOnTheBaseOfItsSources(t *testing.T) {
	t.Parallel()
	l, base, inBase := baseLarder(t, nixes[0])
	items := l.build(t, chain("4")...)
	l.drain(t)
	cache := filepath.Join(tempDir(t), "merged")
	if r := l.merge(t, cache, "file://"+l.cache); r.Added != 2 || r.Relying != 1 {
		t.Errorf("result is %+v, want 2 added of which 1 relies on the base", r)
	}
	if stderr, ok := substitutes(t, nixes[0], items[3], nil, "file://"+cache+"?trusted=true", "file://"+base+"?trusted=true"); !ok {
		t.Errorf("with the base: %s", stderr)
	}
	if r := l.merge(t, cache, base); r.Added != len(inBase) || r.Relying != 0 {
		t.Errorf("result is %+v, want the base's %d added", r, len(inBase))
	}
	checkWhole(t, cache)
}

func TestMergeOfADamagedCacheSaysSoAndDoesTheRest(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	items := l.build(t, chain("4")...)
	other := l.buildOne(t, "other")
	l.drain(t)
	must(t, os.Remove(filepath.Join(l.cache, entries(t, l.cache)[items[1]].nar)))
	merged := &larder{machine: l.machine, cache: filepath.Join(tempDir(t), "merged")}
	stdout, stderr, exit := l.tryRun(t, "larder", "merge", "--quiet", "--cache", merged.cache, l.cache)
	if exit != 1 || !strings.HasPrefix(stdout, "added 2 entries to file://"+merged.cache) {
		t.Errorf("exit %d, stdout %q", exit, stdout)
	}
	for _, want := range []string{
		"larder: warning: " + items[1] + " in " + l.cache + ": entry is damaged: ",
		"larder: warning: " + items[2] + " needs one that is damaged; left out\n",
		"larder: warning: " + items[3] + " needs one that is damaged; left out\n",
		"larder: error: left out 1 damaged entries, and 2 that need them; merged the rest\nlarder: hint: ",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stderr is %s, want %q in it", stderr, want)
		}
	}
	equalPaths(t, "merged cache", merged.cached(t), slices.Sorted(slices.Values([]string{items[0], other})))
	checkWhole(t, merged.cache)
	merged.verify(t)
}

// Two jobs that build the same path differently.
func TestMergeKeepsTheFirstOfTwoBuilds(t *testing.T) {
	t.Parallel()
	const expr = `import /larder/graphs/derive.nix "random" { } "od -N16 /dev/urandom > $out"`
	var caches []string
	var path string
	for range 2 {
		l := newLarder(t, nixes[0])
		path = l.build(t, "--expr", expr)[0]
		l.drain(t)
		caches = append(caches, l.cache)
	}
	m := newMachine(t, nixes[0])
	cache := filepath.Join(tempDir(t), "merged")
	stdout, stderr, exit := m.tryRun(t, "larder", "merge", "--cache", cache, caches[0], caches[1])
	if exit != 0 || !strings.HasPrefix(stdout, "added 1 entries") {
		t.Errorf("exit %d, stdout %q", exit, stdout)
	}
	if want := "larder: warning: " + path + " is another one in " + caches[1] + "; kept that of " + caches[0] + "\n"; withoutProgress(stderr) != want {
		t.Errorf("stderr is %q, want %q", stderr, want)
	}
	if got, want := entries(t, cache)[path].nar, entries(t, caches[0])[path].nar; got != want {
		t.Errorf("NAR is %s, want %s", got, want)
	}
}

func TestMergeRefusesWhatItCannotMerge(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.buildOne(t, "built")
	l.drain(t)
	elsewhere := tempDir(t)
	must(t, os.WriteFile(filepath.Join(elsewhere, "nix-cache-info"), []byte("StoreDir: /other/store\n"), 0o644))
	target := filepath.Join(tempDir(t), "merged")
	for _, c := range []struct {
		refusal
		args []string
	}{
		{refusal{2, "no cache to merge is named", "larder merge --cache DIR DIR…"}, []string{"--cache", target}},
		{refusal{2, "no cache to merge into is named", "larder merge --cache DIR DIR…"}, []string{l.cache}},
		{refusal{2, "is to be merged into itself", "other caches"}, []string{"--cache", l.cache, l.cache + "/."}},
		{refusal{2, "-nonsense", "larder merge --help"}, []string{"--cache", target, l.cache, "--nonsense"}},
		{refusal{1, "cache is for another store directory: /other/store, want /nix/store", "each store directory"}, []string{"--cache", target, l.cache, elsewhere}},
		{refusal{1, "cache is for another store directory: /nix/store, want /other/store", "each store directory"}, []string{"--cache", elsewhere, l.cache}},
		{refusal{1, "has no nix-cache-info", "nix-cache-info in it"}, []string{"--cache", target, l.cache, filepath.Dir(target)}},
	} {
		c.changesNothing(t, l.machine, append([]string{"larder", "merge"}, c.args...)...)
		if _, err := os.Stat(target); err == nil {
			t.Errorf("%q made a cache", c.args)
		}
	}
}
