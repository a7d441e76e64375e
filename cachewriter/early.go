package cachewriter

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
)

// maxEarly bounds what an early look keeps in memory.
const maxEarly = 2048

// An early look is at the first paths of a closure while Nix's database is still read for
// the others, which takes one processor. Only what is present counts: the rest, and whatever
// is wrong, is for lookAll.
type early struct {
	next    part
	seen    int
	parts   chan part   // has room for all
	vain    atomic.Bool // too few are present for it to be worth while
	looking sync.WaitGroup
	present map[int64]*look // by row; belongs to the goroutine that looks, until it ends
}

// A part is some paths of a closure, and what Nix's database has of them.
type part struct {
	nodes    []nixstore.Node
	contents []nixstore.Content
}

// lookEarly begins an early look, which has to be ended.
func (w *Writer) lookEarly(ctx context.Context) *early {
	e := &early{parts: make(chan part, maxEarly/lookAhead), present: make(map[int64]*look)}
	e.looking.Go(func() {
		for p := range e.parts {
			if !e.vain.Load() {
				e.vain.Store(w.findEarly(ctx, p, e.present) < len(p.nodes)/2)
			}
		}
	})
	return e
}

// findEarly adds to present what is, and returns how many that are.
func (w *Writer) findEarly(ctx context.Context, p part, present map[int64]*look) (found int) {
	looked := make([]look, len(p.nodes))
	w.findAll(ctx, p.contents, func(i int, l look, _ bincache.Found) { looked[i] = l })
	for i := range looked {
		if looked[i].present {
			present[p.nodes[i].ID] = &looked[i]
			found++
		}
	}
	return found
}

// see adds a path, and tells whether to add more. It does not wait.
func (e *early) see(id int64, c nixstore.Content) (more bool) {
	e.next.nodes = append(e.next.nodes, nixstore.Node{ID: id})
	e.next.contents = append(e.next.contents, c)
	if len(e.next.nodes) == lookAhead {
		e.parts <- e.next
		e.next = part{}
	}
	e.seen++
	return e.seen < maxEarly && !e.vain.Load()
}

// end returns what is present of the paths that were added, by row.
func (e *early) end() map[int64]*look {
	if len(e.next.nodes) > 0 {
		e.parts <- e.next
	}
	close(e.parts)
	e.looking.Wait()
	return e.present
}
