package integration

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A collector runs all the time, beside everything that fills a store. What it finds
// rooted is not lost, and nothing that it takes away leaves a wrong entry.
func TestCollectorBesideAWatcherTakesNothingThatIsQueued(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, kind := range []string{"both", "watch-only"} {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				goods := newGoods(t, n)
				l := newLarder(t, n, "--watch-only="+strconv.FormatBool(kind == "watch-only"))
				d := l.startWorker(t, "--poll", "50ms")
				at := &collections{larder: l, kept: make(map[string]bool), again: goods.paths}
				at.besides(t, goods.loops(t, l))
				l.settles(t)

				copied, gone := jobs(d, "copied job"), jobs(d, "dropped job: its path is gone")
				t.Logf("%d collections, %d rooted, %d copied, %d gone", at.count, len(at.kept), len(copied), len(gone))
				for _, path := range gone {
					if at.kept[path] {
						t.Errorf("%s was rooted before a collection began, and is gone", path)
					}
				}
				hasPaths(t, "cache", l.cached(t), copied)
				if at.count == 0 || len(copied) < 10 {
					t.Errorf("%d collections, and %d jobs were copied: that says nothing", at.count, len(copied))
				}
				l.holds(t, l.cached(t))
			})
		}
	})
}

// What waits in the queue, for as long as it has to, is there when its turn comes.
func TestCollectorTakesNothingThatAWatcherHasQueued(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newSmallLarder(t, n)
		before := l.validPaths(t)
		l.fill(t)
		d := l.startWorker(t, "--poll", "1h", "--watch-only")
		l.add(t, "added")
		l.addTexts(t, "text", 20)
		outs := l.build(t, append([]string{"--expr", oneExpr("built")}, without...)...)
		want := l.wanted(t, l.arrived(t, before))
		hasPaths(t, "what has come", want, outs)
		d.waitFor(t, "no space left on device")
		eventually(t, "everything to be queued", func() bool { return len(l.rootFiles(t)) == len(want) })
		equalPaths(t, "roots", l.rooted(t), want)
		for range 3 {
			l.collectGarbage(t)
		}
		hasPaths(t, "store", l.validPaths(t), want)
		l.makeSpace(t)
		l.settles(t)
		equalPaths(t, "cache", l.listed(t), want)
		l.verify(t)
	})
}

