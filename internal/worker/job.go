package worker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nix-larder/larder/queue"
)

// An outcome is a job whose Copy has returned.
type outcome struct {
	job     *queue.Job
	attrs   []slog.Attr
	elapsed time.Duration
	err     error
}

// start copies a claimed job; the outcome comes through done.
func (w *worker) start(job *queue.Job) {
	w.running++
	go func() {
		begin := time.Now()
		attrs, err := w.Copy(w.ctx, job)
		w.done <- outcome{job, attrs, time.Since(begin), err}
	}()
}

// settle puts down in the queue what became of a job. If that can't be done now,
// because the queue's disk is full, for example, it is tried again after a pause;
// until then the root keeps the path. Should the worker end before, the job returns
// to waiting when the queue is locked the next time.
func (w *worker) settle(o outcome) {
	// The jobs' context may have ended; the row must be settled anyway.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), time.Minute)
	defer cancel()
	if err := w.settled(ctx, o); err != nil {
		w.Log.Error("job could not be settled", append(describe(o.job), "err", err)...)
		w.unsettled = append(w.unsettled, o)
		w.pauseFor(err)
	}
}

// settleAgain settles what could not be settled before.
func (w *worker) settleAgain() {
	again := w.unsettled
	w.unsettled = nil
	for _, o := range again {
		w.settle(o)
	}
}

func (w *worker) settled(ctx context.Context, o outcome) error {
	log := w.Log.With(describe(o.job)...)
	unroot := func() error { return w.Roots.Remove(o.job.Path) }
	attempt := o.job.Attempts + 1
	switch {
	case o.err == nil:
		done := w.Queue.Done
		if w.Drvs {
			done = w.Queue.DoneBy
		}
		if err := done(ctx, o.job, unroot); err != nil {
			return err
		}
		w.pause = 0
		log.LogAttrs(ctx, slog.LevelInfo, "copied job", append(o.attrs, slog.Duration("elapsed", o.elapsed.Round(time.Millisecond)))...)
		return nil
	case w.ctx.Err() != nil:
		// It was cut short, so that its error says nothing of the job.
		log.Info("returned job")
		return w.Queue.Release(ctx, o.job, time.Now(), nil)
	case errors.Is(o.err, ErrGone):
		log.Warn("dropped job: its path is gone", "err", o.err)
		return w.Queue.Drop(ctx, o.job, unroot)
	case errors.Is(o.err, ErrLeftOut):
		log.Info("left out job", "reason", o.err)
		return w.Queue.Drop(ctx, o.job, unroot)
	case errors.Is(o.err, ErrNoRoom):
		w.pauseForRoom(o.err)
		return w.Queue.Release(ctx, o.job, w.paused, o.err)
	case errors.Is(o.err, ErrUnavailable):
		w.pauseFor(o.err)
		return w.Queue.Release(ctx, o.job, w.paused, o.err)
	case errors.Is(o.err, ErrHopeless), attempt >= w.Attempts:
		log.Error("job failed for good", "attempt", attempt, "err", o.err)
		return w.Queue.Bury(ctx, o.job, o.err)
	default:
		wait := delay(attempt)
		log.Warn("job failed, will retry", "attempt", attempt, "retry_in", wait, "err", o.err)
		return w.Queue.Fail(ctx, o.job, time.Now().Add(wait), o.err)
	}
}
