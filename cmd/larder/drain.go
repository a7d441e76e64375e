package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bell"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/queue"
	"github.com/nix-larder/larder/watcher"
)

func drainCommand() *cli.Command {
	return &cli.Command{
		Name:  "drain",
		Usage: "wait until everything that came into the store is in the cache",
		Description: "Looks what has come into the store since the last look, and does the work itself when no daemon is alive. Exits with 3 if the timeout passed with jobs left over, which stay queued, " +
			"and with 4 if some jobs failed for good.",
		Flags: append([]cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), workersFlag(), minFreeFlag(), jsonFlag(), quietFlag(),
			timeFlag("timeout", "", "LARDER_TIMEOUT", "wait for at most `TIME`, such as 90s or 1h (default: as long as it takes)"),
		}, slices.Concat(contentFlags(), keyFlags(), reportFlags())...),
		Action: drain,
	}
}

func drain(c *cli.Context) error {
	goOnUnread()
	if err := noArgs(c); err != nil {
		return err
	}
	q, settings, err := openQueue(c, false)
	if err != nil {
		return err
	}
	defer q.Close()
	ctx := c.Context
	if timeout := timeOf(c, "timeout"); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	began := time.Now()
	tally := &safeTally{Tally: runner.NewTally()}
	if err := setBounds(c, &settings); err != nil {
		return err
	}
	var queued int64
	full := true
	for full && err == nil { // with a queue that is bounded not all may come into it at once
		full, err = look(ctx, c, q, settings, tally.Add)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		before, err2 := q.Counts(c.Context)
		if err2 != nil {
			return err2
		}
		queued += before.Left()
		err = drainQueue(ctx, c, q, settings, tally.Add)
	}
	if err == nil {
		err = realise(ctx, c, settings)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	after, err := q.Counts(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	r, err := concludeTally(context.WithoutCancel(ctx), c, q, tally.Tally, nil, time.Since(began))
	if err != nil {
		return err
	}
	if r.Empty() {
		fileReport(c, r)
	} else {
		publishReport(c, r)
	}
	left := leftOver{jobs: after.Left(), more: full}
	if space, err := spaceOf(settings); err == nil {
		left.why = space.Paused
	} // (ignored) it is only a hint
	return printDrained(c, max(0, queued-after.Left()), left, after.Dead, r)
}

// leftOver is what a drain leaves in the queue.
type leftOver struct {
	jobs int64
	more bool   // the queue was full, and not all that is registered was looked at
	why  string // if it is known
}

func (l leftOver) err() error {
	text := fmt.Sprintf("the timeout passed with %d jobs left over", l.jobs)
	if l.more {
		text += ", and more for which the queue has no room"
	}
	if l.why != "" {
		return withHint(fmt.Errorf("%s: %s", text, l.why), "they are still queued: make room on the cache's disk, and larder drain goes on")
	}
	return withHint(errors.New(text), "they are still queued: larder drain goes on")
}

// A safeTally is a tally for several goroutines.
type safeTally struct {
	mu sync.Mutex
	*runner.Tally
}

func (t *safeTally) Add(e runner.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Tally.Add(e)
}

// look queues what has come into the store since the last look, and tells whether the
// queue is full, so that there is more.
func look(ctx context.Context, c *cli.Context, q *queue.Queue, s queue.Settings, tell func(runner.Event)) (full bool, err error) {
	if s.Mode == hookOnly {
		return false, nil
	}
	v, err := openJobView(c, s)
	if err != nil {
		return false, err
	}
	defer v.close()
	cfg, err := watcherConfig(q, v, s, stderrLog(c))
	if err != nil {
		return false, err
	}
	looked, err := lookedAt(ctx, q, v.store)
	if err != nil {
		return false, err
	}
	cfg.Observe = observer(tell, looked)
	r, err := watcher.Look(ctx, cfg)
	return r.Full, err
}

// drainQueue returns when the queue is empty, whoever emptied it.
func drainQueue(ctx context.Context, c *cli.Context, q *queue.Queue, s queue.Settings, tell func(runner.Event)) error {
	var rings <-chan struct{} // of the queue, once there is somebody to wait for
	for {
		lock, err := q.Lock()
		if err == nil {
			defer lock.Unlock()
			return drainHere(ctx, c, q, s, lock, tell)
		}
		if !errors.Is(err, queue.ErrLocked) {
			return err
		}
		if rings == nil {
			var stop func()
			rings, stop = bell.Listen(q.File(), stderrLog(c))
			defer stop()
			stopWaiting, err := q.Wait()
			if err != nil {
				return err
			}
			defer stopWaiting()
		}
		if done, err := waitForWorker(ctx, q, rings); done || err != nil {
			return err
		}
	}
}

// waitForWorker waits a while for the worker that is alive, or until the queue rings.
// What it would leave are roots without jobs, for which it looks from time to time
// only.
func waitForWorker(ctx context.Context, q *queue.Queue, rings <-chan struct{}) (done bool, err error) {
	begin := time.Now()
	counts, err := q.Counts(ctx)
	took := time.Since(begin)
	if err == nil && counts.Left() == 0 {
		var adopted int
		adopted, err = worker.Adopt(ctx, q, rootsOf(q), nixstore.DefaultDirs().Store)
		done = adopted == 0
	}
	if done || err != nil {
		return done, err
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(100 * time.Millisecond): // the worker may have died
	case <-rings: // a job is done, perhaps the last one
		// To count a long queue takes a while, and it rings for every job.
		time.Sleep(min(10*took, 100*time.Millisecond))
	}
	return false, nil
}

// drainHere does the work itself.
func drainHere(ctx context.Context, c *cli.Context, q *queue.Queue, s queue.Settings, lock *queue.Lock, tell func(runner.Event)) error {
	log := stderrLog(c)
	t, err := openTarget(c, s, targetOptions{tell: tell, log: log})
	if err != nil {
		return err
	}
	defer t.close()
	cfg, err := workerConfig(q, lock, t, log)
	if err != nil {
		return err
	}
	// What is in hand at the deadline goes back: a deadline is when people want
	// the end, not the beginning of it.
	cfg.StopTimeout = time.Millisecond
	done := showProgress(c, t.progress)
	defer done()
	return worker.Drain(ctx, cfg)
}

func printDrained(c *cli.Context, done int64, left leftOver, dead int64, r *runner.Report) error {
	result := struct {
		Waiting int64          `json:"waiting"`
		Dead    int64          `json:"dead"`
		Report  *runner.Report `json:"report"`
	}{left.jobs, dead, r}
	text := fmt.Sprintf("drained %d jobs, %d left, %d dead letters\n", done, left.jobs, dead)
	if err := printResult(c, result, text); err != nil {
		return err
	}
	switch {
	case dead > 0:
		return &exitCoder{exitDead, withHint(fmt.Errorf("%d jobs are dead letters", dead), "larder status says why; larder retry tries them again")}
	case left.jobs > 0, left.more:
		return &exitCoder{exitLeftOver, left.err()}
	}
	return nil
}
