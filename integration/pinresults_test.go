package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pinned returns what the pins of a cache stand for: for each the names of the store paths,
// newest first.
func (l *larder) pinned(t *testing.T) map[string][]string {
	t.Helper()
	var pins []struct {
		Name    string
		History []struct{ Paths []string }
	}
	must(t, json.Unmarshal([]byte(l.asRoot().run(t, "larder", "pins", "--json", "--cache", "file://"+l.inMachine(t))), &pins))
	all := make(map[string][]string)
	for _, p := range pins {
		for _, h := range p.History {
			var names []string
			for _, path := range h.Paths {
				_, name, _ := strings.Cut(path, "-")
				names = append(names, name)
			}
			slices.Sort(names)
			all[p.Name] = append(all[p.Name], strings.Join(names, " "))
		}
	}
	return all
}

// inMachine returns the cache's directory as the machine sees it.
func (l *larder) inMachine(t *testing.T) string {
	t.Helper()
	return strings.TrimPrefix(l.cache, strings.TrimSuffix(l.host("/"), "/"))
}

// isPinned fails the test if the pins of the cache are others.
func (l *larder) isPinned(t *testing.T, want map[string][]string) {
	t.Helper()
	if got := l.pinned(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("pinned is %v, want %v", got, want)
	}
}

// pins is runs with flags to pin, and returns what the report says of it.
func (j *ciJob) pins(t *testing.T, flags []string, args ...string) (paths []string, o outcome) {
	t.Helper()
	around := j.around(args...)
	p := j.start(t, slices.Concat(around[:2:2], flags, around[2:])...)
	o = j.ends(t, p)
	j.leftNothing(t)
	var report struct{ Pinned struct{ Paths []string } }
	must(t, json.Unmarshal([]byte(readFile(t, j.host(j.user.home+"/report.json"))), &report))
	return report.Pinned.Paths, o
}

func TestRunPinsWhatItWasCalledFor(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		p := provider{n, r}
		flags := []string{"--pin", "main", "--pin-keep", "2"}
		first := p.job(t, "")
		paths, o := first.pins(t, flags, buildProject()...)
		if len(paths) != 2 || o.exit != 0 || !strings.Contains(o.stderr, "larder: pinned as main: ") {
			t.Fatalf("pinned %q: %s", paths, o.stderr)
		}
		first.isPinned(t, map[string][]string{"main": {"app docs"}})
		hasPaths(t, "cache", first.cached(t), first.asRoot().closure(t, paths...))

		// With hits only nothing is different, and nothing is touched.
		second := p.job(t, first.cache)
		second.runs(t, "true") // makes the directories that were lost
		wipeTimes(t, second.cache)
		before := everything(t, second.cache)
		again, o := second.pins(t, flags, buildProject()...)
		if !slices.Equal(again, paths) {
			t.Errorf("pinned %q, want %q: %s", again, paths, o.stderr)
		}
		if r.reads {
			o.hasBuilt(t)
			unchanged(t, "cache", before, everything(t, second.cache))
		}
		// A new name is for what was only downloaded as well.
		if _, o := second.pins(t, []string{"--pin", "other"}, "true"); !strings.Contains(o.stderr, "pin other stays as it was: there is no result") {
			t.Errorf("it says %s", o.stderr)
		}

		third := p.job(t, second.cache)
		if changed, _ := third.pins(t, flags, buildProject("--argstr", "leaf", "2")...); len(changed) != 2 || slices.Equal(changed, paths) {
			t.Errorf("pinned %q", changed)
		}
		third.isPinned(t, map[string][]string{"main": {"app docs", "app docs"}})

		// What is pinned stays, with all that it needs.
		third.run(t, "larder", "gc", "--cache", "cache", "--max-size", "1", "--grace", "0s")
		third.whole(t)
		names := []string{}
		for _, path := range third.cached(t) {
			_, name, _ := strings.Cut(path, "-")
			names = append(names, name)
		}
		slices.Sort(names)
		if want := "app app docs leaf leaf lib lib-dev part part"; strings.Join(names, " ") != want {
			t.Errorf("left is %q, want %s", names, want)
		}
		newMachine(t, n).substitute(t, third.cache, paths...)
	})
}

