package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

const (
	saysFull = "pausing until there is room"
	saysRoom = "there is room in the cache again"
)

// TestNothingIsClaimedWithoutRoom has a disk that is short twice.
func TestNothingIsClaimedWithoutRoom(t *testing.T) {
	r := newRig(t)
	short := true
	r.Room = func() error {
		if short {
			return fmt.Errorf("cache is unavailable: %w", errDisk)
		}
		return nil
	}
	w, stop := r.worker()
	defer stop()
	w.Attempts = 1
	for spell := 1; spell <= 2; spell++ {
		jobs := []int{2*spell - 1, 2 * spell}
		r.add(jobs...)
		short = true
		for range 3 {
			w.paused = time.Time{} // so that the test need not wait
			must(t, w.round(t.Context()))
		}
		if n := strings.Count(r.log.String(), saysFull); n != spell {
			t.Errorf("said %d times that there is no room, want %d:\n%s", n, spell, r.log.String())
		}
		for _, n := range jobs {
			if row, _ := r.row(n); r.copied(n) != 0 || row.State != queue.Waiting || row.Attempts != 0 || !r.rooted(n) {
				t.Errorf("job %d is %+v, copied %d times", n, row, r.copied(n))
			}
		}
		short = false
		w.paused = time.Time{}
		must(t, w.round(t.Context()))
		for range jobs {
			copied := <-w.done
			w.running--
			w.settle(copied)
		}
		if !r.gone(jobs[0]) || !r.gone(jobs[1]) {
			t.Errorf("jobs %d are left over", jobs)
		}
		if n := strings.Count(r.log.String(), saysRoom); n != spell {
			t.Errorf("said %d times that there is room, want %d", n, spell)
		}
	}
}

func TestWorkerLooksForRoomByItself(t *testing.T) {
	r := newRig(t)
	var asked atomic.Int64
	r.Room = func() error {
		if asked.Add(1) <= 2 {
			return fmt.Errorf("cache is unavailable: %w", errDisk)
		}
		return nil
	}
	r.add(1, 2)
	r.start()
	trouble.Eventually(t, "all are done", func() bool { return r.gone(1) && r.gone(2) })
}

// TestCopyThatFindsNoRoomCostsNoAttempt has a large job for which there never is room, and
// small ones.
func TestCopyThatFindsNoRoomCostsNoAttempt(t *testing.T) {
	r := newRig(t)
	r.Attempts, r.Jobs = 1, 1
	r.copy = func(_ context.Context, p string, _ int) error {
		if p == path(1) {
			return fmt.Errorf("%w: %w", ErrNoRoom, errDisk)
		}
		return nil
	}
	r.add(1, 2, 3, 4)
	r.start()
	trouble.Eventually(t, "it was tried three times", func() bool { return r.copied(1) >= 3 })
	trouble.Eventually(t, "the others are done", func() bool { return r.gone(2) && r.gone(3) && r.gone(4) })
	trouble.Eventually(t, "it waits", func() bool { row, _ := r.row(1); return row.State == queue.Waiting })
	if row, _ := r.row(1); row.Attempts != 0 || !r.rooted(1) || !strings.Contains(row.Error, errDisk.Error()) {
		t.Errorf("job is %+v", row)
	}
	if n := strings.Count(r.log.String(), saysFull); n != 1 {
		t.Errorf("said %d times that there is no room, want once:\n%s", n, r.log.String())
	}
}

func TestPausesForRoomAreShort(t *testing.T) {
	w := &worker{Config: newRig(t).Config}
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		w.pauseForRoom(errDisk)
		if w.pause != want*time.Second {
			t.Errorf("pause is %v, want %v", w.pause, want*time.Second)
		}
		w.paused = time.Now()
	}
}

// Whoever waits for the end does not wait for room that nobody makes.
func TestFinishingWorkerGivesUpWithoutRoom(t *testing.T) {
	r := newRig(t)
	r.Patience = 10 * time.Millisecond
	r.Room = func() error { return errDisk }
	r.add(1)
	if err := r.startWith(Drain).wait(t); !errors.Is(err, ErrNoRoom) || !errors.Is(err, errDisk) {
		t.Errorf("Drain: %v", err)
	}
	if row, _ := r.row(1); row.State != queue.Waiting || row.Attempts != 0 {
		t.Errorf("job is %+v", row)
	}
	// With nothing to do there is nothing to wait for.
	must(t, r.Queue.Add(t.Context(), ""))
	empty := newRig(t)
	empty.Room = func() error { return errDisk }
	must(t, empty.startWith(Drain).wait(t))
}

// Roots that hooks could not turn into jobs come in as there is room.
func TestRootsAreAdoptedAsTheQueueHasRoom(t *testing.T) {
	r := newRig(t)
	s, err := r.Queue.Settings(t.Context())
	must(t, err)
	s.MaxQueue = "2"
	must(t, r.Queue.SetSettings(t.Context(), s))
	for n := range 5 {
		must(t, r.Roots.Protect(t.Context(), path(n)))
	}
	n, err := Adopt(t.Context(), r.Queue, r.Roots, storeDir)
	must(t, err)
	if again, err := Adopt(t.Context(), r.Queue, r.Roots, storeDir); n != 2 || again != 0 || err != nil {
		t.Errorf("adopted %d, and then %d: %v", n, again, err)
	}
	must(t, r.startWith(Drain).wait(t))
	for n := range 5 {
		if r.copied(n) != 1 || r.rooted(n) {
			t.Errorf("path %d was copied %d times, rooted: %v", n, r.copied(n), r.rooted(n))
		}
	}
}
