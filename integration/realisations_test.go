package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const (
	caGraph = "/larder/graphs/ca.nix"
	withCA  = "experimental-features = nix-command flakes ca-derivations"
)

// sameAgain is for other derivations that build the same.
var sameAgain = []string{"--argstr", "input", "two"}

// A realisation is what is in a file of realisations/.
type realisation struct {
	ID         string            `json:"id"`
	OutPath    string            `json:"outPath"`
	Dependent  map[string]string `json:"dependentRealisations"`
	Signatures []string          `json:"signatures"`
}

// newCAMachine makes a machine that builds content-addressed derivations.
func newCAMachine(t *testing.T, n nix, conf ...string) *machine {
	t.Helper()
	return newMachine(t, n, append([]string{withCA}, conf...)...)
}

// realisations returns the files of realisations in a cache, and what is in them.
func realisations(t *testing.T, cache string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, pattern := range []string{"realisations/*.doi", "build-trace-v2/*/*.doi"} {
		found, err := filepath.Glob(filepath.Join(cache, pattern))
		must(t, err)
		for _, file := range found {
			text, err := os.ReadFile(file)
			must(t, err)
			name, err := filepath.Rel(cache, file)
			must(t, err)
			all[name] = string(text)
		}
	}
	return all
}

// checkRealised fails the test if a realisation promises what is not in the cache, or
// depends on another one that is not there, or not as it says. It may be called at any
// moment.
func checkRealised(t *testing.T, cache string) {
	t.Helper()
	checkWhole(t, cache)
	for name, text := range realisations(t, cache) {
		var r realisation
		must(t, json.Unmarshal([]byte(text), &r))
		if _, err := os.Stat(filepath.Join(cache, r.OutPath[:32]+".narinfo")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for id, outPath := range r.Dependent {
			on, err := os.ReadFile(filepath.Join(cache, "realisations", id+".doi"))
			if err != nil || !strings.Contains(string(on), `"outPath":"`+outPath+`"`) {
				t.Errorf("%s depends on %s as %s, which is %s, %v", name, id, outPath, on, err)
			}
		}
	}
}

// runs runs a build with larder run.
func (m *machine) runs(t *testing.T, cache string, args ...string) []string {
	t.Helper()
	return m.lines(t, append([]string{"larder", "run", "--cache", cache, "--strict", "--", "nix-build", "--no-out-link"}, args...)...)
}

// comesFrom has an empty machine get a build from a cache.
func comesFrom(t *testing.T, n nix, cache string, want []string, args ...string) *machine {
	t.Helper()
	fresh := newCAMachine(t, n)
	got := fresh.build(t, append([]string{"--max-jobs", "0", "--option", "substituters", "file://" + cache + "?trusted=1"}, args...)...)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", n.name, got, want)
	}
	return fresh
}

// By larder run, in one job after the other.
func TestContentAddressedBuildsComeBack(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		cache := filepath.Join(tempDir(t), "cache")
		m := newCAMachine(t, n)
		top := m.runs(t, cache, caGraph)
		checkRealised(t, cache)
		comesFrom(t, n, cache, top, caGraph)

		// Another input, which makes no difference: the paths are there, and what depends
		// on the first of them need not be built here, nor anywhere.
		before := realisations(t, cache)
		if again := m.runs(t, cache, append([]string{caGraph}, sameAgain...)...); !slices.Equal(again, top) {
			t.Fatalf("built %q, want %q", again, top)
		}
		if after := realisations(t, cache); len(after) <= len(before) {
			t.Errorf("%d realisations, after %d", len(after), len(before))
		}
		fresh := comesFrom(t, n, cache, top, append([]string{caGraph}, sameAgain...)...)
		must(t, os.RemoveAll(filepath.Join(cache, "build-trace-v2"))) // which is for later versions
		comesFrom(t, n, cache, top, caGraph)

		// Who finds everything changes nothing.
		m.runs(t, cache, caGraph)
		written := files(t, cache)
		m.runs(t, cache, caGraph)
		unchanged(t, "a cache in which all is there", written, files(t, cache))
		fresh.runs(t, cache, "--max-jobs", "0", caGraph)

		// If they come back without realisations, these tests say nothing.
		for name := range realisations(t, cache) {
			must(t, os.Remove(filepath.Join(cache, name)))
		}
		_, stderr, exit := newCAMachine(t, n).tryRun(t, "nix-build", "--max-jobs", "0", "--option", "substituters", "file://"+cache+"?trusted=1", caGraph)
		if exit == 0 {
			t.Errorf("nothing is built without realisations either: %s", stderr)
		}
		m.runs(t, cache, caGraph) // which mends that
		comesFrom(t, n, cache, top, caGraph)
	})
}

