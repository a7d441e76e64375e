package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// initLarder has larder init set up a machine that may have a past. args are further
// ones for init.
func initLarder(t *testing.T, m *machine, args ...string) *larder {
	t.Helper()
	l := &larder{
		machine: m.with(patient),
		cache:   filepath.Join(tempDir(t), "cache"),
		queue:   rootsQueue,
	}
	l.conf = l.lines(t, append([]string{"larder", "init", "--cache", l.cache}, args...)...)
	l.configure(t, l.conf...)
	return l
}

// without are options for a build that larder hears of from nobody.
var without = []string{"--option", "post-build-hook", ""}

// addTexts adds count small files that refer to each other in pairs, with one
// process, and returns their paths, sorted.
func (m *machine) addTexts(t *testing.T, name string, count int) []string {
	t.Helper()
	m.run(t, addTexts(name, count)...)
	paths := slices.DeleteFunc(m.validPaths(t), func(path string) bool {
		return !strings.HasPrefix(path[len("/nix/store/")+33:], name+"-")
	})
	if len(paths) != count {
		t.Fatalf("added %d texts, want %d", len(paths), count)
	}
	return paths
}

func addTexts(name string, count int) []string {
	return []string{"nix-instantiate", "--eval", "--read-write-mode", "--expr", fmt.Sprintf(`
		let
		  file = i: builtins.toFile "%s-${toString i}" "text ${toString i} of %s ${if i / 2 * 2 == i then "" else at (i - 1)}";
		  at = builtins.elemAt files;
		  files = builtins.genList file %d;
		in builtins.foldl' (a: b: builtins.seq b a) true files`, name, name, count)}
}

// add adds a file to the store.
func (m *machine) add(t *testing.T, name string) string {
	t.Helper()
	return m.run(t, "sh", "-euc", addScript, "-", name)
}

// addScript adds a file with the name that it gets, and that name in it.
const addScript = `cd $(mktemp -d); echo "$1" > "$1"; exec nix-store --add "$1"`

// settles waits until a daemon has nothing to do any more.
func (l *larder) settles(t *testing.T) {
	t.Helper()
	seen := false
	eventually(t, "the daemon to have done everything", func() bool {
		// To look at roots is cheap, and whatever is queued has one until its job is as
		// good as done.
		if len(l.rootFiles(t)) > 0 {
			return false
		}
		var s struct {
			Unseen *int       `json:"unseen"`
			Jobs   []struct{} `json:"jobs"`
		}
		stdout, stderr, _ := l.tryRun(t, "larder", "status", "--queue", l.queue, "--json")
		must(t, json.Unmarshal([]byte(stdout), &s))
		if s.Unseen == nil {
			t.Fatalf("nobody knows whether all was looked at: %s", stderr)
		}
		// The jobs were listed before the registrations were counted.
		if !seen {
			seen = *s.Unseen == 0
			return false
		}
		return len(s.Jobs) == 0
	})
	l.nothingLeft(t)
}

// arrived returns what has come into the store since it had before, sorted.
func (m *machine) arrived(t *testing.T, before []string) []string {
	t.Helper()
	return slices.DeleteFunc(m.validPaths(t), func(path string) bool {
		_, found := slices.BinarySearch(before, path)
		return found
	})
}

// wanted returns what the cache is to have by the default rules, if paths were
// registered, sorted.
func (m *machine) wanted(t *testing.T, paths []string) []string {
	t.Helper()
	return m.closure(t, slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		return isDrv(path) || strings.HasSuffix(path, "-larder-hook") // which is of use on its own machine only
	})...)
}

func isDrv(path string) bool { return strings.HasSuffix(path, ".drv") }

// holds makes sure that the cache has some paths and no others, all of them good.
func (l *larder) holds(t *testing.T, want []string) {
	t.Helper()
	equalPaths(t, "cache", l.cached(t), want)
	checkWhole(t, l.cache)
	l.verify(t)
}

