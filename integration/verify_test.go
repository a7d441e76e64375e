package integration

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A verified is what a test wants to know of what larder verify --json prints.
type verified struct {
	Entries  int `json:"entries"`
	Nars     int `json:"nars"`
	Problems []struct {
		Kind   string `json:"kind"`
		File   string `json:"file"`
		Path   string `json:"path"`
		Error  string `json:"error"`
		Action string `json:"action"`
		Why    string `json:"why"`
	} `json:"problems"`
	Notes []struct {
		File string `json:"file"`
	} `json:"notes"`
}

// verified runs larder verify, and fails the test if it does not end as it should.
func (l *larder) verified(t *testing.T, exit int, args ...string) (v verified) {
	t.Helper()
	stdout, stderr, got := l.tryRun(t, append([]string{"larder", "verify", "--cache", l.cache, "--json", "--quiet"}, args...)...)
	if got != exit {
		t.Errorf("larder verify %q ends with %d, want %d: %s%s", args, got, exit, stdout, stderr)
	}
	must(t, json.Unmarshal([]byte(stdout), &v))
	return v
}

// actions returns what became of which store paths, sorted.
func (v verified) actions() (all []string) {
	for _, p := range v.Problems {
		all = append(all, p.Path+" "+p.Action)
	}
	slices.Sort(all)
	return all
}

// damageAll does something else to each of some entries, and returns those.
func (l *larder) damageAll(t *testing.T) (damaged []string) {
	t.Helper()
	all := entries(t, l.cache)
	var nars []string
	for i, path := range l.cached(t) {
		nar := filepath.Join(l.cache, all[path].nar)
		if slices.Contains(nars, nar) {
			continue // it is somebody else's as well
		}
		nars = append(nars, nar)
		switch i % 5 {
		case 0:
			must(t, os.Truncate(filepath.Join(l.cache, filepath.Base(path)[:32]+".narinfo"), 0))
		case 1:
			must(t, os.Remove(nar))
		case 2:
			must(t, os.Truncate(nar, all[path].size-1))
		case 3:
			text, err := os.ReadFile(nar)
			text[len(text)/2] ^= 4
			must(t, errors.Join(err, os.WriteFile(nar, text, 0o644)))
		default:
			continue
		}
		damaged = append(damaged, path)
	}
	return damaged
}

// What larder mends, every Nix reads, and what was mended by one is as all write it.
func TestVerifyMendsFromTheStoreWhatEveryNixReads(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := pusher(t, n)
		want := l.outputs(t, l.derivations(t, standardGraph)...)
		l.push(t, want...)
		want = l.cached(t)
		dumps := l.dumps(t, want)
		texts := make(map[string]string)
		for _, path := range want {
			texts[path] = narInfoText(t, l.cache, path)
		}
		if v := l.verified(t, 0, "--contents"); v.Entries != len(want) || v.Nars == 0 || v.Problems == nil || len(v.Problems) > 0 {
			t.Errorf("of a whole cache it says %+v", v)
		}
		damaged := l.damageAll(t)
		before := files(t, l.cache)
		if v := l.verified(t, 5, "--contents"); len(v.Problems) < len(damaged) {
			t.Errorf("found are %+v, want %q", v.Problems, damaged)
		}
		if v := l.verified(t, 5); len(v.Problems) == 0 {
			t.Error("a quick check finds nothing")
		}
		unchanged(t, "a cache that was looked at", before, files(t, l.cache))
		for _, p := range l.verified(t, 0, "--contents", "--repair").Problems {
			if p.Action != "rewritten" || p.Why != "" {
				t.Errorf("became %+v", p)
			}
		}
		l.verified(t, 0, "--contents")
		checkWhole(t, l.cache)
		l.verify(t)
		for _, path := range want {
			if text := narInfoText(t, l.cache, path); text != texts[path] {
				t.Errorf("the narinfo is\n%s, was\n%s", text, texts[path])
			}
		}
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				fresh := newMachine(t, n)
				fresh.substitute(t, l.cache, want...)
				for path, dump := range fresh.dumps(t, want) {
					if dump != dumps[path] {
						t.Errorf("dump of %s is another one", path)
					}
				}
			})
		}
	})
}

