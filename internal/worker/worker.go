// Package worker moves jobs from the queue into the cache, in the background.
//
// Run sleeps until the queue's directory changes or a tick passes, then works
// until no job is due. File events are only a reason to look: they may be late,
// merged, or lost, and nothing depends on them but latency.
//
// # What becomes of a job
//
//	Copy returns     the job
//	nil              is done; its root is removed
//	ErrGone          is dropped, with its root: nobody can want it any more
//	ErrLeftOut       is dropped, with its root: the rules do not want it
//	ErrUnavailable   waits, and the worker pauses: the job has no fault in it
//	ErrNoRoom        the same, which is said once, however long it lasts
//	ErrHopeless      is a dead letter
//	another error    waits, each time for longer, and after its last attempt is
//	                 a dead letter
//
// While the cache's file system has too little free space, as [Config].Room has it, nothing
// is claimed: no job is tried in vain, and none loses an attempt. The worker says so once, and
// goes on when there is room.
//
// A job never stands in the way of another one. The root of a dead letter stays,
// so that the path is still there when a person has decided.
//
// A root without a job belongs to a hook that could not reach the queue in time.
// The worker turns it into a job.
package worker

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nix-larder/larder/internal/bell"
	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/queue"
)

// What Copy's errors may wrap.
var (
	// ErrGone says that the path is no longer in the store.
	ErrGone = errors.New("path is gone")
	// ErrLeftOut says that the rules do not want the path.
	ErrLeftOut = errors.New("path is left out")
	// ErrUnavailable says that nothing can be copied now, for a reason that is not
	// the path's: the cache is full or gone, or Nix's database can't be read.
	ErrUnavailable = errors.New("nothing can be copied now")
	// ErrNoRoom says that the cache's file system has too little free space.
	ErrNoRoom = errors.New("the cache has no room")
	// ErrHopeless says that trying again will not help.
	ErrHopeless = errors.New("trying again will not help")
)

// Config tells Run what to do. The zero value of every optional field is a
// sensible default.
type Config struct {
	// Queue is where jobs come from. It must not be nil.
	Queue *queue.Queue

	// Lock is the queue's, and shows that this is its only worker. It must not be
	// nil.
	Lock *queue.Lock

	// Roots are the queue's. It must not be nil.
	Roots *gcroot.Roots

	// StoreDir is where store paths are, such as /nix/store. It must not be empty.
	StoreDir string

	// Copy puts the closure of a job's path into the cache, if the rules want it
	// there. It must not be nil, must be idempotent, and must return only when the
	// result is durable: the job is deleted right after. It returns what to say of it
	// in the log.
	Copy func(ctx context.Context, job *queue.Job) ([]slog.Attr, error)

	// Room returns why nothing more may be written to the cache now, or nil. As long as it
	// does, nothing is claimed. It is asked in every round. Nil means that there always is
	// room.
	Room func() error

	// Drvs says that it matters to Copy which derivation built a path: a job that was
	// added again meanwhile by another one has another turn.
	Drvs bool

	// Jobs is how many jobs are copied at a time. Zero means 64: most of a job's
	// time is waiting for the disk, together with others.
	Jobs int

	// Attempts is how often a job may fail before it is a dead letter. Zero means
	// 10, which with the growing delays is a quarter of an hour.
	Attempts int

	// Poll is how often to look at the queue without being woken. Zero means 10
	// seconds.
	Poll time.Duration

	// StopTimeout is how long claimed jobs may go on after Run's context ended.
	// What is not finished by then returns to the queue. Zero means 30 seconds.
	StopTimeout time.Duration

	// Hurry ends the StopTimeout. Nil means that nobody hurries.
	Hurry <-chan struct{}

	// Finish, when it is closed, makes Run return nil as soon as no job is left but dead
	// letters. Nil means that Run goes on.
	Finish <-chan struct{}

	// Patience is how long a pause may be, after which Run gives up once it is to
	// finish, but not before what is unavailable was tried once more. Zero means that it
	// never does.
	Patience time.Duration

	// Alive, if it is not nil, is called at least every Poll while the worker makes
	// its rounds.
	Alive func()

	// Log must not be nil.
	Log *slog.Logger
}

const (
	beatEvery  = time.Minute     // how often the queue hears that the worker is alive
	adoptEvery = 1 * time.Minute // how often roots are looked through
	adoptAgain = 5 * time.Second // after there were some
	firstPause = time.Second
	maxPause   = time.Minute
	roomPause  = 10 * time.Second // the longest for want of room: to look whether there is some costs nothing
	saidFor    = 10 * time.Minute // without a word that there is no room, it is said again
	maxDelay   = 10 * time.Minute
)

// A worker is one call of Run or Drain. Only its loop touches the fields below
// done.
type worker struct {
	Config
	ctx  context.Context // of the jobs: ends when they have to
	done chan outcome

	drain     bool // end when the queue is empty
	running   int
	unsettled []outcome // what could not be put down in the queue
	beaten    time.Time // when Lock.Beat was last called
	adopted   time.Time // when roots were last looked through
	pause     time.Duration
	paused    time.Time // until when nothing is claimed
	cause     error     // of the last pause
	full      bool      // Room said so, the last time
	saidFull  time.Time // when there was no room for the last time, since that was said
}

