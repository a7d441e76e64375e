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
		attrs, err := w.Copy(w.ctx, job.Path)
		w.done <- outcome{job, attrs, time.Since(begin), err}
	}()
}

// settle puts down in the queue what became of a job.
func (w *worker) settle(o outcome) {
	w.running--
	// The jobs' context may have ended; the row must be settled anyway.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), time.Minute)
	defer cancel()
	if err := w.settled(ctx, o); err != nil {
		// The row stays claimed, and returns to waiting when the queue is locked the
		// next time; until then the root keeps the path.
		w.Log.Error("job could not be settled", append(describe(o.job), "err", err)...)
	}
}

func (w *worker) settled(ctx context.Context, o outcome) error {
	log := w.Log.With(describe(o.job)...)
	unroot := func() error { return w.Roots.Remove(o.job.Path) }
	attempt := o.job.Attempts + 1
	switch {
	case o.err == nil:
		w.pause = 0
		log.LogAttrs(ctx, slog.LevelInfo, "copied job", append(o.attrs, slog.Duration("elapsed", o.elapsed.Round(time.Millisecond)))...)
		return w.Queue.Done(ctx, o.job, unroot)
	case w.ctx.Err() != nil && errors.Is(o.err, context.Canceled):
		log.Info("returned job")
		return w.Queue.Release(ctx, o.job, time.Now(), nil)
	case errors.Is(o.err, ErrGone):
		log.Warn("dropped job: its path is gone", "err", o.err)
		return w.Queue.Done(ctx, o.job, unroot)
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
