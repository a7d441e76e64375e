package integration

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// planned returns what larder sync would queue, sorted.
func (l *larder) planned(t *testing.T) []string {
	t.Helper()
	paths := l.lines(t, "larder", "sync", "--dry-run", "--queue", l.queue)
	slices.Sort(paths)
	return paths
}

// syncs makes sure that a sync of a queue that has no jobs queues some paths and no
// others, that it says so before, and that the cache then has some paths and no others.
func (l *larder) syncs(t *testing.T, queued, cached []string) {
	t.Helper()
	dirs := []string{l.cache, filepath.Dir(l.host(l.queue)), l.host("/nix/var/nix/gcroots")}
	before := files(t, dirs...)
	equalPaths(t, "larder sync --dry-run", l.planned(t), queued)
	unchanged(t, "what a dry run touched", before, files(t, dirs...))
	if jobs := l.queued(t); jobs != nil {
		t.Errorf("a dry run queued %q", jobs)
	}
	out := l.run(t, "larder", "sync", "--queue", l.queue)
	if want := fmt.Sprintf("queued %d of %d paths, ", len(queued), len(l.asRoot().validPaths(t))); !strings.HasPrefix(out, want) {
		t.Errorf("sync says %q, want %q", out, want)
	}
	equalPaths(t, "queue", l.queued(t), queued)
	equalPaths(t, "roots", l.rooted(t), queued)
	l.drain(t)
	l.nothingLeft(t)
	equalPaths(t, "cache", l.cached(t), cached)
	checkWhole(t, l.cache)
	equalPaths(t, "larder sync --dry-run afterwards", l.planned(t), nil)
}

// Of what was there before larder came, a dry run tells, and a sync takes it.
func TestSyncTakesAWarmStore(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		from, fetched := builtElsewhere(t, n, chain("2")...)
		m := newMachine(t, n)
		m.substitute(t, from, fetched...)
		m.build(t, standardGraph)
		l := &larder{machine: m.with(patient), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
		l.run(t, "larder", "init", "--watch-only", "--cache", l.cache)
		want := noDrvs(m.validPaths(t))
		hasPaths(t, "store", want, fetched)
		l.drain(t)
		equalPaths(t, "cache before the sync", l.cached(t), nil)
		l.planned(t)
		l.drain(t)
		equalPaths(t, "cache after a dry run", l.cached(t), nil)
		l.syncs(t, want, want)
	})
}

func TestSyncFillsANewCache(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--watch-only")
	l.unconfigure(t)
	before := l.buildOne(t, "before")
	l.drain(t)
	must(t, os.RemoveAll(l.cache))
	for _, args := range [][]string{{"sync"}, {"sync", "--dry-run"}} {
		refusal{1, "no such file or directory", "is the disk mounted?"}.changesNothing(t, l.machine, append([]string{"larder"}, args...)...)
	}
	l.run(t, "larder", "init")
	l.syncs(t, []string{before}, []string{before})
}

func TestSyncReplacesALostQueue(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--watch-only")
	l.unconfigure(t)
	copied := l.buildOne(t, "copied")
	l.drain(t)
	lost := l.buildOne(t, "lost")
	l.run(t, "sh", "-euc", "rm -r /var/lib/larder")
	refusal{1, "no such file or directory", "larder init --cache"}.changesNothing(t, l.machine, "larder", "sync")
	l.run(t, "larder", "init", "--watch-only", "--cache", l.cache)
	l.syncs(t, []string{lost}, slices.Sorted(slices.Values([]string{copied, lost})))
}