// What nobody has any more is withdrawn, and built where it is needed, without fallback.
func TestVerifyWithdrawsWhatNobodyHas(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		l.push(t, top)
		all := entries(t, l.cache)
		base := slices.DeleteFunc(l.closure(t, top), func(path string) bool { return len(all[path].references) > 0 || path == top })[0]
		l.collectGarbage(t)
		must(t, os.Remove(filepath.Join(l.cache, all[base].nar)))
		gone := []string{base}
		for again := true; again; {
			again = false
			for path, n := range all {
				if all[path].nar == all[base].nar && !slices.Contains(gone, path) || !slices.Contains(gone, path) && slices.ContainsFunc(n.references, func(ref string) bool { return slices.Contains(gone, ref) }) {
					gone, again = append(gone, path), true
				}
			}
		}
		var want []string
		for _, path := range gone {
			want = append(want, path+" withdrawn")
		}
		slices.Sort(want)
		if got := l.verified(t, 0, "--contents", "--repair").actions(); !slices.Equal(got, want) {
			t.Errorf("became %q, want %q", got, want)
		}
		l.verified(t, 0, "--contents")
		checkWhole(t, l.cache)
		l.verify(t)
		l.configure(t, "substituters = file://"+l.cache+"?trusted=true", "require-sigs = false")
		if got := l.build(t, standardGraph); got[0] != top {
			t.Errorf("built %q, want %s", got, top)
		}
	})
}

// Where the store can't be had, nothing is withdrawn that it may have.
func TestVerifyWithdrawsNothingWithoutAStoreUnlessItIsToldTo(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	l.push(t, top)
	must(t, os.Remove(filepath.Join(l.cache, entries(t, l.cache)[top].nar)))
	before := files(t, l.cache)
	elsewhere := &larder{machine: l.with("NIX_STATE_DIR=/nowhere"), cache: l.cache}
	stdout, stderr, exit := elsewhere.tryRun(t, "larder", "verify", "--cache", l.cache, "--repair")
	if exit != 1 || !strings.Contains(stderr, "larder: hint: ") || !strings.Contains(stdout, top) || strings.Contains(stdout, "all is well") {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
	if v := elsewhere.verified(t, 1, "--repair"); len(v.Problems) != 1 || v.Problems[0].Path != top || v.Problems[0].Action != "" {
		t.Errorf("nothing was repaired, but it says %+v", v)
	}
	unchanged(t, "cache", before, files(t, l.cache))
	if got := elsewhere.verified(t, 0, "--repair", "--no-store").actions(); !slices.Equal(got, []string{top + " withdrawn"}) {
		t.Errorf("became %q", got)
	}
	l.verified(t, 0)
}

// Settings that can't be read are nobody's but a person's to mend, and in the way of nothing.
func TestVerifyMendsACacheWhoseSettingsAreBroken(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	l.push(t, top)
	must(t, os.Remove(filepath.Join(l.cache, entries(t, l.cache)[top].nar)))
	must(t, os.WriteFile(filepath.Join(l.cache, ".larder/settings"), nil, 0o644))
	if got := l.verified(t, 5, "--repair").actions(); !slices.Equal(got, []string{" left", top + " rewritten"}) {
		t.Errorf("became %q", got)
	}
	refusal{1, "settings of cache", "remove it"}.of(t, l.machine, "larder", "recompress", "--remember", "--cache", l.cache)
	refusal{1, "settings of cache", "remove it"}.of(t, l.machine, "larder", "push", "--cache", l.cache, top)
	l.run(t, "larder", "push", "--cache", l.cache, "--compression", "zstd:1", top)
	must(t, os.Remove(filepath.Join(l.cache, ".larder/settings")))
	l.verified(t, 0, "--contents")
}

// Who evicts files may leave no directory behind.
func TestVerifySaysWhatIsWrongWithoutAnyNar(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	l.push(t, top)
	must(t, os.RemoveAll(filepath.Join(l.cache, "nar")))
	if v := l.verified(t, 5); len(v.Problems) != v.Entries+1 || v.Entries < 2 {
		t.Errorf("of %d entries without NARs, and the directory, it says %+v", v.Entries, v.Problems)
	}
	l.verified(t, 0, "--repair")
	l.verified(t, 0, "--contents")
}

// What a command relies on it does not take for present if its NAR is gone.
func TestEntryWithoutItsNarIsMendedOnTheWay(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		evict := func(l *larder, path string) {
			t.Helper()
			must(t, os.Remove(filepath.Join(l.cache, entries(t, l.cache)[path].nar)))
			if v := l.verified(t, 5); len(v.Problems) == 0 {
				t.Errorf("nothing is wrong without the NAR of %s", path)
			}
		}
		// A run, in a store that has nothing: Nix falls back to building it.
		l := &larder{machine: newMachine(t, n), cache: filepath.Join(tempDir(t), "cache")}
		const expr = `let d = import /larder/graphs/derive.nix; base = d "base" { } "echo base > $out"; in d "top" { } "echo ${base} > $out"`
		run := func() (top, base string) {
			t.Helper()
			top = l.run(t, "larder", "run", "--cache", l.cache, "--", "nix-build", "--no-out-link", "--expr", expr)
			return top, l.query(t, "--references", top)[0]
		}
		top, base := run()
		for _, path := range []string{top, base} {
			l.collectGarbage(t)
			evict(l, path)
			run()
			l.verified(t, 0, "--contents")
		}

		// A daemon, which copies what needs it.
		d := newLarder(t, n)
		old := d.buildOne(t, "old")
		d.drain(t)
		evict(d, old)
		d.build(t, "--expr", `import /larder/graphs/derive.nix "new" { } "echo ${`+oneExpr("old")+`} > $out"`)
		d.drain(t)
		d.verified(t, 0, "--contents")
		if len(d.cached(t)) != 2 {
			t.Errorf("the cache has %q", d.cached(t))
		}
	})
}

