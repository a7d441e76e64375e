// Package watcher turns what enters the Nix store into jobs, however it came there:
// built, downloaded, copied, imported, added.
//
// Nix's database is the truth. It numbers registrations in the order of its commits
// and never uses a number twice, so that everything after the cursor is new, and
// nothing else is. Events of the file system are only a reason to look, and so is
// the clock: what happened while nothing ran is found like what happens now.
//
// # A look
//
//	registrations after the cursor, a batch at a time
//	  ├── that the rules want, and the cache has not:  root, and job ┐ one transaction
//	  └── all others                                                 │
//	cursor past the batch ───────────────────────────────────────────┘
//
// A root is made before its job, and jobs and cursor are put down together: whoever
// is killed in between leaves roots at most, and the next look finds the same batch.
// If the queue is bounded, and full, the cursor stays where it is: what is behind it is
// looked at when there is room, if it is still in the store by then. Until then nothing but
// other roots keeps it from the garbage collector.
//
// Several processes may look at the same time: of those that come to the end of the
// same batch the first wins, and the others go on behind it. Roots that they made in
// vain are turned into jobs, and go with those.
//
// # Doubt
//
// After a power failure Nix may have lost its newest commits, and a database may be
// restored from a copy: then numbers are used again, for other paths. So the queue
// remembers the last registrations that were looked at, and an epoch: the boot, the
// cache, the rules and the keys that the cursor is good for. If a number means another
// path now, if the highest number is less than it was, if none of the remembered ones
// is left, or if the epoch is another one, everything that came after the queue was
// made is looked at once more, and as much of what was there before as may have come
// since.
package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/bell"
	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

// Config tells the watcher what to do.
type Config struct {
	// Queue is where jobs go. It must not be nil.
	Queue *queue.Queue

	// Store is what is watched. It must not be nil.
	Store *nixstore.Store

	// Roots are the queue's. It must not be nil.
	Roots *gcroot.Roots

	// Rules say what is wanted.
	Rules rules.Rules

	// Present tells which of some store paths are in the cache already, many of them at a
	// time. It must not be nil. Where it does not know, the answer is no: a job too many
	// does no harm.
	Present func(ctx context.Context, storePaths []string) []bool

	// Epoch names what the cursor depends on: as long as it is the same, what has been
	// looked at is in the queue, in the cache, or unwanted. It must not be empty.
	Epoch string

	// Observe, if it is not nil, is told of every registration once it is dealt with:
	// why the rules do not want it, or "", and whether the cache had it before. That is not
	// looked up for derivations that are not wanted: nobody asks, and there are as many of
	// them as of everything else.
	Observe func(reg nixstore.Registration, unwanted string, present bool)

	// Poll is how often to look without being woken. Zero means 10 seconds.
	Poll time.Duration

	// Log must not be nil.
	Log *slog.Logger
}

// A Result counts what a look found.
type Result struct {
	Registered int   // registrations looked at
	Wanted     int   // of those: the rules want them
	Queued     int   // of those: the cache has not
	NarBytes   int64 // of those queued

	// Full says that the queue had no room for more: what is registered behind that is
	// looked at when there is. See [queue.Queue.Room].
	Full bool
}

func (r *Result) add(o Result) {
	r.Registered += o.Registered
	r.Wanted += o.Wanted
	r.Queued += o.Queued
	r.NarBytes += o.NarBytes
	r.Full = o.Full
}

// How long to wait after the bell: what is registered in a hurry is looked at
// together.
const (
	gather     = 20 * time.Millisecond
	gatherWeak = 200 * time.Millisecond // where every look starts a process of Nix
)

