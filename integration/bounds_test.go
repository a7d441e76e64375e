package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// A spaceStatus is what larder status --json prints of what is bounded.
type spaceStatus struct {
	FreeBytes *int64 `json:"free_bytes"`
	MinFree   int64  `json:"min_free"`
	MaxQueue  int64  `json:"max_queue"`
	Paused    string `json:"paused"`
}

func (l *larder) space(t *testing.T) (s spaceStatus) {
	t.Helper()
	must(t, json.Unmarshal([]byte(l.run(t, "larder", "status", "--json")), &s))
	return s
}

// leave fills the disk of the cache, but for some MiB.
func (l *larder) leave(t *testing.T, mib string) {
	t.Helper()
	l.run(t, "sh", "-euc", `free=$(stat --file-system --format %a /srv); head -c $(( free * 4096 - $1 * 1048576 )) /dev/zero > /srv/filler`, "-", mib)
}

// A daemon pauses while the disk is short, the builds go on, and when there is room
// everything comes into the cache by itself.
func TestDaemonPausesUntilThereIsRoom(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newSmallLarder(t, n)
		d := l.startWorker(t)
		before := l.buildOne(t, "before")
		l.settles(t)
		l.leave(t, "2")
		// A running daemon hears of it.
		l.run(t, "larder", "init", "--min-free", "2.5MiB")
		d.waitFor(t, "settings have changed")
		d.waitFor(t, "pausing until there is room")
		want := []string{before, l.buildOne(t, "small"), l.build(t, "--expr", incompressible("big"))[0], l.add(t, "added")}
		slices.Sort(want)
		eventually(t, "the watcher", func() bool { return len(l.queued(t)) == 3 })
		// Wherever a person looks, that is said.
		if s := l.space(t); s.MinFree != 5<<19 || s.FreeBytes == nil || *s.FreeBytes > 2<<20 || !strings.Contains(s.Paused, "2.5 MiB are to stay free") {
			t.Errorf("status has %+v", s)
		}
		if text := l.run(t, "larder", "status"); !strings.Contains(text, "\npaused   ") {
			t.Errorf("status says %s", text)
		}
		stdout, _, exit := l.tryRun(t, "larder", "doctor")
		if exit != 5 || !strings.Contains(stdout, "are left on the cache's disk, of which 2.5 MiB are to stay free") {
			t.Errorf("doctor: exit %d: %s", exit, stdout)
		}
		// Each of them was a reason to look for room, nothing has been tried, and nothing more
		// was said.
		for _, j := range l.status(t).Jobs {
			if j.State != "waiting" || j.Attempts != 0 || j.Error != "" {
				t.Errorf("job is %+v", j)
			}
		}
		equalPaths(t, "cache", l.listed(t), []string{before})
		if n := strings.Count(d.stderr.String(), "pausing"); n != 1 {
			t.Errorf("said %d times that it pauses: %v", n, d)
		}
		l.collectGarbage(t)
		l.makeSpace(t)
		d.waitFor(t, "there is room in the cache again")
		l.settles(t)
		l.nothingLeft(t)
		equalPaths(t, "cache", l.listed(t), want)
		l.verify(t)
		if s := l.space(t); s.Paused != "" {
			t.Errorf("status has %+v", s)
		}
		d.stop(t)
	})
}

func TestThoseWhoAddSayThatThereIsNoRoom(t *testing.T) {
	t.Parallel()
	l := newSmallLarder(t, nixes[0])
	path := l.build(t, "--expr", incompressible("big"))[0]
	l.run(t, "sh", "-c", "nix-store --export "+path+" > /var/tmp/export")
	l.leave(t, "2")
	const problem, hint = "too little free space: ", "make room"
	cache := []string{"--cache", "/srv/cache", "--min-free", "3MiB"}
	refusal{1, problem, hint}.of(t, l.machine, append(append([]string{"larder", "push"}, cache...), path)...)
	refusal{1, problem, hint}.of(t, l.machine, "sh", "-c", "exec larder import --cache /srv/cache --min-free 3MiB < /var/tmp/export")
	refusal{3, "1 jobs left over: ", hint}.ofDrain(t, l, "--min-free", "3MiB", "--timeout", "1s")
	refusal{2, `--min-free is "much", want a size`, "--min-free 10GiB"}.of(t, l.machine, "larder", "push", "--cache", "/srv/cache", "--min-free", "much", path)
	refusal{2, `--max-queue is "-1"`, "--max-queue 100000"}.of(t, l.machine, "larder", "init", "--max-queue", "-1")
	// The environment says it to all; the queue's settings to those who name no cache.
	short := l.with("LARDER_MIN_FREE=3MiB")
	refusal{1, problem, hint}.of(t, short, "larder", "push", "--cache", "/srv/cache", path)
	l.run(t, "larder", "init", "--min-free", "3MiB")
	refusal{1, problem, hint}.of(t, l.machine, "larder", "push", path)
	refusal{1, problem, hint}.of(t, l.machine, append(append([]string{"larder", "pin"}, cache...), "main", path)...)
	l.run(t, "larder", "push", "--min-free", "0", path)
	equalPaths(t, "cache", l.listed(t), []string{path})
	l.verify(t)

	// So do those who change what is there, and nothing is lost.
	l.run(t, "nix-store", "--generate-binary-cache-key", "cache.example.org-1", "/root/key", "/root/key.pub")
	l.run(t, "larder", "push", "--cache", "/root/other", "--min-free", "0", l.build(t, "--expr", incompressible("other"))[0])
	l.run(t, "larder", "push", "--cache", "/srv/cache", "--min-free", "0", "--compression", "none", l.add(t, "text"))
	before := files(t, l.host("/srv/cache"))
	for _, args := range [][]string{
		{"sign", "--signing-key-file", "/root/key"},
		{"recompress"},
		{"merge", "/root/other"},
	} {
		args = append(append([]string{"larder", args[0]}, cache...), args[1:]...)
		refusal{1, problem, hint}.of(t, l.machine, args...)
	}
	unchanged(t, "what finds no room", before, files(t, l.host("/srv/cache")))
	l.run(t, "sh", "-c", "truncate -s 20 /srv/cache/nar/*.nar*")
	stdout, stderr, exit := l.tryRun(t, append([]string{"larder", "verify", "--repair"}, cache...)...)
	if exit != 5 || !strings.Contains(stdout, "left, since") || !strings.Contains(stdout, problem) {
		t.Errorf("verify --repair: exit %d: %s%s", exit, stdout, stderr)
	}
	l.makeSpace(t)
	l.run(t, "larder", "verify", "--repair", "--cache", "/srv/cache", "--min-free", "1MiB")
	l.verify(t)
}