// What could be half of it is not pinned.
func TestPinStaysAsItWasWhereNotAllIsWell(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	main := []string{"--pin", "main"}
	if _, o := j.pins(t, main, "nix-build", "--no-out-link", "--expr", oneExpr("good")); o.exit != 0 {
		t.Fatal(o.stderr)
	}
	want := map[string][]string{"main": {"good"}}
	j.isPinned(t, want)
	for _, tt := range []struct {
		command []string
		flags   []string
		says    string
		exit    int
	}{
		{[]string{"sh", "-euc", "nix-build --no-out-link --expr '" + oneExpr("bad") + "'; exit 3"}, main, "the command failed", 3},
		{[]string{"true"}, main, "there is no result", 0},
		{[]string{"nix-build", "--no-out-link", "--expr", oneExpr("secret")}, append([]string{"--exclude", "secret"}, main...), "there is no result", 0},
	} {
		_, o := j.pins(t, tt.flags, tt.command...)
		if o.exit != tt.exit || !strings.Contains(o.stderr, "warning: pin main stays as it was: ") || !strings.Contains(o.stderr, tt.says) {
			t.Errorf("%q: exit %d, %s", tt.command, o.exit, o.stderr)
		}
		j.isPinned(t, want)
	}
	p := j.start(t, append([]string{"larder", "run", "--read-only", "--cache", "cache", "--pin", "main", "--"}, "true")...)
	if _, stderr, exit := p.wait(t); exit != 0 || !strings.Contains(stderr, "pin main stays as it was: the cache is only read") {
		t.Errorf("exit %d, %s", exit, stderr)
	}
	release := j.stick(t)
	_, o := j.pins(t, append([]string{"--deadline", "3s"}, main...), "nix-build", "--no-out-link", "--option", "substituters", "", "--expr", oneExpr("sticky"))
	if o.exit != 0 || !strings.Contains(o.stderr, "-sticky is a result, and can't be copied: the end came first") {
		t.Errorf("exit %d, %s", o.exit, o.stderr)
	}
	release()
	j.isPinned(t, want)
	nested := "larder run --cache cache --pin inner -- true"
	p = j.start(t, "larder", "run", "--cache", "cache", "--", "sh", "-c", nested)
	if _, stderr, exit := p.wait(t); exit != 0 || !strings.Contains(stderr, "pin inner stays as it was: only the whole run") {
		t.Errorf("exit %d, %s", exit, stderr)
	}
	j.isPinned(t, want)
}

// In a store that has it already nothing is built, but Nix makes the link.
func TestRunPinsWhatItsLinksMean(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		j := provider{n, roles[0]}.job(t, "")
		tool, top := oneExpr("tool"), `import /larder/graphs/derive.nix "top" { tool = `+oneExpr("tool")+`; } "echo top > $out"`
		j.build(t, "--expr", "[ ("+tool+") ("+top+") ]")
		if _, o := j.pins(t, []string{"--pin", "main"}, "nix-build", "--no-out-link", "--expr", top); !strings.Contains(o.stderr, "there is no result") {
			t.Errorf("it says %s", o.stderr)
		}
		// Also what something else is built from, if it was asked for.
		both := []string{"nix-build", "--expr", "[(" + tool + ") (" + top + ")]"}
		paths, o := j.pins(t, []string{"--pin", "main"}, both...)
		if len(paths) != 2 || o.report.Built != 0 {
			t.Errorf("pinned %q: %s", paths, o.stderr)
		}
		j.isPinned(t, map[string][]string{"main": {"tool top"}})
		equalPaths(t, "cache", j.cached(t), slices.Sorted(slices.Values(paths)))
		j.whole(t)
		if again, _ := j.pins(t, []string{"--pin", "new"}, both...); !slices.Equal(again, paths) {
			t.Errorf("pinned %q, want %q", again, paths)
		}
		if m := n.name; m != "host" { // nix build of flakes and expressions makes links as well
			one := j.with("LARDER_PIN=new")
			p := one.start(t, append(j.around()[:len(j.around())-1], "--", "nix", "build", "--impure", "--expr", tool, "--out-link", "other-result")...)
			if o := j.ends(t, p); o.exit != 0 {
				t.Fatal(o.stderr)
			}
			j.isPinned(t, map[string][]string{"main": {"tool top"}, "new": {"tool"}})
		}
	})
}

