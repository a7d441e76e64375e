package watcher

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nix-larder/larder/queue"
)

// wantDoubt reports how often store and cache were compared for a reason.
func (r *rig) wantDoubt(n int, reason string) {
	r.t.Helper()
	if got := strings.Count(r.log.String(), reason); got != n {
		r.t.Errorf("compared %d times because %q, want %d", got, reason, n)
	}
}

// TestRestoredDatabaseIsFoundOut has a number of Nix mean another path than it did.
func TestRestoredDatabaseIsFoundOut(t *testing.T) {
	r := newRig(t)
	r.add("before")
	r.begin()
	a := r.add("a")
	restore := r.backup()
	x := r.add("x")
	r.look()
	r.want("before", a, x)

	row := r.row(x)
	restore()
	y := r.add("y")
	if r.row(y) != row {
		t.Fatalf("row of y is %d, want x's, %d", r.row(y), row)
	}
	r.look()
	r.wantDoubt(1, "was restored")
	r.want("after it was restored", y) // what was there before the queue still is
	r.setPresent(false, x)
	if again := r.add("x"); again != x {
		t.Fatalf("it is %s now, want %s", again, x)
	}
	r.look()
	r.want("after it came again", x)
	r.wantDoubt(1, "was restored")
}

// TestRestoredDatabaseWithNothingSinceIsNoLoss looks before anything is registered.
func TestRestoredDatabaseWithNothingSinceIsNoLoss(t *testing.T) {
	for _, left := range []bool{false, true} {
		t.Run(map[bool]string{false: "nothing after the start is left", true: "something is left"}[left], func(t *testing.T) {
			r := newRig(t)
			before := r.add("before")
			r.begin()
			restore := r.backup()
			var a []string
			if left {
				a = append(a, r.add("a"))
				restore = r.backup()
			}
			x := r.add("x")
			r.look()
			r.want("before", append(a, x)...)
			restore()
			r.look()
			r.want("after it was restored")
			r.setPresent(false, append(a, before, x)...)
			y := r.add("y")
			r.look()
			for _, path := range r.work() {
				if path == before && !left {
					t.Error("what was there before the queue was queued")
				}
				if path == y {
					y = "queued"
				}
			}
			if y != "queued" {
				t.Error("what was registered after it was restored was missed")
			}
			r.setPresent(false, x)
			r.add("x")
			r.look()
			r.want("after it came again", x)
		})
	}
}

// TestRestoredDatabaseFromBeforeTheQueueIsNoLoss has numbers from before the start
// used again, some of which nobody remembers.
func TestRestoredDatabaseFromBeforeTheQueueIsNoLoss(t *testing.T) {
	for _, looked := range []bool{false, true} {
		t.Run(map[bool]string{false: "new before the first look", true: "new after the first look"}[looked], func(t *testing.T) {
			r := newRig(t)
			old := r.addMany("old", 40)
			restore := r.backup()
			r.addMany("newer", 60)
			r.begin()
			r.look()
			restore()
			// Of these nobody can tell whether they came before or after.
			uncertain := old[queue.Evidence/2:]
			if looked {
				r.look()
				r.want("after it was restored", uncertain...)
				uncertain = nil
			}
			y := r.add("y")
			r.look()
			r.want("afterwards", append(uncertain[:len(uncertain):len(uncertain)], y)...)
			r.setPresent(false, y)
			r.Epoch = "two"
			r.look()
			r.want("in a new epoch", y)
		})
	}
}

func TestNothingIsLeftOfWhatIsRemembered(t *testing.T) {
	const middle = 6 // that is not remembered
	r := newRig(t)
	before := r.addMany("before", queue.Evidence+middle)
	r.begin()
	after := r.addMany("after", 2)
	r.look()
	r.want("before", after...)

	// As long as something is left, numbers mean what they did.
	r.delete(after...)
	r.look()
	r.delete(before[queue.Evidence/2+middle:]...)
	r.setPresent(false, after...)
	next := r.add("next")
	r.look()
	r.want("with the oldest left", next)

	r.delete(append(before[:queue.Evidence/2:queue.Evidence/2], next)...)
	last := r.add("last")
	r.look()
	r.want("with nothing left", append(before[queue.Evidence/2:queue.Evidence/2+middle], last)...)
	after = r.addMany("afterwards", 2)
	r.look()
	r.want("afterwards", after...)
}