// A run never fails for want of room, and nobody waits for it.
func TestRunWithoutRoomSaysSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags []string
		exit  int
	}{"lenient": {nil, 0}, "strict": {[]string{"--strict"}, 3}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := provider{nixes[0], roles[0]}.job(t, "")
			j.smallDisk(t)
			args := slices.Insert(j.around("nix-build", "--no-out-link", "--expr", oneExpr("small")), 2, append(c.flags, "--min-free", "1GiB")...)
			args[slices.Index(args, "/root/cache")] = "/srv/cache"
			p := j.start(t, args...)
			o := j.ends(t, p)
			if o.exit != c.exit || o.report.LeftOver != 1 || o.report.Added != 0 || !strings.Contains(o.stderr, "of which 1.0 GiB are to stay free") {
				t.Errorf("exit %d, report %+v: %v", o.exit, o.report, p)
			}
			j.leftNothing(t)
		})
	}
}

// What a bounded queue has no room for is found in Nix's database when it has, by
// whoever works.
func TestBoundedQueueLosesNothing(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, work := range map[string]func(t *testing.T, l *larder){
			"drain": func(t *testing.T, l *larder) { l.drain(t) },
			"daemon": func(t *testing.T, l *larder) {
				d := l.startWorker(t, "--poll", "1h")
				l.settles(t)
				d.stop(t)
			},
			"drain beside a daemon": func(t *testing.T, l *larder) {
				d := l.startWorker(t, "--poll", "1h")
				l.drain(t)
				d.stop(t)
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLarder(t, n, "--max-queue", "3")
				if s := l.space(t); s.MaxQueue != 3 {
					t.Errorf("status has %+v", s)
				}
				want := l.addTexts(t, "text", 20)
				want = append(want, l.built(t, standardGraph)...) // the hook's come on top
				hooked := len(l.queued(t))
				if hooked < 4 {
					t.Errorf("%d jobs of the hook", hooked)
				}
				if text := l.run(t, "larder", "status"); !strings.Contains(text, " (at most 3, and those of the hook)") {
					t.Errorf("status says %s", text)
				}
				work(t, l)
				l.nothingLeft(t)
				slices.Sort(want)
				hasPaths(t, "cache", l.cached(t), want)
				checkWhole(t, l.cache)
				l.verify(t)
			})
		}
	})
}

// Sync of a large store goes through a small queue.
func TestSyncThroughABoundedQueue(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	want := m.addTexts(t, "text", 20)
	l := initLarder(t, m, "--max-queue", "7")
	_, stderr, exit := l.tryRun(t, "larder", "sync")
	if exit != 0 || !strings.Contains(stderr, "the queue is full") {
		t.Errorf("exit %d: %s", exit, stderr)
	}
	if n := len(l.queued(t)); n != 7 {
		t.Errorf("%d jobs are in a queue for 7", n)
	}
	l.drain(t)
	l.nothingLeft(t)
	hasPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values(want)))

	only := initLarder(t, newMachine(t, nixes[0]), "--max-queue", "7", "--hook-only")
	want = only.addTexts(t, "text", 12)
	refusal{3, "the queue is full", "larder sync goes on"}.endsIn(t, only, "larder", "sync")
	only.drain(t)
	only.run(t, "larder", "sync")
	only.drain(t)
	hasPaths(t, "cache", only.cached(t), slices.Sorted(slices.Values(want)))
}

// endsIn is of for what has a result all the same.
func (r refusal) endsIn(t *testing.T, l *larder, args ...string) {
	t.Helper()
	_, stderr, exit := l.tryRun(t, args...)
	if exit != r.exit || !strings.Contains(stderr, r.problem) || !strings.Contains(stderr, r.hint) {
		t.Errorf("exit %d: %s", exit, stderr)
	}
}

// A queue that a timeout left is as full as before, and the rest is not forgotten.
func TestDrainOfABoundedQueueEndsInTime(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--max-queue", "2", "--min-free", "1TiB")
	want := l.addTexts(t, "text", 5)
	refusal{3, "2 jobs left over, and more for which the queue has no room: ", "make room"}.ofDrain(t, l, "--timeout", "5s") // of which to fill the queue takes a moment
	l.run(t, "larder", "init", "--min-free", "0")
	l.drain(t)
	hasPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values(want)))
}