// A watcher that was away for long finds everything; what was there before larder is
// none of its business until somebody says so.
func TestWhatCameWhileNothingRanGetsInAndWhatWasThereBeforeDoesWhenAsked(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		old := append(m.addTexts(t, "old", 20), m.buildOne(t, "built-before"), m.add(t, "added-before"))
		l := initLarder(t, m)
		before := l.validPaths(t)
		count := 250
		if os.Getenv("LARDER_LONG") == "1" {
			count = 2500
		}
		l.addTexts(t, "text", count)
		l.build(t, append([]string{manyGraph, "--arg", "count", "30", "--arg", "chained", "true"}, without...)...)
		l.buildOne(t, "heard-of")
		l.add(t, "added")
		want := l.wanted(t, l.arrived(t, before))
		if len(want) != count+32 {
			t.Fatalf("%d paths have come, want %d", len(want), count+32)
		}

		d := l.startWorker(t, "--poll", "1h")
		l.settles(t)
		equalPaths(t, "cache", l.cached(t), want)
		d.signal(t, syscall.SIGTERM)
		d.endsWell(t)

		l.drain(t)
		equalPaths(t, "cache after a drain", l.cached(t), want)
		if e := l.explain(t, old[0]); e.State != "before" {
			t.Errorf("state of what was there before is %q", e.State)
		}
		l.startWorker(t, "--poll", "1h")
		l.run(t, "larder", "sync")
		l.settles(t)
		hasPaths(t, "cache after a sync", l.cached(t), slices.Sorted(slices.Values(old)))
		l.holds(t, l.wanted(t, l.validPaths(t)))
	})
}

// An explanation is what a test wants to know of what larder explain --json prints.
type explanation struct {
	State   string `json:"state"`
	Verdict string `json:"verdict"`
	Rule    string `json:"rule"`
}

func (l *larder) explain(t *testing.T, path string) (e explanation) {
	t.Helper()
	must(t, json.Unmarshal([]byte(l.run(t, "larder", "explain", "--queue", l.queue, "--json", path)), &e))
	return e
}

// What the cache gives comes into the store as well, and that is no reason to do
// anything.
func TestWhatTheCacheGivesIsNoJob(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, kind := range []string{"both", "watch-only"} {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				l := newLarder(t, n, "--watch-only="+strconv.FormatBool(kind == "watch-only"))
				d := l.startWorker(t, "--poll", "1h")
				l.build(t, standardGraph)
				l.settles(t)
				l.collectGarbage(t)
				want, before := l.cached(t), files(t, l.cache)
				queued := strings.Count(d.stderr.String(), "queued registrations")

				l.build(t, standardGraph, "--max-jobs", "0")
				l.substitute(t, l.cache, want...)
				hasPaths(t, "store", l.validPaths(t), want)
				l.settles(t)
				unchanged(t, "cache", before, files(t, l.cache))
				if strings.Count(d.stderr.String(), "queued registrations") != queued {
					t.Errorf("something was queued: %v", d)
				}
			})
		}
	})
}

// Whatever comes at once gets in once, and nobody is told more than a line of each.
func TestBurstGetsInOnce(t *testing.T) {
	t.Parallel()
	versions, count := nixes[:1], 1500
	if os.Getenv("LARDER_LONG") == "1" {
		versions, count = nixes, 10000
	}
	for _, n := range versions {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			l := newLarder(t, n, "--watch-only")
			before := l.validPaths(t)
			d := l.startWorker(t)
			made := countFiles(t, filepath.Join(l.cache, ".larder", "tmp"))
			l.run(t, addTexts("burst", count)...)
			begin := time.Now()
			for left := count; left > 0; left -= 1000 {
				eventually(t, "the daemon", func() bool { return len(l.rootFiles(t)) < left })
			}
			l.settles(t)
			want := l.wanted(t, l.arrived(t, before))
			if len(want) != count {
				t.Fatalf("%d paths have come, want %d", len(want), count)
			}
			// An entry takes two files: a NAR and a narinfo. The daemon has a record of its
			// day, and writes it once more a minute after there is more to tell.
			if got, records := made(), 3+int(time.Since(begin)/time.Minute); got < 2*count || got > 2*count+records {
				t.Errorf("%d files were made, want %d, and %d at most for records", got, 2*count, records)
			}
			l.holds(t, want)
			// One for each path, and one for each time that some were found together.
			if lines := strings.Count(d.stderr.String(), "\n"); lines > 2*count+10 {
				t.Errorf("%d lines were logged of %d paths", lines, count)
			}
		})
	}
}