// jobs returns the paths of jobs of which a daemon has logged something, sorted.
func jobs(d *process, msg string) (paths []string) {
	for line := range strings.Lines(d.stderr.String()) {
		if _, rest, found := strings.Cut(line, " path="); found && strings.Contains(line, `msg="`+msg+`"`) {
			path, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// collections are what collectors did.
type collections struct {
	*larder
	again []string        // what is registered more than once, sorted
	count int             // how many came to their end
	kept  map[string]bool // what was valid and rooted when one began, without those
}

// besides collects garbage until some commands have ended. That such a command fails
// may be Nix's own race with its collector, but they can't all. A collector may lose
// that race, too: what it is about to delete has got a referrer.
func (c *collections) besides(t *testing.T, commands [][]string) {
	t.Helper()
	var running []*process
	for _, command := range commands {
		running = append(running, c.start(t, command...))
	}
	working := func(p *process) bool { return !p.ended() }
	for slices.ContainsFunc(running, working) {
		// No collector runs now, and later ones will look at the roots.
		rooted := c.rooted(t)
		invalid := c.lines(t, append([]string{"nix-store", "--check-validity", "--print-invalid"}, rooted...)...)
		for _, path := range rooted {
			// A job of what comes again may be about the time before.
			if _, found := slices.BinarySearch(c.again, path); !found && !slices.Contains(invalid, path) {
				c.kept[path] = true
			}
		}
		switch _, stderr, exit := c.tryRun(t, "nix-store", "--gc"); {
		case exit == 0:
			c.count++
		case strings.Contains(stderr, "because it is in use by"):
			t.Log(stderr)
		default:
			t.Fatalf("nix-store --gc: exit %d: %s", exit, stderr)
		}
	}
	for _, p := range running {
		if _, stderr, exit := p.wait(t); exit != 0 {
			t.Logf("exit %d: %s: %s", exit, strings.Join(p.args, " "), stderr)
		}
	}
}

// loops returns commands that fill the store for a while.
func (g *goods) loops(t *testing.T, l *larder) [][]string {
	t.Helper()
	build := []string{manyGraph, "--arg", "count", "20", "--arg", "chained", "true"}
	// Between evaluating and building, Nix's own collector is a danger to nix-build.
	drvs := l.instantiate(t, append(build, "--add-root", "drv", "--indirect")...)
	loop := func(script string, args ...string) []string {
		return append([]string{"sh", "-uc", `for i in 1 2 3 4 5 6 7 8; do ` + script + `; done`, "-"}, args...)
	}
	return [][]string{
		append([]string{"nix-store", "--realise", "--option", "substituters", ""}, drvs...),
		loop(`echo "$i" > /root/"added-$i"; nix-store --add /root/"added-$i"`),
		loop(`nix-instantiate --eval --read-write-mode --expr "builtins.toFile \"text-$i\" \"$i\""`),
		loop(`nix-store --option require-sigs false --import < "$1"`, g.dir+"/export"),
		append(loop(`nix copy --no-check-sigs --from "file://`+g.dir+`/copied" "$@"`), g.copied...),
		append(loop(`nix-store --realise --max-jobs 0 --option substituters "file://`+g.dir+`/unsigned?trusted=1" "$@"`), g.unsigned...),
	}
}

// Nobody of ours keeps a collector waiting, however long a copy takes: not even who
// is stopped in the middle of one.
func TestCollectorDoesNotWaitForCopies(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		random := rand.New(rand.NewPCG(seed(t), 2))
		l := newLarder(t, n, "--compression", "zstd:22")
		outs := l.build(t, "--expr", `builtins.genList (i: import /larder/graphs/derive.nix "big-${toString i}" { } "head -c 1M /dev/urandom > $out") 6`)
		d := l.startWorker(t, "--poll", "1h")
		lock, err := os.OpenFile(l.host("/nix/var/nix/gc.lock"), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		defer lock.Close()
		stops, inHand := 0, 0
		for stops < 15 && len(l.rootFiles(t)) > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(200 * time.Millisecond)))) // any moment
			d.freeze(t)
			stops++
			// In the middle of a commit nobody else can read what is in hand.
			if _, _, exit := l.tryRun(t, "larder", "status", "--queue", l.queue); exit == 0 && l.status(t).Claimed > 0 {
				inHand++
			}
			// This is how a collector asks for it.
			if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
				t.Errorf("somebody has the collector's lock: %v", err)
			}
			must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_UN))
			l.collectGarbage(t)
			d.signal(t, syscall.SIGCONT)
		}
		t.Logf("stopped %d times, %d times with a job in hand", stops, inHand)
		if inHand == 0 {
			t.Error("nothing was in hand: that says nothing")
		}
		l.settles(t)
		slices.Sort(outs)
		l.holds(t, outs)
	})
}

// What is gone before anybody saw it is nobody's loss.
func TestWhatWasDeletedBeforeItWasSeenLeavesNothing(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--watch-only")
		l.add(t, "first")
		l.run(t, "nix-store", "--delete", l.add(t, "deleted"))
		l.run(t, "nix-store", "--delete", l.buildOne(t, "built-and-deleted"))
		last := l.add(t, "last")
		l.run(t, "nix-store", "--delete", l.add(t, "the-very-last"))
		want := l.wanted(t, l.validPaths(t))
		l.drain(t)
		l.nothingLeft(t)
		l.holds(t, want)
		hasPaths(t, "cache", want, []string{last})

		// And nothing of all that it had seen is left.
		l.collectGarbage(t)
		later := l.add(t, "later")
		d := l.startWorker(t, "--poll", "1h")
		l.settles(t)
		hasPaths(t, "cache", l.cached(t), []string{later})
		if strings.Contains(d.stderr.String(), "level=WARN") {
			t.Errorf("it worries about something: %v", d)
		}
	})
}

func TestPathThatComesAgainGetsInAgainIfItsEntryIsLost(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--watch-only")
		l.startWorker(t, "--poll", "1h")
		for i := range 3 {
			path := l.add(t, "again")
			l.settles(t)
			l.holds(t, []string{path})
			l.run(t, "nix-store", "--delete", path)
			must(t, os.Remove(filepath.Join(l.cache, filepath.Base(path)[:32]+".narinfo")))
			if i == 1 {
				must(t, os.Remove(filepath.Join(l.cache, nar(t, l.cache))))
			}
		}
	})
}

// nar returns the only NAR of a cache.
func nar(t *testing.T, cache string) string {
	t.Helper()
	nars, err := filepath.Glob(filepath.Join(cache, "nar", "*.nar*"))
	must(t, err)
	if len(nars) != 1 {
		t.Fatalf("NARs are %q", nars)
	}
	return filepath.Join("nar", filepath.Base(nars[0]))
}