// Run looks whenever Nix's database changes, and every Poll, until ctx ends. It
// returns the context's error.
func Run(ctx context.Context, c Config) error {
	if c.Poll == 0 {
		c.Poll = 10 * time.Second
	}
	// Events come before the first look, so that nothing falls between.
	rings, closeBell := bell.Listen(c.Store.DatabaseFile(), c.Log)
	defer closeBell()
	tick := time.NewTicker(c.Poll)
	defer tick.Stop()
	said, wasFull := "", false
	for {
		// Trouble is no reason to stop: the next look begins where this one ended.
		r, err := Look(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && err.Error() != said {
			c.Log.Warn("registrations could not be looked at, will retry", "err", err)
		}
		said = fmt.Sprint(err)
		var again <-chan time.Time
		if r.Full {
			again = time.After(fullPause)
			if !wasFull {
				c.Log.Warn("the queue is full, registrations wait until it has room")
			}
		}
		wasFull = r.Full
		select {
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-rings:
			wait := gather
			if c.Roots.Weak() {
				wait = gatherWeak
			}
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Begin makes what is in the store now the beginning: what is registered from now on
// is the queue's business. It does nothing if the queue has begun before.
func Begin(ctx context.Context, q *queue.Queue, store *nixstore.Store) error {
	_, err := begin(ctx, q, store)
	return err
}

// begin returns the cursor, of which there is one from now on.
func begin(ctx context.Context, q *queue.Queue, store *nixstore.Store) (*queue.Cursor, error) {
	c, err := q.Cursor(ctx)
	if err != nil || c != nil {
		return c, err
	}
	if c, err = beginning(ctx, store); err != nil {
		return nil, err
	}
	err = q.SetCursor(ctx, nil, *c)
	if errors.Is(err, queue.ErrMoved) {
		return q.Cursor(ctx) // somebody else was faster
	}
	return c, err
}

// BeginEmpty is Begin for a store that is not there yet.
func BeginEmpty(ctx context.Context, q *queue.Queue) error {
	err := q.SetCursor(ctx, nil, queue.Cursor{})
	if errors.Is(err, queue.ErrMoved) {
		return nil
	}
	return err
}

// beginning returns a cursor behind all that is in the store. It has no epoch yet: the
// first look compares, from there on.
func beginning(ctx context.Context, store *nixstore.Store) (*queue.Cursor, error) {
	newest, err := store.Newest(ctx, queue.Evidence/2)
	if err != nil || len(newest) == 0 {
		return &queue.Cursor{}, err
	}
	c := &queue.Cursor{Last: newest[0].ID, Start: newest[0].ID}
	// What is old is often there for good, while all that is new may be garbage.
	oldest, err := store.Registrations(ctx, 0, queue.Evidence/2)
	if err != nil {
		return nil, err
	}
	for _, reg := range oldest {
		c.Seen = append(c.Seen, queue.Seen(reg.Row))
	}
	for _, row := range slices.Backward(newest) {
		if len(oldest) == 0 || row.ID > oldest[len(oldest)-1].ID {
			c.Seen = append(c.Seen, queue.Seen(row))
		}
	}
	return c, nil
}

// batch is how many registrations are looked at together: much less, and the queue's
// transactions take the time; much more, and hooks wait for them.
const batch = 1000

// fullPause is how often to look whether a full queue has room.
const fullPause = time.Second

// Look turns all that was registered since the last look into jobs, as far as the queue has
// room for them.
func Look(ctx context.Context, c Config) (Result, error) {
	var total Result
	for {
		r, err := c.lookFrom(ctx)
		total.add(r)
		if !errors.Is(err, queue.ErrMoved) {
			return total, err
		}
	}
}

// lookFrom looks at everything after the cursor, as long as nobody else moves it.
func (c *Config) lookFrom(ctx context.Context) (Result, error) {
	var total Result
	cursor, err := c.trusted(ctx)
	if err != nil {
		return total, err
	}
	for {
		r, more, err := c.advance(ctx, cursor)
		total.add(r)
		// What has come since the end of the registrations was read rings for itself.
		if err != nil || !more {
			return total, err
		}
	}
}

// advance looks at the next batch, and tells whether there may be more behind it.
func (c *Config) advance(ctx context.Context, cursor *queue.Cursor) (_ Result, more bool, err error) {
	regs, most, err := c.next(ctx, cursor.Last)
	if err != nil || len(regs) == 0 || most == 0 {
		return Result{Full: len(regs) > 0}, false, err
	}
	choices := c.choose(ctx, regs)
	wanted, r := queued(choices)
	if err := c.protect(ctx, wanted); err != nil {
		return r, false, err
	}
	seen := make([]queue.Seen, len(regs))
	for i, reg := range regs {
		seen[i] = queue.Seen(reg.Row)
	}
	if err := c.Queue.Advance(ctx, cursor.Last, seen, wanted, c.again(wanted)); err != nil {
		return r, false, err
	}
	if c.Observe != nil {
		for _, choice := range choices {
			c.Observe(choice.Registration, choice.unwanted, choice.present)
		}
	}
	cursor.Last = seen[len(seen)-1].ID
	if r.Queued > 0 {
		c.Log.Info("queued registrations", "registered", r.Registered, "queued", r.Queued, "last", cursor.Last)
	}
	return r, len(regs) == most, nil
}

// next returns the registrations behind one, and how many there could have been: no more
// than the queue has room for. If it has none, and that is 0, there is one all the same if
// anything is left to look at.
func (c *Config) next(ctx context.Context, last int64) (regs []nixstore.Registration, most int, err error) {
	room, err := c.Queue.Room(ctx)
	if err != nil {
		return nil, 0, err
	}
	most = int(min(batch, room))
	regs, err = c.Store.Registrations(ctx, last, max(most, 1))
	return regs, most, err
}

// protect makes roots. Paths that can't have one are queued all the same: most of
// them will be in the cache before anybody collects garbage.
func (c *Config) protect(ctx context.Context, paths []string) error {
	err := c.Roots.Protect(ctx, paths...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.Log.Warn("queued paths are not kept from the garbage collector", "paths", len(paths), "err", err)
	}
	return nil
}

// again returns what makes roots once more. A job of one of the paths may have been
// dropped since protect was called, and its root with it: the path was gone, and is
// there again.
func (c *Config) again(paths []string) func() error {
	return func() error {
		_ = c.Roots.Again(paths...) // (ignored) protect has told what is wrong with roots
		return nil
	}
}