// countFiles counts the files that are made in a directory of the host from now on.
func countFiles(t *testing.T, dir string) (made func() int) {
	t.Helper()
	w, err := fsnotify.NewBufferedWatcher(1 << 16)
	must(t, err)
	t.Cleanup(func() { w.Close() })
	must(t, w.Add(dir))
	last := filepath.Join(dir, ".last")
	return func() (n int) {
		t.Helper()
		must(t, os.WriteFile(last, nil, 0o644))
		for {
			select {
			case e := <-w.Events:
				if e.Name == last {
					return n
				}
				if e.Has(fsnotify.Create) {
					n++
				}
			case err := <-w.Errors:
				t.Fatal(err) // some were lost
			}
		}
	}
}

func TestQueueOfHooksOnlyHearsOfBuildsOnly(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		goods := newGoods(t, n)
		l := newLarder(t, n, "--hook-only")
		d := l.startWorker(t, "--poll", "20ms")
		l.substitute(t, goods.dir+"/unsigned", goods.unsigned...)
		l.add(t, "added")
		l.build(t, append([]string{"--expr", oneExpr("unheard")}, without...)...)
		want := []string{l.buildOne(t, "built")}
		d.waitFor(t, "copied job")
		l.drain(t)
		l.nothingLeft(t)
		l.holds(t, want)

		// The other half is not lost, it was not wanted. It is there to be had.
		l.run(t, "larder", "init", "--hook-only=false")
		d.waitFor(t, "settings have changed")
		l.settles(t)
		l.holds(t, l.wanted(t, l.validPaths(t)))
	})
}

func TestWatcherNeedsNoHook(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--watch-only")
		if len(l.conf) != 1 || !strings.HasPrefix(l.conf[0], "extra-substituters = ") {
			t.Errorf("the lines for nix.conf are %q", l.conf)
		}
		equalPaths(t, "store after init", l.validPaths(t), nil)
		l.startWorker(t, "--poll", "1h")
		outs := l.built(t, standardGraph)
		l.settles(t)
		hasPaths(t, "cache", l.cached(t), outs)
		l.holds(t, l.wanted(t, l.validPaths(t)))
	})
}

// Nobody has to restart a daemon for new settings. What is in the cache stays.
func TestDaemonFollowsChangedRules(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		d := l.startWorker(t, "--poll", "20ms")
		first := l.add(t, "first-secret")
		l.settles(t)
		l.run(t, "larder", "init", "--exclude", "*-secret")
		d.waitFor(t, "settings have changed")

		second := l.buildOne(t, "second-secret")
		user := l.build(t, "--expr", `import /larder/graphs/derive.nix "user" { } "echo ${`+oneExpr("second-secret")+`} > $out"`)[0]
		third := l.add(t, "third")
		l.settles(t)
		l.holds(t, slices.Sorted(slices.Values([]string{first, third})))
		for _, path := range []string{second, user} {
			if e := l.explain(t, path); e.State != "left out" {
				t.Errorf("%s: state is %q: %s", path, e.State, e.Verdict)
			}
		}

		l.run(t, "larder", "init", "--exclude", "")
		eventually(t, "what was left out", func() bool { return len(l.cached(t)) == 4 })
		l.settles(t)
		l.holds(t, slices.Sorted(slices.Values([]string{first, second, third, user})))
		if d.ended() {
			t.Errorf("ended: %v", d)
		}
	})
}
