package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listings returns the listings of a cache as JSON values, by their names.
func listings(t *testing.T, cache string) map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*.ls"))
	must(t, err)
	all := make(map[string]any)
	for _, file := range files {
		var l any
		must(t, json.Unmarshal([]byte(readFile(t, file)), &l))
		all[filepath.Base(file)] = l
	}
	return all
}

// isText drops paths with names that no JSON can have, at which newer versions of Nix
// give up, and what refers to them.
func isText(paths []string) (text []string) {
	for _, path := range paths {
		if !strings.HasSuffix(path, "-names") && !strings.HasSuffix(path, "-top") {
			text = append(text, path)
		}
	}
	return text
}

func TestListingsAreThoseOfEveryNix(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		paths := isText(l.outputs(t, l.derivations(t, standardGraph)...))
		l.push(t, append([]string{"--listings"}, paths...)...)
		theirs := filepath.Join(tempDir(t), "theirs")
		l.run(t, append([]string{"nix", "copy", "--to", "file://" + theirs + "?write-nar-listing=1"}, paths...)...)
		want := listings(t, theirs)
		if diff := cmp.Diff(want, listings(t, l.cache)); diff != "" || len(want) < len(paths) {
			t.Errorf("%d listings of %d paths (-nix +larder):\n%s", len(want), len(paths), diff)
		}
		if l.version == "2.34.8" {
			for name := range want {
				if ours := readFile(t, filepath.Join(l.cache, name)); ours != readFile(t, filepath.Join(theirs, name)) {
					t.Errorf("%s is not byte for byte Nix's: %s", name, ours)
				}
			}
		}
		// Without a listing an entry is an entry all the same.
		_, stderr, exit := l.tryRun(t, "larder", "push", "--listings", "--cache", l.cache, top)
		if exit != 0 || !strings.Contains(stderr, "entry has no listing") {
			t.Errorf("exit %d, stderr %s", exit, stderr)
		}
		equalPaths(t, "cache", l.cached(t), l.closure(t, append(paths, top)...))
		l.verify(t)
	})
}

// What was pushed without listings gets them, and is not written anew.
func TestListingsComeLater(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	l.drain(t)
	before := entries(t, l.cache)
	l.run(t, "larder", "init", "--listings")
	if got := listings(t, l.cache); len(got) > 0 {
		t.Fatalf("listings are %v", got)
	}
	if got := l.run(t, "larder", "push", path); !strings.Contains(got, "copied 0 of 1 paths") || !strings.HasSuffix(got, ", and listed 1 that were there") {
		t.Errorf("push says %q", got)
	}
	if got := listings(t, l.cache); len(got) != 1 {
		t.Errorf("listings are %v", got)
	}
	if diff := cmp.Diff(before, entries(t, l.cache), cmp.AllowUnexported(narInfo{})); diff != "" {
		t.Errorf("entries have changed: %s", diff)
	}
	again := l.list(t)
	if len(again) != 1 || !again[0].Listing || !again[0].Log {
		t.Errorf("larder list has %+v", again)
	}
}

// log returns what nix log says of a path or a derivation, in a cache or here.
func (m *machine) log(t *testing.T, path string, args ...string) string {
	t.Helper()
	return m.run(t, append(append([]string{"nix", "log"}, args...), path)...)
}

const talksExpr = `import /larder/graphs/derive.nix "talks" { outputs = [ "out" "dev" ]; } "echo one; echo two >&2; printf three; echo > $out; echo > $dev"`