// The rules hold for what was there before as for what comes.
func TestSyncFollowsTheRules(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	kept, drv := m.buildOne(t, "kept"), m.instantiate(t, "--expr", oneExpr("planned"))[0]
	m.buildOne(t, "secret")
	m.run(t, "sh", "-euc", "echo source > source; nix-store --add source")
	l := &larder{machine: m.with(patient), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
	l.run(t, "larder", "init", "--cache", l.cache, "--watch-only", "--keep", "built,drvs", "--exclude", "secret*")
	drvs := append(m.query(t, "--deriver", kept), drv, kept)
	l.syncs(t, slices.Sorted(slices.Values(drvs)), slices.Sorted(slices.Values(drvs)))
}

func TestSyncSaysWhatItDidInJSON(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	path := m.buildOne(t, "built")
	l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
	l.run(t, "larder", "init", "--cache", l.cache, "--watch-only")
	want := map[string]any{
		"dry_run": true, "registered": json.Number("2"), "wanted": json.Number("1"), "queued": json.Number("1"),
		"nar_bytes": json.Number(m.run(t, "nix-store", "--query", "--size", path)),
	}
	check := func(args []string, fields ...string) map[string]any {
		t.Helper()
		o := object(t, l.run(t, append([]string{"larder", "sync", "--json"}, args...)...), fields...)
		for name, value := range want {
			if o[name] != value {
				t.Errorf("sync %q: %s is %v, want %v", args, name, o[name], value)
			}
		}
		return o
	}
	fields := []string{"dry_run", "registered", "wanted", "queued", "nar_bytes"}
	if o := check([]string{"--dry-run"}, append(fields, "paths")...); fmt.Sprint(o["paths"]) != fmt.Sprint([]string{path}) {
		t.Errorf("paths are %v", o["paths"])
	}
	want["dry_run"] = false
	check(nil, fields...)
	refusal{2, `unexpected argument "now"`, "larder sync --help"}.changesNothing(t, l.machine, "larder", "sync", "now")
}

// A daemon that is alive does what a sync queues, whosever it is.
func TestSyncBesideADaemon(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := userWatcher(t, n)
		before := l.as(bob).build(t, chain("20")...)
		l.run(t, "larder", "init", "--queue", l.queue, "--keep", "") // so that nobody looks at them yet
		l.startWorker(t, "--poll", "50ms")
		eventually(t, "the daemon to have looked", func() bool { return *l.fullStatus(t).Unseen == 0 })
		l.run(t, "larder", "init", "--queue", l.queue, "--keep", "built")
		l.run(t, "larder", "sync", "--queue", l.queue)
		l.reach(t, before...)
		equalPaths(t, "links", l.linked(t), nil)
	})
}

// To decide takes the database, and the cache's directory. What is in the store is
// read when it is copied.
func TestSyncDecidesWithoutReadingTheStore(t *testing.T) {
	t.Parallel()
	count := 5000
	if os.Getenv("LARDER_LONG") == "1" {
		count = 100_000
	}
	m := newMachine(t, nixes[0])
	m.buildOne(t, "real") // makes the database
	db, err := sql.Open("sqlite3", "file:"+m.host("/nix/var/nix/db/db.sqlite")+"?mode=rw")
	must(t, err)
	_, err = db.Exec(`
		insert into ValidPaths (path, hash, registrationTime, narSize, ultimate)
		with recursive numbers(i) as (select 1 union all select i + 1 from numbers where i < ?)
		select printf('/nix/store/%032d-nowhere', i), printf('sha256:%064d', i), 1, 1000, 1 from numbers`, count)
	must(t, err)
	must(t, db.Close())
	l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
	l.run(t, "larder", "init", "--cache", l.cache, "--watch-only")
	must(t, os.Rename(m.host("/nix/store"), m.host("/nix/away"))) // nobody looks there

	if planned := l.planned(t); len(planned) != count+1 {
		t.Errorf("%d paths would be queued, want %d", len(planned), count+1)
	}
	out := l.run(t, "larder", "sync")
	if want := fmt.Sprintf("queued %d of %d paths, ", count+1, count+2); !strings.HasPrefix(out, want) {
		t.Errorf("sync says %q, want %q", out, want)
	}
	if roots := len(l.rootFiles(t)); roots != count+1 {
		t.Errorf("%d roots, want %d", roots, count+1)
	}
	if again := l.run(t, "larder", "sync"); again != out {
		t.Errorf("the second sync says %q", again)
	}
	if s := l.fullStatus(t); s.Waiting != count+1 {
		t.Errorf("%d jobs are waiting, want %d", s.Waiting, count+1)
	}
}