// TestRestoredDatabaseIsFoundOutByWhatIsMissing has numbers used again of which nobody
// remembers what they were.
func TestRestoredDatabaseIsFoundOutByWhatIsMissing(t *testing.T) {
	r := newRig(t)
	before := r.add("before")
	r.begin()
	restore := r.backup()
	r.setPresent(true, r.registerMany("after", 3*queue.Evidence)...)
	r.look()
	restore()
	again := r.addMany("again", queue.Evidence)
	r.look()
	r.want("after it was restored", again...)
	r.delete(before)
	r.look()
	r.want("afterwards")
}

func TestNewEpochComparesFromTheStart(t *testing.T) {
	r := newRig(t)
	r.add("before")
	r.begin()
	all := r.addMany("after", 3)
	r.look()
	r.want("before", all...)
	r.Epoch = "two"
	r.look()
	r.want("all is present")
	r.setPresent(false, all[1])
	r.look()
	r.want("in the same epoch")
	r.Epoch = "three"
	r.look()
	r.want("in a new epoch", all[1])
	r.look()
	r.want("in the same epoch")
	r.wantDoubt(2, "started anew")
	if start := r.cursor().Start; start != 1 {
		t.Errorf("start is %d, want 1", start)
	}
}

// TestDoubtThatIsCutShortForgetsNothing ends the look that compares, when of what was
// there before the queue nothing is left that is remembered.
func TestDoubtThatIsCutShortForgetsNothing(t *testing.T) {
	const middle = 2
	r := newRig(t)
	before := r.addMany("before", queue.Evidence+middle)
	r.begin()
	after := r.add("after")
	r.look()
	r.want("before", after)
	r.delete(append(before[:queue.Evidence/2:queue.Evidence/2], before[queue.Evidence/2+middle:]...)...)
	r.setPresent(false, after)

	ctx, cancel := context.WithCancel(t.Context())
	r.Epoch = "two"
	c := r.Config
	c.Present = func(_ context.Context, paths []string) []bool { cancel(); return absent(ctx, paths) }
	if _, err := Look(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled Look: %v, want context.Canceled", err)
	}
	r.look()
	r.want("in a new epoch", after)
}

// TestStoreThatIsMadeAnewIsQueuedWhole has numbers begin at 1 again.
func TestStoreThatIsMadeAnewIsQueuedWhole(t *testing.T) {
	for name, count := range map[string]int{"nothing": 0, "fewer": 2, "as many": 6, "more": 9} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.addMany("before", 3)
			r.begin()
			after := r.addMany("after", 3)
			r.look()
			r.want("before", after...)
			must(t, r.Store.Close())
			r.nix.Forget(t)
			r.reopen()
			r.makeRoots()
			if count == 0 {
				r.look()
				r.want("in an empty store")
			}
			all := r.addMany("anew", max(count, 1))
			r.look()
			r.want("in the new store", all...)
		})
	}
}

// TestStoreThatIsMadeAnewMayBeginLikeTheOldOne has the first rows be for the same
// paths, as when a machine is installed by a script.
func TestStoreThatIsMadeAnewMayBeginLikeTheOldOne(t *testing.T) {
	for _, begun := range []bool{false, true} {
		t.Run(map[bool]string{false: "old store has what came before", true: "old store has more"}[begun], func(t *testing.T) {
			r := newRig(t)
			before := []string{r.add("before-1"), r.add("before-2")}
			r.begin()
			var after []string
			if begun {
				after = append(after, r.add("after"))
			}
			r.look()
			r.want("before", after...)
			must(t, r.Store.Close())
			r.nix.Forget(t)
			r.reopen()
			r.makeRoots()
			if r.add("before-1") != before[0] {
				t.Fatal("it is another path")
			}
			r.look()
			r.want("in the new store")
			next := r.add("next")
			r.look()
			if got := r.work(); len(got) == 0 || got[len(got)-1] != next {
				t.Errorf("jobs are %q, want %s in them", got, next)
			}
		})
	}
}