func TestEveryNixReadsTheLogsOfBuilds(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, conf := range map[string]string{"compressed": "", "plain": "compress-build-log = false"} {
			m := newMachine(t, n, conf).with(patient)
			l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
			l.configure(t, l.lines(t, "larder", "init", "--cache", l.cache)...)
			l.build(t, "--expr", talksExpr)
			drv := l.instantiate(t, "--expr", talksExpr)[0]
			outs := l.outputs(t, drv)
			want := l.log(t, drv)
			if want != "one\ntwo\nthree" {
				t.Fatalf("Nix's own log is %q", want)
			}
			l.drain(t)
			for _, path := range append(outs, drv) {
				if path == drv {
					l.push(t, drv) // 2.8 asks for it first
				}
				for _, n := range nixes {
					if got := newMachine(t, n).log(t, path, "--store", "file://"+l.cache); got != want {
						t.Errorf("%s: %s: log of %s is %q", name, n.name, path, got)
					}
				}
			}
			// By way of a substituter, too.
			fresh := newMachine(t, n, "substituters = file://"+l.cache+"?trusted=1")
			fresh.run(t, "nix-store", "--realise", outs[0])
			if got := fresh.log(t, outs[0]); got != want {
				t.Errorf("%s: log of what was substituted is %q", name, got)
			}
		}
	})
}

// What Nix copies with copy-log is what larder writes, and stays.
func TestLogsAreThoseThatNixCopies(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := pusher(t, n)
		out := l.build(t, "--expr", talksExpr)[0]
		drv := l.instantiate(t, "--expr", talksExpr)[0]
		l.push(t, out)
		theirs := filepath.Join(tempDir(t), "theirs")
		l.run(t, "nix", "store", "copy-log", "--to", "file://"+theirs, drv)
		name := filepath.Join("log", filepath.Base(drv))
		if ours, nixs := readFile(t, filepath.Join(l.cache, name)), readFile(t, filepath.Join(theirs, name)); ours != nixs {
			t.Errorf("log is %q, Nix's is %q", ours, nixs)
		}
		must(t, os.WriteFile(filepath.Join(l.cache, name), []byte("another build"), 0o644))
		l.push(t, out)
		if got := readFile(t, filepath.Join(l.cache, name)); got != "another build" {
			t.Errorf("log is %q", got)
		}
		must(t, os.Remove(filepath.Join(l.cache, name)))
		l.push(t, "--logs=false", out)
		if _, err := os.Stat(filepath.Join(l.cache, name)); err == nil {
			t.Error("a log is there that nobody wants")
		}
		l.push(t, out) // its entry is there
		if got := readFile(t, filepath.Join(l.cache, name)); got != "one\ntwo\nthree" {
			t.Errorf("log is %q", got)
		}
	})
}

// A worker that may not read Nix's logs copies the rest.
func TestUserWithoutTheRightToReadLogsHasNone(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	m.startDaemon(t)
	out := m.as(alice).build(t, "--expr", talksExpr)[0]
	must(t, os.Chmod(m.host("/nix/var/log/nix/drvs"), 0o700))
	l := &larder{machine: m.as(alice), cache: m.host("/home/alice/cache")}
	if _, stderr, exit := l.tryRun(t, "larder", "push", "--cache", "cache", out); exit != 0 || withoutProgress(stderr) != "" {
		t.Errorf("exit %d, stderr %q", exit, stderr)
	}
	if logs := logs(t, l.cache); len(logs) > 0 {
		t.Errorf("logs are %q", logs)
	}
}

// logs returns what the logs in a cache say, by the names of what was built.
func logs(t *testing.T, cache string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "log", "*.drv"))
	must(t, err)
	all := make(map[string]string)
	for _, file := range files {
		_, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".drv"), "-")
		all[name] = readFile(t, file)
	}
	return all
}

// failing is a build of which one part fails, in a way that the file decides.
func failing(t *testing.T) (expr string, say func(script string)) {
	file := filepath.Join(tempDir(t), "script")
	return `let derive = import /larder/graphs/derive.nix; in derive "top" { works = derive "works" { } "echo it works; echo > $out"; fails = derive "fails" { } ". ` + file + `"; } "echo top; echo > $out"`,
		func(script string) { must(t, os.WriteFile(file, []byte(script+"\n"), 0o644)) }
}

