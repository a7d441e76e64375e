package cachewriter

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/nix-larder/larder/internal/nixstore"
)

// An entry is a store path on its way into the cache. The Writer's mutex guards
// all of it but what says otherwise.
type entry struct {
	id          int64
	info        *nixstore.Info // not changed after look; of one that is present the path alone
	calls       []*call        // who waits for it
	referrers   []*entry       // who can't be published before it
	unpublished int            // references that are neither published nor in a batch
	batched     bool           // it is in a batch of the publisher
	rewrite     bool           // it is in the cache, but damaged
	present     bool           // it is in the cache, but not all that it refers to, or it lacks something
	lack        lack           // of one that is present
	dump        *dump          // when it is dumped
	ours        bool           // nobody was faster to publish it; the publisher's, until it is finished
	replaced    bool           // there was one with other contents; the publisher's, until it is finished
	cancel      context.CancelFunc
	finished    bool
	read        atomic.Int64 // bytes of its NAR; the mutex does not guard it
}

// A call is one call of Copy. The Writer's mutex guards it.
type call struct {
	unlooked    int // paths that it has not come to
	left        int // entries that it waits for
	idle        chan struct{}
	result      Result
	errs        []error // of paths
	leftOut     error   // why the first path that must stay out does
	incomplete  bool    // something that was asked for can't be copied
	unavailable error   // of the cache
}

// maxErrors is how many paths' errors Copy returns.
const maxErrors = 10

// errReference is why an entry ends of which a reference could not be copied. Who
// waits for it waits for the reference as well, and hears only what was wrong
// with that.
var errReference = errors.New("one of its references could not be copied")

// Copy writes the closures of the given store paths, references first, and
// returns when all of them are durable.
//
// Paths already in the cache are skipped. Copy is idempotent: after an error or a
// crash, calling it again continues where it stopped. When some of a closure
// fails, all that does not need it is written all the same, unless the cache is
// to blame. When one of the given paths is not in the store, nothing is written.
//
// The error may wrap [ErrNotInStore], [ErrStoreCorrupt], [ErrUnavailable] or
// [ErrLeftOut].
func (w *Writer) Copy(ctx context.Context, paths ...string) (Result, error) {
	var total Result
	for again := false; ; {
		before, err := w.heedRemovals(again)
		if err != nil {
			return total, err
		}
		w.round.RLock()
		result, err := w.copy(ctx, paths)
		w.round.RUnlock()
		total.add(result)
		if errors.Is(err, context.Canceled) && ctx.Err() == nil && w.ctx.Err() == nil {
			continue // a path that we share with a call that has just been canceled was canceled with it
		}
		if ctx.Err() != nil || w.ctx.Err() != nil {
			return total, err
		}
		// Somebody may have removed what we found, or what our entries need.
		after, removing, lookErr := w.cache.Removals()
		if lookErr != nil {
			return total, cmp.Or(err, cacheError(lookErr))
		}
		if after == before && (again || !removing) {
			return total, err
		}
		again = true
	}
}

// heedRemovals returns the cache's word of removals. If it is a new one, what is known of
// entries is forgotten, as it is if somebody says that it has to be.
func (w *Writer) heedRemovals(forget bool) (string, error) {
	word, _, err := w.cache.Removals()
	if err != nil {
		return "", cacheError(err)
	}
	w.mu.Lock()
	known := w.word == word
	w.mu.Unlock()
	if known && !forget {
		return word, nil
	}
	// Those who are copying rely on what they have found: they will be here when they come
	// to their end.
	w.round.Lock()
	defer w.round.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.complete)
	w.word = word
	return word, nil
}

func (w *Writer) copy(ctx context.Context, paths []string) (Result, error) {
	early := w.lookEarly(ctx)
	graph, err := w.store.ClosureContents(ctx, paths, w.isComplete, func() func(int64, nixstore.Content) bool {
		early.end()
		early = w.lookEarly(ctx)
		return early.see
	})
	known := early.end()
	if err != nil {
		return Result{}, err
	}
	c := &call{result: Result{Paths: len(graph)}, unlooked: len(graph)}
	w.mu.Lock()
	w.unlooked += len(graph)
	w.mu.Unlock()
	err = w.lookAll(ctx, graph, known, func(node nixstore.Node, l *look) error { return w.admit(ctx, c, graph, node, l) })
	if err != nil {
		w.detach(c)
		return c.result, err
	}
	err = w.wait(ctx, c)
	if ctx.Err() == nil && !errors.Is(err, ErrUnavailable) {
		realised, realiseErr := w.realise(ctx, graph, paths)
		c.result.Realised += realised
		if err == nil {
			err = realiseErr
		}
	}
	return c.result, err
}

func (w *Writer) isComplete(id int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.complete[id]
	return ok
}

// admit lets a path of the graph, all of whose references have been before, into
// the window, unless it is complete already.
func (w *Writer) admit(ctx context.Context, c *call, graph nixstore.Graph, node nixstore.Node, l *look) error {
	select {
	case w.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-w.ctx.Done():
		return context.Canceled
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		<-w.room
		return context.Canceled // after Close nobody would see to it
	}
	if c.unavailable != nil {
		<-w.room
		return c.unavailable // the rest would fare no better
	}
	c.unlooked--
	w.unlooked--
	if l.signed {
		c.result.Signed++
	}
	if !w.admitted(c, graph, node, l) {
		<-w.room
	}
	return nil
}