// Run works until ctx ends, and then stops in two stages: it claims nothing more
// and lets claimed jobs finish within StopTimeout, and puts back what did not.
func Run(ctx context.Context, c Config) error {
	if c.Jobs == 0 {
		c.Jobs = 64
	}
	if c.Attempts == 0 {
		c.Attempts = 10
	}
	if c.Poll == 0 {
		c.Poll = 10 * time.Second
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 30 * time.Second
	}
	// Events come before the first look, so that nothing falls between.
	rings, closeBell := bell.Listen(c.Queue.File(), c.Log)
	defer closeBell()

	jobCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	w := &worker{Config: c, ctx: jobCtx, done: make(chan outcome)}
	err := w.loop(ctx, rings)
	w.stop(cancel)
	return err
}

// Drain is Run that is to finish from the beginning. It returns the context's error if
// jobs are left when that ends.
func Drain(ctx context.Context, c Config) error {
	finish := make(chan struct{})
	close(finish)
	c.Finish = finish
	return Run(ctx, c)
}

// loop claims jobs until it has to end. It returns nil if the queue is drained.
func (w *worker) loop(ctx context.Context, rings <-chan struct{}) error {
	tick := time.NewTicker(w.Poll)
	defer tick.Stop()
	finish := w.Finish
	for {
		if err := w.round(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// A locked or full queue is no reason to stop: the next round may do.
			w.Log.Error("round failed, will retry", "err", err)
			w.pauseFor(err)
		}
		if w.drain && w.running == 0 {
			if empty, err := w.empty(ctx); err != nil || empty {
				return err
			}
			if w.Patience > 0 && w.pause > w.Patience {
				return w.cause
			}
		}
		due := w.timer(ctx)
		select {
		case <-ctx.Done():
			due.Stop()
			return ctx.Err()
		case o := <-w.done:
			w.running--
			w.settle(o)
		case <-rings:
		case <-tick.C:
		case <-due.C:
		case <-finish:
			w.drain, finish = true, nil
			w.pause = min(w.pause, w.Patience)
		}
		due.Stop()
	}
}

// round does all there is to do now: looks after the queue, and claims as many jobs
// as may run.
func (w *worker) round(ctx context.Context) error {
	if w.Alive != nil {
		w.Alive()
	}
	w.lookAfter(ctx)
	if time.Now().Before(w.paused) {
		return nil
	}
	w.settleAgain()
	if !w.roomy() {
		return nil
	}
	for w.running < w.Jobs && !time.Now().Before(w.paused) && ctx.Err() == nil {
		// Not with ctx: a claim that ends in the middle may be one that nobody knows of.
		job, err := w.Queue.Claim(w.ctx)
		if errors.Is(err, queue.ErrEmpty) {
			return nil
		}
		if err != nil {
			return err
		}
		w.start(job)
	}
	return nil
}

// lookAfter does what is to be done from time to time. Jobs go on without it.
func (w *worker) lookAfter(ctx context.Context) {
	if time.Since(w.beaten) >= beatEvery {
		w.beaten = time.Now()
		if err := w.Lock.Beat(); err != nil {
			w.Log.Warn("queue does not know that its worker is alive", "err", err)
		}
		_ = w.Queue.Shrink(ctx) // (ignored) a large one does as well, and in a minute it is tried again
	}
	if time.Since(w.adopted) >= adoptEvery {
		w.adopted = time.Now()
		if _, err := w.adopt(ctx); err != nil {
			w.Log.Warn("roots without jobs could not be looked for", "err", err)
		}
	}
}

// empty tells whether nothing is left to do. Roots without jobs are.
func (w *worker) empty(ctx context.Context) (bool, error) {
	adopted, err := w.adopt(ctx)
	if err != nil || adopted > 0 {
		return false, err
	}
	counts, err := w.Queue.Counts(ctx)
	return counts.Left() == 0, err
}

// timer rings when the next waiting job is due, or the pause is over.
func (w *worker) timer(ctx context.Context) *time.Timer {
	wait := w.Poll
	if pause := time.Until(w.paused); pause > 0 {
		wait = min(wait, pause)
	} else if w.running < w.Jobs { // or no job would be claimed for being due
		if due, ok, err := w.Queue.NextDue(ctx); err == nil && ok {
			wait = min(wait, max(0, time.Until(due)))
		} // (ignored) an error shows in the next round
	}
	return time.NewTimer(wait)
}

// stop lets claimed jobs finish, or ends them.
func (w *worker) stop(cancel context.CancelFunc) {
	defer w.settleAgain()
	if w.running == 0 {
		return
	}
	w.Log.Info("draining", "claimed", w.running, "timeout", w.StopTimeout)
	timeout := time.NewTimer(w.StopTimeout)
	defer timeout.Stop()
	hurry := w.Hurry
	for w.running > 0 {
		select {
		case o := <-w.done:
			w.running--
			w.settle(o)
		case <-timeout.C:
			cancel()
		case <-hurry:
			hurry = nil // it may be closed
			cancel()
		}
		if w.Alive != nil {
			w.Alive()
		}
	}
}

// delay returns how long a job waits after it failed for the nth time.
func delay(attempt int) time.Duration {
	return min(time.Second<<min(attempt-1, 20), maxDelay)
}

func describe(job *queue.Job) []any {
	attrs := []any{"job", job.ID, "path", job.Path}
	if job.Drv != "" {
		attrs = append(attrs, "drv", filepath.Base(job.Drv))
	}
	return attrs
}
