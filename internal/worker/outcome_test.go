package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

var errDisk = errors.New("disk hiccup")

// TestOutcomeDecidesWhatBecomesOfAJob is the table of the package's comment.
func TestOutcomeDecidesWhatBecomesOfAJob(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      error
		attempts int // that it may have
		want     queue.State
		burned   int           // attempts
		delay    time.Duration // until it is due again
	}{
		{name: "done"},
		{name: "gone", err: fmt.Errorf("%w: %w", ErrGone, errDisk)},
		{name: "left out", err: fmt.Errorf("%w: %w", ErrLeftOut, errDisk)},
		{name: "unavailable", err: fmt.Errorf("%w: %w", ErrUnavailable, errDisk), want: queue.Waiting, delay: firstPause},
		{name: "hopeless", err: fmt.Errorf("%w: %w", ErrHopeless, errDisk), want: queue.Dead, burned: 1},
		{name: "failed", err: errDisk, want: queue.Waiting, burned: 1, delay: time.Second},
		{name: "failed for the last time", err: errDisk, attempts: 1, want: queue.Dead, burned: 1},
		{name: "canceled by itself", err: context.Canceled, want: queue.Waiting, burned: 1, delay: time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.Attempts = tt.attempts
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r.copy = func(context.Context, string, int) error {
				cancel() // or it would be tried again
				return tt.err
			}
			r.add(1)
			before := time.Now()
			if err := Run(ctx, r.Config); !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
			after := time.Now()
			row, there := r.row(1)
			if there != (tt.want != "") || row.State != tt.want || row.Attempts != tt.burned {
				t.Errorf("job is %+v, want it %q with %d attempts", row, tt.want, tt.burned)
			}
			// Until it is done nobody may collect the path.
			if r.rooted(1) != there {
				t.Errorf("rooted is %v, want %v", r.rooted(1), there)
			}
			if tt.want == "" {
				return
			}
			if !strings.Contains(row.Error, errDisk.Error()) && tt.err != context.Canceled {
				t.Errorf("reason is %q", row.Error)
			}
			if tt.delay > 0 && (row.Due.Before(before.Add(tt.delay-time.Millisecond)) || row.Due.After(after.Add(tt.delay))) {
				t.Errorf("due in %v, want %v", row.Due.Sub(before), tt.delay)
			}
		})
	}
}

func TestLeftOutJobIsNoFailure(t *testing.T) {
	r := newRig(t)
	r.Attempts = 1
	r.copy = func(_ context.Context, p string, _ int) error {
		if p == path(1) {
			return fmt.Errorf("%w: its name matches %q", ErrLeftOut, "*-path")
		}
		return nil
	}
	r.add(1, 2)
	r.start()
	trouble.Eventually(t, "both are done", func() bool { return r.gone(1) && r.gone(2) && !r.rooted(1) && !r.rooted(2) })
	if r.copied(1) != 1 {
		t.Errorf("tried %d times, want once", r.copied(1))
	}
	var said []string
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, path(1)) {
			said = append(said, line)
		}
		if !strings.Contains(line, "level=INFO") {
			t.Errorf("log has %q", line)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], "left out") || !strings.Contains(said[0], "its name matches") {
		t.Errorf("log has %q of it, want that it was left out, and why", said)
	}
}

func TestFailingJobIsRetriedEachTimeLater(t *testing.T) {
	r := newRig(t)
	r.copy = func(_ context.Context, _ string, attempt int) error { return fmt.Errorf("try %d", attempt) }
	w, stop := r.worker()
	defer stop()
	w.Attempts = 5
	for attempt := 1; attempt <= 5; attempt++ {
		r.add(1) // so that the test need not wait: it makes the job due
		must(t, w.round(t.Context()))
		failed := <-w.done
		before := time.Now()
		w.running--
		w.settle(failed)
		after := time.Now()
		row, _ := r.row(1)
		if want := fmt.Sprintf("try %d", attempt); row.Error != want || row.Attempts != attempt {
			t.Errorf("job is %+v, want %q", row, want)
		}
		if want := time.Second << (attempt - 1); attempt < 5 && (row.Due.Before(before.Add(want-time.Millisecond)) || row.Due.After(after.Add(want))) {
			t.Errorf("attempt %d is due in %v, want %v", attempt+1, row.Due.Sub(before), want)
		}
	}
	if row, _ := r.row(1); row.State != queue.Dead {
		t.Errorf("job is %+v, want a dead letter", row)
	}
	if row, _ := r.row(1); row.Attempts != 5 || r.copied(1) != 5 || !r.rooted(1) {
		t.Errorf("dead letter %+v after %d copies, rooted: %v", row, r.copied(1), r.rooted(1))
	}
}