// By the hook and by the watcher, with a worker that comes later.
func TestContentAddressedBuildsOfAQueue(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, mode := range []string{"--hook-only", "--watch-only"} {
			t.Run(mode, func(t *testing.T) {
				t.Parallel()
				l := newLarder(t, n, mode)
				l.configure(t, withCA)
				top := l.build(t, caGraph)
				l.drain(t)
				l.nothingLeft(t)
				checkRealised(t, l.cache)
				comesFrom(t, n, l.cache, top, caGraph)
				l.build(t, append([]string{caGraph, "--option", "substituters", ""}, sameAgain...)...)
				l.drain(t)
				comesFrom(t, n, l.cache, top, append([]string{caGraph}, sameAgain...)...)
			})
		}
	})
}

// A daemon need not be told of a realisation.
func TestDaemonCopiesRealisationsThatComeLater(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--watch-only")
	l.configure(t, withCA)
	d := l.startWorker(t, "--poll", "100ms")
	top := l.build(t, caGraph)
	l.drain(t)
	before := len(realisations(t, l.cache))
	l.build(t, append([]string{caGraph}, sameAgain...)...)
	eventually(t, "more realisations", func() bool { return len(realisations(t, l.cache)) > before })
	d.signal(t, syscall.SIGTERM)
	d.wait(t)
	comesFrom(t, nixes[0], l.cache, top, caGraph)
}

// What Nix says of the same build, larder says, and with its key it signs what Nix signs.
func TestRealisationsAreThoseThatNixCopies(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newCAMachine(t, n)
		l := &larder{machine: m, cache: filepath.Join(tempDir(t), "ours")}
		secret, key := l.newKey(t, "ci-1")
		m.configure(t, "secret-key-files = "+secret)
		top := m.build(t, caGraph)
		theirs := filepath.Join(tempDir(t), "theirs")
		m.run(t, "nix", "copy", "--to", "file://"+theirs, "--file", caGraph)
		l.push(t, append([]string{"--signing-key-file", secret}, top...)...)
		got, want := realisations(t, l.cache), realisations(t, theirs)
		if len(want) == 0 {
			t.Fatal("Nix copies no realisations")
		}
		for name, text := range want {
			var ours, nixs realisation
			must(t, json.Unmarshal([]byte(text), &nixs))
			if err := json.Unmarshal([]byte(got[name]), &ours); err != nil {
				t.Errorf("%s is %q: %v", name, got[name], err)
				continue
			}
			// With what it depends on for those that look at it, and without for others.
			hasPaths(t, "signatures of "+name, ours.Signatures, nixs.Signatures)
			most := 1 + min(1, len(ours.Dependent))
			if len(ours.Signatures) > most {
				t.Errorf("%s has signatures %q, Nix has %q", name, ours.Signatures, nixs.Signatures)
			}
			ours.Signatures, nixs.Signatures = nil, nil
			if !reflect.DeepEqual(ours, nixs) {
				t.Errorf("%s is %s, Nix has %s", name, got[name], text)
			}
		}
		// A reader that takes only what is signed.
		takes := func(key string) {
			fresh := newCAMachine(t, n, "require-sigs = true", "trusted-public-keys = "+key)
			fresh.build(t, "--max-jobs", "0", "--option", "substituters", "file://"+l.cache, caGraph)
		}
		takes(key)
		// So it is when the key was retired.
		secret, key = l.newKey(t, "ci-2")
		m.run(t, "larder", "sign", "--cache", l.cache, "--signing-key-file", secret, "--drop-key", "ci-1")
		for name, text := range realisations(t, l.cache) {
			if strings.Contains(text, "ci-1") || !strings.Contains(text, "ci-2") {
				t.Errorf("%s is %s", name, text)
			}
		}
		takes(key)
	})
}