// admitted tells whether it made a new entry. The mutex is held.
func (w *Writer) admitted(c *call, graph nixstore.Graph, node nixstore.Node, l *look) bool {
	if _, ok := w.complete[node.ID]; ok {
		return false // another call was faster
	}
	if e, ok := w.open[node.ID]; ok {
		c.join(e)
		return false
	}
	if l.err != nil {
		c.fail(l.err)
		c.incomplete = c.incomplete || node.Asked
		return false
	}
	if l.elsewhere {
		w.complete[node.ID] = struct{}{}
		return false
	}
	var waitsFor []*entry // what is not published
	for _, i := range node.Refs {
		id := graph[i].ID
		if _, ok := w.complete[id]; ok {
			continue
		}
		ref, ok := w.open[id]
		if !ok {
			c.fail(errReference)
			c.incomplete = c.incomplete || node.Asked
			return false
		}
		waitsFor = append(waitsFor, ref)
	}
	if l.present && len(waitsFor) == 0 && !l.lack.any() {
		w.complete[node.ID] = struct{}{}
		return false
	}
	e := &entry{id: node.ID, info: l.info, rewrite: l.rewrite, present: l.present, lack: l.lack}
	if e.present {
		e.info = &nixstore.Info{Path: l.path}
	}
	for _, ref := range waitsFor {
		ref.referrers = append(ref.referrers, e)
		if !ref.batched {
			e.unpublished++
		}
	}
	w.open[e.id] = e
	c.join(e)
	if e.present && !e.lack.any() {
		w.makeReady(e)
		return true
	}
	w.todo = append(w.todo, e)
	w.changed.Broadcast()
	return true
}

// makeReady hands an entry to the publisher if nothing that it needs is missing
// any more. The mutex is held.
func (w *Writer) makeReady(e *entry) {
	if e.unpublished > 0 || e.finished || e.dump == nil && (!e.present || e.lack.any()) {
		return
	}
	w.ready = append(w.ready, e)
	w.changed.Broadcast()
}

// join makes c wait for e.
func (c *call) join(e *entry) {
	e.calls = append(e.calls, c)
	c.left++
}

func (c *call) fail(err error) {
	switch {
	case errors.Is(err, ErrUnavailable):
		c.unavailable = cmp.Or(c.unavailable, err)
	case errors.Is(err, ErrLeftOut):
		c.leftOut = cmp.Or(c.leftOut, err)
	case err != errReference && len(c.errs) < maxErrors:
		c.errs = append(c.errs, err)
	}
}

// wait waits until every entry that c waits for is finished.
func (w *Writer) wait(ctx context.Context, c *call) error {
	w.mu.Lock()
	c.idle = make(chan struct{})
	if c.left == 0 {
		close(c.idle)
	}
	w.mu.Unlock()
	select {
	case <-c.idle:
		if err := errors.Join(append(c.errs, c.unavailable)...); err != nil {
			return err
		}
		if c.incomplete {
			return c.leftOut
		}
		return nil // what was left out only others need, who have it from elsewhere
	case <-ctx.Done():
		w.detach(c)
		return ctx.Err()
	}
}

// detach makes c wait for nothing any more, and stops what nobody else waits for.
func (w *Writer) detach(c *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlooked -= c.unlooked
	c.unlooked = 0
	for _, e := range w.open {
		if !e.forget(c) || len(e.calls) > 0 {
			continue
		}
		if e.cancel != nil {
			e.cancel()
		} else if e.dump == nil {
			w.finish(e, context.Canceled)
		}
	}
}

// forget tells whether c was waiting for e.
func (e *entry) forget(c *call) bool {
	i := slices.Index(e.calls, c)
	if i < 0 {
		return false
	}
	e.calls = slices.Delete(e.calls, i, i+1)
	return true
}

// finish ends an entry, for good or ill, and what can't be without it. The
// mutex is held.
func (w *Writer) finish(e *entry, err error) {
	if e.finished {
		return
	}
	e.finished = true
	delete(w.open, e.id)
	<-w.room
	if err == nil {
		w.complete[e.id] = struct{}{}
		if !e.present {
			w.narBytes += e.dump.narInfo.NarSize
		}
	} else if e.dump != nil {
		e.dump.discard()
	}
	for _, c := range e.calls {
		if err != nil {
			c.fail(err)
		} else if e.present && e.dump != nil && e.dump.listed {
			c.result.Listed++
		} else if !e.present {
			c.result.Copied++
			if e.replaced {
				c.result.Replaced++
			}
			c.result.NarBytes += e.dump.narInfo.NarSize
			c.result.FileBytes += e.dump.narInfo.FileSize
		}
		if c.left--; c.left == 0 && c.idle != nil {
			close(c.idle)
		}
	}
	if err == nil {
		return
	}
	for _, r := range e.referrers {
		w.finish(r, errReference)
	}
}