// Listings, realisations and logs that Nix wrote are good, and what is not is mended.
func TestVerifyLooksAtWhatNixWritesBesideEntries(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newCAMachine(t, n)
		l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache")}
		url := "file://" + l.cache + "?write-nar-listing=1"
		m.build(t, caGraph)
		m.run(t, "nix", "copy", "--to", url, "--file", caGraph)
		tree := m.build(t, "--expr", `import /larder/graphs/derive.nix "tree" { } "mkdir -p $out/bin $out/share/empty; echo x > $out/bin/x; chmod +x $out/bin/x; ln -s ../bin/x $out/share/link; exit 0"`)
		m.run(t, "nix", "copy", "--to", url, tree[0])
		if v := l.verified(t, 0, "--contents", "--upstream=false"); len(v.Notes) != 1 || v.Notes[0].File != "build-trace-v2" { // which these versions do not know
			t.Errorf("notes: %+v", v.Notes)
		}
		if out, stderr, exit := m.tryRun(t, "larder", "doctor", "--cache", l.cache, "--json"); !strings.Contains(out, "build-trace-v2") || strings.Contains(out, `"severity":"problem","check":"cache"`) {
			t.Errorf("larder doctor exits with %d: %s%s", exit, out, stderr)
		}
		must(t, os.Mkdir(filepath.Join(l.cache, "build-trace-v2"), 0o755))
		if v := l.verified(t, 0, "--contents", "--upstream=false"); len(v.Notes) > 0 {
			t.Errorf("notes: %+v", v.Notes)
		}
		orphan := strings.Repeat("0", 32) + ".ls"
		must(t, os.WriteFile(filepath.Join(l.cache, orphan), []byte("{}"), 0o644))
		if v := l.verified(t, 0); len(v.Notes) != 1 || v.Notes[0].File != orphan {
			t.Errorf("notes: %+v", v.Notes)
		}

		listing := filepath.Join(l.cache, filepath.Base(tree[0])[:32]+".ls")
		want, err := os.ReadFile(listing)
		must(t, err)
		must(t, os.WriteFile(listing, []byte(strings.Replace(string(want), `"narOffset":`, `"narOffset":1`, 1)), 0o644))
		promises := len(realisations(t, l.cache))
		for name := range realisations(t, l.cache) {
			must(t, os.Truncate(filepath.Join(l.cache, name), 10))
			break
		}
		must(t, os.WriteFile(filepath.Join(l.cache, "log", filepath.Base(tree[0])+".drv"), []byte("BZh91AY&SYcut off"), 0o644))
		l.verified(t, 5, "--contents", "--upstream=false")
		v := l.verified(t, 0, "--repair", "--contents", "--upstream=false", "--no-store")
		for _, p := range v.Problems {
			if p.Action != map[string]string{"listing": "rewritten", "realisation": "withdrawn", "log": "removed"}[p.Kind] {
				t.Errorf("%+v", p)
			}
		}
		got, err := os.ReadFile(listing)
		must(t, err)
		var is, was any
		must(t, errors.Join(json.Unmarshal(got, &is), json.Unmarshal(want, &was)))
		if !reflect.DeepEqual(withoutFalse(is), withoutFalse(was)) {
			t.Errorf("listing is %s, Nix wrote %s", got, want)
		}
		l.verified(t, 0, "--contents", "--upstream=false")
		checkRealised(t, l.cache)
		if len(realisations(t, l.cache)) >= promises {
			t.Error("nothing was withdrawn")
		}
		newCAMachine(t, n).build(t, caGraph, "--option", "substituters", "file://"+l.cache+"?trusted=1") // what is withdrawn is built
	})
}

// withoutFalse leaves "executable":false out of a listing, which some versions write.
func withoutFalse(listing any) any {
	if node, ok := listing.(map[string]any); ok {
		for key, value := range node {
			if node[key] = withoutFalse(value); value == false {
				delete(node, key)
			}
		}
	}
	return listing
}