// Results that are there already may lack something, and the store has it.
func TestRunPinsWholeClosures(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		j := provider{n, roles[0]}.job(t, "")
		const lib = `(import /larder/graphs/derive.nix "lib" { } "echo lib > $out")`
		app := []string{"nix-build", "--expr", `import /larder/graphs/derive.nix "app" { lib = ` + lib + `; } "echo $lib > $out"`}
		paths, o := j.pins(t, []string{"--pin", "main"}, app...)
		if len(paths) != 1 || o.exit != 0 {
			t.Fatalf("pinned %q: %s", paths, o.stderr)
		}
		all := j.cached(t)
		i := slices.IndexFunc(all, func(path string) bool { return strings.HasSuffix(path, "-lib") })
		must(t, os.Remove(filepath.Join(j.cache, filepath.Base(all[i])[:32]+".narinfo")))

		_, o = j.pins(t, []string{"--pin", "other", "--exclude", "lib"}, app...)
		if want := all[i] + ", which " + paths[0] + " needs, is not in the cache"; o.exit != 0 || !strings.Contains(o.stderr, "pin other stays as it was: "+want) {
			t.Errorf("exit %d, %s", o.exit, o.stderr)
		}
		if _, o = j.pins(t, []string{"--pin", "other", "--exclude", "lib", "--strict"}, app...); o.exit != 4 {
			t.Errorf("exit %d, %s", o.exit, o.stderr)
		}
		j.isPinned(t, map[string][]string{"main": {"app"}})
		if _, o = j.pins(t, []string{"--pin", "other"}, app...); o.exit != 0 || o.report.Built != 0 {
			t.Errorf("exit %d, %s", o.exit, o.stderr)
		}
		j.isPinned(t, map[string][]string{"main": {"app"}, "other": {"app"}})
		equalPaths(t, "cache", j.cached(t), all)
		j.whole(t)
	})
}

func TestStopPins(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		j := provider{n, r}.job(t, "")
		step := j.begins(t)
		step.run(t, buildProject()...)
		step.killWorker(t)
		step.stops(t, "--pin", "main")
		j.isPinned(t, map[string][]string{"main": {"app docs"}})
		j.holdsAll(t)
	})
}

// Of content-addressed derivations Nix does not know the outputs before they are built: tools
// are no results of those either.
func TestRunPinsNoToolsOfContentAddressedBuilds(t *testing.T) {
	const graph = `let
		derive = import /larder/graphs/derive.nix;
		ca = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
		base = derive "base" ca "echo base > $out";
		tool = derive "tool" (ca // { outputs = [ "out" "dev" ]; }) "read x < ${base}; echo $x > $out; mkdir $dev; echo tool > $dev/file";
		plain = derive "plain" { } "read x < ${tool.dev}/file; echo $x > $out";
		result = derive "result" ca "read x < ${plain}; echo result $x > $out";
		other = derive "other" (ca // { outputs = [ "out" "doc" ]; }) "read x < ${tool.dev}/file; echo other $x > $out; echo $out > $doc";
		in [ result other other.doc ]`
	eachNix(t, func(t *testing.T, n nix) {
		cache := filepath.Join(tempDir(t), "cache")
		for _, store := range []string{"empty", "other"} { // the second one downloads
			m := newCAMachine(t, n)
			m.run(t, "larder", "run", "--cache", cache, "--strict", "--pin", store, "--", "nix-build", "--no-out-link", "--expr", graph)
			l := &larder{machine: m, cache: cache}
			if got := l.pinned(t)[store]; len(got) != 1 || got[0] != "other other-doc result" {
				t.Errorf("pinned by the job with the %s store is %q", store, got)
			}
		}
	})
}