func TestLogsOfFailedBuildsAreKeptIfTheyAreWanted(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		expr, say := failing(t)
		say("echo it failed before; exit 1")
		m := newMachine(t, n)
		l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache")}
		earlier := `import /larder/graphs/derive.nix "earlier" { } "echo earlier; exit 1"`
		m.tryRun(t, "nix-build", "--expr", earlier)
		m.run(t, "sh", "-c", "touch -d '1 minute ago' /nix/var/log/nix/drvs/*/*")
		runs := func(want int, args ...string) {
			t.Helper()
			command := append(append([]string{"larder", "run", "--cache", l.cache}, args...), "--", "nix-build", "--no-out-link", "--keep-going", "--expr", expr)
			_, stderr, exit := l.tryRun(t, command...)
			if exit == 0 != (want == 0) {
				t.Fatalf("exit %d: %s", exit, stderr)
			}
			if says := strings.Contains(stderr, "logs of failed builds in the cache, for nix log --store file://"+l.cache+": 1"); says != (want != 0 && len(args) > 0) {
				t.Errorf("run says %s", stderr)
			}
		}
		is := func(want map[string]string) {
			t.Helper()
			if diff := cmp.Diff(want, logs(t, l.cache)); diff != "" {
				t.Errorf("logs (-want +got):\n%s", diff)
			}
		}
		runs(1)
		is(map[string]string{"works": "it works\n"})
		say("echo it fails; exit 1")
		runs(1, "--failed-logs")
		is(map[string]string{"works": "it works\n", "fails": "it fails\n"})
		drv := l.instantiate(t, "--expr", expr)[0]
		for _, input := range l.query(t, "--references", drv) {
			if !strings.HasSuffix(input, "-fails.drv") {
				continue
			}
			for _, n := range nixes[1:] { // 2.8 wants the derivation to be in the cache as well
				if got := newMachine(t, n).log(t, input, "--store", "file://"+l.cache); got != "it fails" {
					t.Errorf("%s: log of a failed build is %q", n.name, got)
				}
			}
		}
		say("echo it fails again; exit 1")
		runs(1, "--failed-logs")
		is(map[string]string{"works": "it works\n", "fails": "it fails again\n"})
		say("echo at last; echo > $out")
		runs(0, "--failed-logs")
		is(map[string]string{"works": "it works\n", "fails": "at last\n", "top": "top\n"})
		checkWhole(t, l.cache)
	})
}

func TestDaemonKeepsLogsOfFailedBuilds(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	d := l.startWorker(t, "--failed-logs")
	l.tryRun(t, "nix-build", "--expr", `import /larder/graphs/derive.nix "fails" { } "echo it fails; exit 1"`)
	d.stop(t)
	if got := logs(t, l.cache); got["fails"] != "it fails\n" {
		t.Errorf("logs are %q", got)
	}
}

// The flag is start's, and the work that of whoever comes to it.
func TestSessionKeepsLogsOfFailedBuilds(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	cache := filepath.Join(tempDir(t), "cache")
	m.run(t, "sh", "-euc", `
		eval "$(larder start --listings --failed-logs --cache `+cache+`)"
		nix-build --no-out-link --expr 'import /larder/graphs/derive.nix "fails" { } "echo it fails; exit 1"' || true
		nix-build --no-out-link --expr '`+oneExpr("built")+`'
		larder stop`)
	if got := logs(t, cache); got["fails"] != "it fails\n" || len(listings(t, cache)) != 1 {
		t.Errorf("logs are %q, listings %v", got, listings(t, cache))
	}
}

func TestMergeTakesLogsAndListingsOver(t *testing.T) {
	t.Parallel()
	l, _ := pusher(t, nixes[0])
	l.push(t, "--listings", l.build(t, "--expr", talksExpr)[0])
	merged := filepath.Join(tempDir(t), "merged")
	l.merge(t, merged, l.cache)
	if diff := cmp.Diff(logs(t, l.cache), logs(t, merged)); diff != "" || len(logs(t, merged)) != 1 {
		t.Errorf("logs: %s", diff)
	}
	if diff := cmp.Diff(listings(t, l.cache), listings(t, merged)); diff != "" || len(listings(t, merged)) != 1 {
		t.Errorf("listings: %s", diff)
	}
}