func TestFailingJobComesAgainByItself(t *testing.T) {
	r := newRig(t)
	r.copy = func(_ context.Context, _ string, attempt int) error {
		if attempt == 1 {
			return errDisk
		}
		return nil
	}
	r.add(1)
	r.start()
	trouble.Eventually(t, "it is done", func() bool { return r.gone(1) })
	if r.copied(1) != 2 {
		t.Errorf("copied %d times, want 2", r.copied(1))
	}
}

func TestDelaysGrowToALimit(t *testing.T) {
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	for i, want := range want {
		if got := delay(i + 1); got != want {
			t.Errorf("delay after attempt %d is %v, want %v", i+1, got, want)
		}
	}
	for attempt := 1; attempt < 1000; attempt++ {
		if a, b := delay(attempt), delay(attempt+1); a <= 0 || b < a || b > maxDelay {
			t.Fatalf("delay after attempt %d is %v, and then %v", attempt, a, b)
		}
	}
	if delay(1000) != maxDelay {
		t.Errorf("longest delay is %v, want %v", delay(1000), maxDelay)
	}
	synctest.Test(t, func(t *testing.T) { // in which no time passes
		w := &worker{Config: Config{Log: slog.New(slog.DiscardHandler)}}
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			w.pauseFor(errDisk)
			w.pauseFor(errDisk) // of another job, for the same reason
			if w.pause != want*time.Second || time.Until(w.paused) != w.pause {
				t.Errorf("pause is %v until in %v, want %v", w.pause, time.Until(w.paused), want*time.Second)
			}
			w.paused = time.Now()
		}
	})
}

// TestUnavailableCacheCostsNoAttempts has a cache that is full for a while.
func TestUnavailableCacheCostsNoAttempts(t *testing.T) {
	r := newRig(t)
	r.Attempts, r.Jobs = 2, 2
	var full atomic.Bool
	full.Store(true)
	r.copy = func(context.Context, string, int) error {
		if full.Load() {
			return fmt.Errorf("%w: %w", ErrUnavailable, errDisk)
		}
		return nil
	}
	jobs := []int{1, 2, 3, 4, 5}
	tries := func() (n int) {
		for _, job := range jobs {
			n += r.copied(job)
		}
		return n
	}
	r.add(jobs...)
	r.start()
	// Two pauses: the first is of one second.
	pauses := func() int { return strings.Count(r.log.String(), "msg=pausing") }
	trouble.Eventually(t, "it has tried again", func() bool { return pauses() >= 2 })
	if n, most := tries(), 2*(pauses()+1); n > most { // after the last one it may have begun once more
		t.Errorf("tried %d times, want two at a time and then a pause", n)
	}
	for _, job := range jobs {
		trouble.Eventually(t, "it waits", func() bool { row, _ := r.row(job); return row.State == queue.Waiting })
		if row, _ := r.row(job); row.Attempts != 0 {
			t.Errorf("job is %+v, want it without an attempt", row)
		}
	}
	full.Store(false)
	trouble.Eventually(t, "all are done", func() bool { counts, err := r.Queue.Counts(t.Context()); return err == nil && counts.Left() == 0 })
}

// TestJobNeverStandsInTheWay has one job at a time, and those that can't succeed
// first.
func TestJobNeverStandsInTheWay(t *testing.T) {
	r := newRig(t)
	r.Jobs = 1
	bad := map[string]error{path(1): errDisk, path(2): ErrHopeless, path(3): ErrGone, path(4): errDisk}
	r.copy = func(_ context.Context, path string, _ int) error { return bad[path] }
	r.add(1, 2, 3, 4, 5, 6, 7)
	r.start()
	trouble.Eventually(t, "the others are done", func() bool { return r.gone(5) && r.gone(6) && r.gone(7) })
	for n, want := range map[int]queue.State{1: queue.Waiting, 2: queue.Dead, 3: "", 4: queue.Waiting} {
		// It may be in hand, once more.
		trouble.Eventually(t, fmt.Sprintf("job %d is %q", n, want), func() bool { row, _ := r.row(n); return row.State == want })
	}
}

func TestPathAddedAgainIsTriedAgain(t *testing.T) {
	for name, first := range map[string]error{"failed": errDisk, "hopeless": ErrHopeless, "gone": ErrGone, "left out": ErrLeftOut} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			second := make(chan struct{})
			r.copy = func(_ context.Context, _ string, attempt int) error {
				if attempt == 1 {
					r.add(1) // it was collected and built again meanwhile
					return first
				}
				if !r.rooted(1) {
					t.Error("the root was removed in between")
				}
				close(second)
				return nil
			}
			r.add(1)
			// After another failure it would be due in some minutes.
			r.Attempts = 20
			for range 9 {
				job, err := r.Queue.Claim(t.Context())
				must(t, err)
				must(t, r.Queue.Fail(t.Context(), job, time.Now(), errDisk))
			}
			r.start()
			select {
			case <-second:
			case <-time.After(time.Minute):
				t.Fatal("it was not copied again at once")
			}
			trouble.Eventually(t, "it is done", func() bool { return r.gone(1) && !r.rooted(1) })
		})
	}
}
