package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func TestDrainEndsWhenNothingIsLeft(t *testing.T) {
	r := newRig(t)
	must(t, Drain(t.Context(), r.Config)) // nothing at all

	r.copy = func(_ context.Context, p string, attempt int) error {
		switch {
		case p == path(2):
			return ErrHopeless
		case p == path(3) && attempt == 1:
			return errDisk // and a second later it goes
		}
		return nil
	}
	r.add(1, 2, 3)
	must(t, r.Roots.Protect(t.Context(), path(4)))
	must(t, Drain(t.Context(), r.Config))
	for _, n := range []int{1, 3, 4} {
		if !r.gone(n) || r.rooted(n) {
			t.Errorf("job %d is left over", n)
		}
	}
	if row, _ := r.row(2); row.State != queue.Dead {
		t.Errorf("job 2 is %+v, want a dead letter", row)
	}
	if r.copied(3) != 2 || r.copied(4) != 1 {
		t.Errorf("copied %d and %d times, want 2 and 1", r.copied(3), r.copied(4))
	}
}

// TestDrainTakesWhatIsAddedMeanwhile has each job add the next one.
func TestDrainTakesWhatIsAddedMeanwhile(t *testing.T) {
	const last = 30
	r := newRig(t)
	var n int
	r.copy = func(context.Context, string, int) error {
		n++ // there is one at a time
		switch {
		case n == last:
		case n%3 == 0:
			must(t, r.Roots.Protect(t.Context(), path(n+1))) // as a hook does that can't reach the queue
		default:
			r.add(n + 1)
		}
		return nil
	}
	r.add(1)
	must(t, Drain(t.Context(), r.Config))
	for n := 1; n <= last; n++ {
		if r.copied(n) != 1 || !r.gone(n) || r.rooted(n) {
			t.Errorf("job %d was copied %d times, gone: %v, rooted: %v", n, r.copied(n), r.gone(n), r.rooted(n))
		}
	}
}

func TestDrainEndsInTime(t *testing.T) {
	r := newRig(t)
	r.StopTimeout = time.Millisecond
	r.copy = func(ctx context.Context, _ string, _ int) error {
		<-ctx.Done()
		return ctx.Err()
	}
	r.add(1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := Drain(ctx, r.Config); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: %v, want context.DeadlineExceeded", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if row, _ := r.row(1); row.State != queue.Waiting || row.Attempts != 0 {
		t.Errorf("job is %+v, want it as it was", row)
	}

	// A job that waits for its next attempt is left, too.
	r.copy = func(context.Context, string, int) error { return errDisk }
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := Drain(ctx, r.Config); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: %v, want context.DeadlineExceeded", err)
	}
}

// A cache that was not there while a run was under way may be there at its end.
func TestWorkerTriesOnceMoreWhenItIsToFinish(t *testing.T) {
	for _, back := range []bool{true, false} {
		r := newRig(t)
		finish := make(chan struct{})
		r.Finish, r.Patience = finish, 500*time.Millisecond
		r.copy = func(_ context.Context, _ string, attempt int) error {
			if attempt > 1 { // which may begin before it is told to finish
				<-finish
				if back {
					return nil
				}
			}
			return fmt.Errorf("%w: %w", ErrUnavailable, errDisk)
		}
		r.add(1)
		w := r.start()
		trouble.Eventually(t, "a pause", func() bool { return strings.Contains(r.log.String(), "pausing") })
		close(finish)
		if err := w.wait(t); back != (err == nil) || back != r.gone(1) {
			t.Errorf("with the cache back %v: %v, job gone %v", back, err, r.gone(1))
		}
	}
}
