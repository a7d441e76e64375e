package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// another makes a second queue on the machine, with a cache of its own, that no hook
// tells of anything. args are further ones for init.
func (l *larder) another(t *testing.T, name string, args ...string) *larder {
	t.Helper()
	o := *l
	o.queue, o.cache = "/root/"+name+"/queue.db", filepath.Join(tempDir(t), name)
	o.conf = o.lines(t, append([]string{"larder", "init", "--watch-only", "--queue", o.queue, "--cache", o.cache}, args...)...)
	return &o
}

func TestEachClassIsKeptIfItIsWanted(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		from, fetched := builtElsewhere(t, n, "--expr", oneExpr("downloaded"))
		hooked := newLarder(t, n, "--keep", "drvs") // the hook tells of what is built all the same
		hooked.unconfigure(t)
		hooked.configure(t, hooked.conf[0]) // without the substituter: nothing is to come back
		queues := map[string]*larder{"drvs": hooked}
		for _, keep := range []string{"built", "downloaded", "sources", "built,downloaded,sources,drvs", ""} {
			queues[keep] = hooked.another(t, "keep-"+keep, "--keep", keep)
		}
		l := hooked.machine
		l.run(t, "nix-store", "--realise", "--option", "substituters", "file://"+from+"?trusted=1", fetched[0])
		built := l.buildOne(t, "built")
		classes := map[string]string{
			fetched[0]:                        "downloaded",
			built:                             "built",
			l.query(t, "--deriver", built)[0]: "drvs",
			l.run(t, "sh", "-euc", "echo source > source; nix-store --add source"):                                                   "sources",
			strings.Trim(l.run(t, "nix-instantiate", "--eval", "--read-write-mode", "--expr", `builtins.toFile "text" "text"`), `"`): "sources",
		}
		for keep, q := range queues {
			var want []string
			for path, class := range classes {
				kept := slices.Contains(strings.Split(keep, ","), class)
				if kept {
					want = append(want, path)
				}
				e := q.explained(t, path)
				if e.Store == nil || e.Store.Class != class || (e.Rule == "") != kept || e.Cut != nil {
					t.Errorf("with --keep %q %s is explained by %+v", keep, class, e)
				}
			}
			q.drain(t)
			q.isOnly(t, want)
			for _, path := range want {
				if e := q.explained(t, path); e.State != "cached" {
					t.Errorf("with --keep %q it is explained by %+v", keep, e)
				}
			}
		}
		hooked.nothingLeft(t)
	})
}

// isOnly fails the test if the cache has anything else than some paths and what they
// need.
func (l *larder) isOnly(t *testing.T, paths []string) {
	t.Helper()
	var want []string
	if len(paths) > 0 {
		want = l.closure(t, paths...)
	}
	equalPaths(t, "cache", l.cached(t), want)
	checkWhole(t, l.cache)
}

// A source that is too large for itself comes with what needs it.
func TestSourcesAreKeptUpToASize(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--max-source-size", "64KiB")
	large := l.run(t, "sh", "-euc", "head -c 70000 /dev/urandom > large; nix-store --add large")
	needed := l.run(t, "sh", "-euc", "head -c 70000 /dev/urandom > needed; nix-store --add needed")
	small := l.run(t, "sh", "-euc", "head -c 60000 /dev/urandom > small; nix-store --add small")
	// What is built may be as large as it likes.
	user := l.build(t, "--expr", `import /larder/graphs/derive.nix "user" { } "echo ${builtins.storePath `+needed+`} > $out; head -c 70000 /dev/urandom >> $out"`)[0]
	for _, path := range []string{large, needed} {
		if e := l.explained(t, path); e.State != "left out" || !strings.Contains(e.Rule, "a source of 68 KiB, more than the 64 KiB") {
			t.Errorf("explained is %+v", e)
		}
	}
	l.drain(t)
	l.nothingLeft(t)
	equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values([]string{needed, small, user})))
	l.run(t, "larder", "init", "--max-source-size", "0")
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values([]string{large, needed, small, user})))
}

// diamond is a graph: base ← left, right; left, right ← top; and base, alone ← aside.
// The names of paths end in the names of these.
const diamond = `let d = name: size: script: import /larder/graphs/derive.nix name { } "head -c ${toString size} /dev/zero > $out; echo ${script} >> $out"; in rec {
	base = d "base" 1 "";
	left = d "left" 100000 "${base}";
	right = d "right" 1 "${base}";
	top = d "top" 1 "${left} ${right}";
	alone = d "alone" 1 "";
	aside = d "aside" 1 "${base} ${alone}";
}`

// What is excluded stays out, and so does all that would not be complete without it:
// that, and nothing else. It does not matter who told of it.
func TestExcludedPathsTakeWhatRefersToThemAndNothingElse(t *testing.T) {
	const (
		matches = `its name matches "l?ft", which is excluded`
		large   = "its NAR has 98 KiB, more than the 97 KiB that are let in"
	)
	eachNix(t, func(t *testing.T, n nix) {
		hooked := newLarder(t, n, "--hook-only", "--exclude", "l?ft")
		watched := hooked.another(t, "watched", "--exclude", "l?ft")
		sized := hooked.another(t, "sized", "--max-nar-size", "99kB")
		outs := hooked.build(t, "--expr", diamond)
		named := func(name string) string {
			return outs[slices.IndexFunc(outs, func(path string) bool { return strings.HasSuffix(path, "-"+name) })]
		}
		left, top := named("left"), named("top")
		want := slices.DeleteFunc(slices.Clone(outs), func(path string) bool { return path == left || path == top })
		for q, reason := range map[*larder]string{hooked: matches, watched: matches, sized: large} {
			q.drain(t)
			q.isOnly(t, want)
			for _, path := range []string{left, top} {
				e := q.explained(t, path)
				if e.State != "left out" || len(e.Cut) != 1 || e.Cut[0].Path != left || e.Cut[0].Reason != reason || e.Job != nil {
					t.Errorf("explained is %+v", e)
				}
				if (e.Rule != "") != (path == left) {
					t.Errorf("rule for %s is %q", path, e.Rule)
				}
			}
			if e := q.explained(t, named("aside")); e.State != "cached" || e.Cut != nil {
				t.Errorf("explained is %+v", e)
			}
		}
		hooked.nothingLeft(t)
		// Nor does it come in by hand, or the cache would not be whole.
		refusal{1, left, "larder explain"}.of(t, hooked.machine, "larder", "push", top)
	})
}

