package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// A worker may die at any moment. Set LARDER_SEED to the seed that a failed run
// printed to have the same moments again, as far as the machine plays along.
func TestNothingIsLostWhenTheWorkerIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	versions, rounds := nixes[:1], 1
	if os.Getenv("LARDER_LONG") == "1" {
		versions, rounds = nixes, 20
	}
	for _, n := range versions {
		for round := range rounds {
			t.Run(fmt.Sprintf("%s/%d", n.name, round), func(t *testing.T) {
				t.Parallel()
				surviveKills(t, n, seed(t))
			})
		}
	}
}

func seed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("LARDER_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("LARDER_SEED=%d", seed)
	return seed
}

func surviveKills(t *testing.T, n nix, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLarder(t, n)
	l.machine = l.with("LARDER_HOOK_DEADLINE=") // as it is in real life
	args := []string{manyGraph, "--arg", "count", "100", "--arg", "chained", strconv.FormatBool(random.IntN(2) == 0)}
	build := l.start(t, append([]string{"nix-build", "--no-out-link", "--max-jobs", "2"}, args...)...)

	kills, claims := 0, 0
	for !build.ended() {
		d := l.start(t, "larder", "daemon", "--poll", "20ms")
		select {
		case <-build.done:
		case <-time.After(time.Duration(random.Int64N(int64(150 * time.Millisecond)))):
		}
		if d.ended() {
			t.Fatalf("ended by itself: %v", d)
		}
		d.kill(t)
		kills++
		checkWhole(t, l.cache)
		claims += l.status(t).Claimed
	}
	if _, _, exit := build.wait(t); exit != 0 {
		t.Fatalf("the build failed: %v", build)
	}
	t.Logf("%d workers were killed, with %d jobs in hand; %d entries then", kills, claims, len(l.cached(t)))
	if kills < 5 {
		t.Errorf("only %d workers were killed while the build ran: that says nothing", kills)
	}

	outs := l.outputs(t, l.instantiate(t, args...)...)
	if len(outs) != 100 {
		t.Fatalf("%d outputs, want 100", len(outs))
	}
	if !gaveUp(build) {
		l.inCacheQueueOrRooted(t, outs)
	}
	l.drain(t)
	l.nothingLeft(t)
	equalPaths(t, "cache", l.cached(t), l.closure(t, outs...))
	checkWhole(t, l.cache)
	l.verify(t)
	sweepsUnfinished(t, l)
}

// sweepsUnfinished makes what killed writers have left behind old, and looks
// whether the next writer removes it.
func sweepsUnfinished(t *testing.T, l *larder) {
	t.Helper()
	unfinished := filepath.Join(l.cache, ".larder", "tmp", "[^.]*")
	left, err := filepath.Glob(unfinished)
	must(t, err)
	for _, file := range append(left, filepath.Join(filepath.Dir(unfinished), "somebody-1-X")) {
		f, err := os.OpenFile(file, os.O_CREATE, 0o644)
		must(t, err)
		must(t, f.Close())
		ago := time.Now().Add(-24 * time.Hour)
		must(t, os.Chtimes(file, ago, ago))
	}
	t.Logf("%d unfinished files were left behind", len(left))
	l.drain(t)
	left, err = filepath.Glob(unfinished)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("still there after a day: %q", left)
	}
}

// Hooks are killed, too: Nix does so when its user presses ^C. What the killed
// ones had registered is lost to larder unless they got as far as the root, but
// nothing that they began is in anybody's way.
func TestKilledHooksAreInNobodysWay(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(seed(t), 0))
	l := newLarder(t, nixes[0])
	builds := l.buildWithoutHook(t, manyGraph, "--arg", "count", "60", "--argstr", "salt", "killed")
	worker := l.startWorker(t, "--poll", "20ms")
	for _, f := range builds[:59] {
		h := l.startHook(t, f)
		time.Sleep(time.Duration(random.Int64N(int64(6 * time.Millisecond)))) // any moment
		syscall.Kill(h.cmd.Process.Pid, syscall.SIGKILL)
		h.wait(t)
	}
	last := l.startHook(t, builds[59])
	if _, stderr, exit := last.wait(t); exit != 0 || stderr != "" {
		t.Errorf("after the others were killed: exit %d, %s", exit, stderr)
	}
	worker.kill(t)
	rooted := l.rooted(t)
	l.drain(t)
	l.nothingLeft(t)
	hasPaths(t, "cache", l.cached(t), rooted)
	hasPaths(t, "cache", l.cached(t), builds[59].outs)
	t.Logf("%d of 60 reached the cache", len(l.cached(t)))
	checkWhole(t, l.cache)
	l.verify(t)
}