// A realisation is one file in all versions up to 2.34, and what it says is in the
// derivations.
func TestContentAddressedBuildsComeBackOnOtherVersions(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		cache := filepath.Join(tempDir(t), "cache")
		top := newCAMachine(t, n).runs(t, cache, caGraph)
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				n.need(t)
				comesFrom(t, n, cache, top, caGraph)
			})
		}
	})
}

// What several jobs have built, each a part of it, is one cache.
func TestMergedContentAddressedBuildsComeBack(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		dir := tempDir(t)
		one, two, all := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "all")
		m := newCAMachine(t, n)
		m.runs(t, one, "--argstr", "part", "second", caGraph)
		top := m.runs(t, two, caGraph)
		m.run(t, "larder", "merge", "--cache", all, one, two)
		checkRealised(t, all)
		if r := m.run(t, "larder", "merge", "--json", "--cache", all, two, one); !strings.Contains(r, `"conflicts":[]`) && !strings.Contains(r, `"conflicts": []`) {
			t.Errorf("merged again: %s", r)
		}
		comesFrom(t, n, all, top, caGraph)
	})
}

// Where nobody can say what a build gives, the first one counts, and Nix builds what can't
// be told.
func TestOtherContentAddressedBuildIsNoReasonToFail(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		cache := filepath.Join(tempDir(t), "cache")
		random := []string{caGraph, "--argstr", "random", "true"}
		first := newCAMachine(t, n).runs(t, cache, random...)
		second := newCAMachine(t, n).build(t, random...)
		if slices.Equal(first, second) {
			t.Fatal("it is the same build")
		}
		m := newCAMachine(t, n)
		m.build(t, random...)
		m.runs(t, cache, random...)
		checkRealised(t, cache)
		comesFrom(t, n, cache, first, random...)
	})
}

// With push --replace the cache gives what was built last, in which whatever it says of the
// parts fits together.
func TestReplacedContentAddressedBuildComesBack(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		cache := filepath.Join(tempDir(t), "cache")
		random := []string{caGraph, "--argstr", "random", "true"}
		push := func(args ...string) (top []string) {
			t.Helper()
			m := newCAMachine(t, n)
			top = m.build(t, random...)
			l := &larder{machine: m, cache: cache}
			l.push(t, append(args, top...)...)
			checkRealised(t, cache)
			return top
		}
		first := push()
		push() // other contents
		comesFrom(t, n, cache, first, random...)
		again := push("--replace")
		if slices.Equal(first, again) {
			t.Fatal("it is the same build")
		}
		comesFrom(t, n, cache, again, random...)

		// Only a part: what depended on the old one is not promised any more, and built.
		m := newCAMachine(t, n)
		text := fmt.Sprint(realisations(t, cache))
		part := m.build(t, append(random, "--argstr", "part", "first")...)
		stdout, stderr, exit := m.tryRun(t, append([]string{"larder", "push", "--cache", cache, "--replace"}, part...)...)
		dependent := strings.Contains(text, `"dependentRealisations":{"sha256`) // which later versions do not note
		if exit != 0 || !strings.Contains(stdout, "replaced 1 realisations") || strings.Contains(stderr, "withdrew realisation") != dependent {
			t.Errorf("push of a part: exit %d: %s%s", exit, stdout, stderr)
		}
		checkRealised(t, cache)
		comesFrom(t, n, cache, part, append(random, "--argstr", "part", "first")...)
		newCAMachine(t, n).build(t, append(random, "--option", "substituters", "file://"+cache+"?trusted=1")...)
	})
}