// Rules are the queue's: init changes those that it is given, and no others.
func TestRulesChangeOneByOne(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--keep", "built,drvs", "--exclude", "*.iso", "--exclude", "b*", "--max-nar-size", "1GB", "--skip-signed-by", "a-1,b-1")
	rules := func(want string) {
		t.Helper()
		if got := fmt.Sprint(l.fullStatus(t).Rules); got != want {
			t.Errorf("rules are %s, want %s", got, want)
		}
	}
	const keys, size = " skip_signed_by:[a-1 b-1]]", " max_nar_size:1e+09 max_source_size:2.68435456e+08"
	rules("map[exclude:[*.iso b*] keep:[built drvs]" + size + keys)
	l.run(t, "larder", "init")
	rules("map[exclude:[*.iso b*] keep:[built drvs]" + size + keys)
	l.run(t, "larder", "init", "--exclude", "")
	rules("map[keep:[built drvs]" + size + keys)
	l.run(t, "larder", "init", "--keep", "sources", "--max-nar-size", "0")
	rules("map[keep:[sources] max_source_size:2.68435456e+08" + keys)
	l.run(t, "larder", "init", "--skip-signed-by", "", "--max-source-size", "1KiB", "--watch-only")
	rules("map[keep:[sources] max_source_size:1024]")
	if mode := l.fullStatus(t).Mode; mode != "watch-only" {
		t.Errorf("mode is %q", mode)
	}
	l.run(t, "larder", "init", "--hook-only")
	l.run(t, "larder", "init", "--compression", "none") // keeps the mode
	if mode := l.fullStatus(t).Mode; mode != "hook-only" {
		t.Errorf("mode is %q", mode)
	}
	l.run(t, "larder", "init", "--hook-only=false")
	if mode := l.fullStatus(t).Mode; mode != "both" {
		t.Errorf("mode is %q", mode)
	}
}

func TestWrongRulesAreRefusedBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	const help = "larder init --help"
	for args, r := range map[string]refusal{
		"--keep built,Sources":           {2, `"Sources" is not a class`, help},
		"--keep all":                     {2, `"all" is not a class`, help},
		"--exclude [a":                   {2, `"[a" is not a glob`, help},
		"--max-nar-size much":            {2, `--max-nar-size is "much", want a size`, "500MB"},
		"--max-nar-size -1":              {2, `-1`, ""},
		"--max-source-size 1QiB":         {2, `--max-source-size is "1QiB", want a size`, "500MB"},
		"--max-nar-size 12EiB":           {2, "size", ""},
		"--skip-signed-by a-1:Zm9vYmFy=": {2, "is not the name of a key", help},
		"--base /nowhere":                {1, "/nowhere", "--base"},
		"--base /etc":                    {1, "/etc", "--base"},
		"--base https://example.org":     {2, "not on this machine", "file:///"},
		"--hook-only --watch-only":       {2, "leave nothing to do", "choose one"},
	} {
		t.Run(args, func(t *testing.T) {
			command := append([]string{"larder", "init", "--queue", "/root/q/queue.db", "--cache", "/root/cache"}, strings.Fields(args)...)
			r.changesNothing(t, m, command...)
			if _, err := os.Stat(m.host("/root/cache")); err == nil {
				t.Error("there is a cache")
			}
		})
	}
	// And nothing is changed.
	l := newLarder(t, nixes[0], "--exclude", "x")
	before := fmt.Sprint(l.fullStatus(t).Rules)
	refusal{2, `"[a" is not a glob`, help}.changesNothing(t, l.machine, "larder", "init", "--keep", "built", "--exclude", "[a")
	if after := fmt.Sprint(l.fullStatus(t).Rules); after != before {
		t.Errorf("rules are %s, were %s", after, before)
	}
}

// A comma is an ordinary letter in the name of a directory.
func TestBaseMayHaveAComma(t *testing.T) {
	t.Parallel()
	from, _ := builtElsewhere(t, nixes[0], "--expr", oneExpr("built"))
	base := filepath.Join(filepath.Dir(from), "with,comma")
	must(t, os.Rename(from, base))
	l := newLarder(t, nixes[0], "--base", base)
	l.unconfigure(t)
	l.configure(t, l.conf[0])
	l.buildOne(t, "built")
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), nil)
}

// What a newer larder has set can't be followed, and is not to be guessed at. Whoever
// sets rules that this one knows goes on.
func TestRulesOfANewerLarderHaveToBeSetAnew(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	db := l.openQueue(t)
	_, err := db.Exec(`update settings set value = '{"keep":["built"],"only_on_sundays":true}' where name = 'rules'`)
	must(t, err)
	must(t, db.Close())
	for _, command := range []string{"daemon", "drain", "sync", "status", "init", "explain " + path} {
		refusal{1, "only_on_sundays", "larder init"}.changesNothing(t, l.machine, append([]string{"larder"}, strings.Fields(command)...)...)
	}
	l.run(t, "larder", "init", "--keep", "built")
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
}
