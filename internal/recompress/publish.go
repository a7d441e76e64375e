package recompress

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
)

// recompress packs what is to do, and publishes it.
func (r *Recompressor) recompress(ctx context.Context) error {
	work, working := errgroup.WithContext(ctx)
	packers, packing := errgroup.WithContext(working)
	done := make(chan packed, 2*r.Workers)
	r.team = compress.NewTeam(r.Method, r.Workers)
	r.packing.Store(int32(r.Workers))
	for range r.Workers {
		packers.Go(func() error { return r.pack(packing, done) })
	}
	work.Go(func() error {
		defer close(done)
		return packers.Wait()
	})
	work.Go(func() error { return r.publishAll(ctx, done) })
	err := work.Wait()
	for p := range done { // after an error of the publisher
		if p.temp != nil {
			p.temp.Discard()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Left = len(r.todo)
	return err
}

// publishAll publishes what is packed, until there will be no more. What is packed when
// ctx ends is published, too: it is done, and takes a moment.
func (r *Recompressor) publishAll(ctx context.Context, done <-chan packed) error {
	for first := range done {
		batch := []packed{first}
		for more := true; more; {
			select {
			case p, ok := <-done:
				if more = ok; ok {
					batch = append(batch, p)
				}
			default:
				more = false
			}
		}
		if err := r.publish(context.WithoutCancel(ctx), batch); err != nil {
			return err
		}
	}
	return nil
}

// publish has entries name their new NARs.
func (r *Recompressor) publish(ctx context.Context, batch []packed) error {
	defer func() {
		for _, p := range batch {
			if p.temp != nil {
				p.temp.Discard() // unless it was published
			}
			r.finished(p.group)
		}
	}()
	var kept []string
	var packed []packed
	var swaps []bincache.Swap
	for _, p := range batch {
		if p.temp == nil {
			kept = append(kept, p.entry.URL)
			continue
		}
		packed = append(packed, p)
		swaps = append(swaps, bincache.Swap{
			Old: p.entry, Hashes: p.hashes, Method: r.Method.String(),
			New: p.now,
		})
	}
	if len(packed) > 0 {
		if err := r.swap(ctx, packed, swaps); err != nil {
			return err
		}
	}
	if err := r.Cache.KeepNars(ctx, kept, r.Method.String()); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Kept += len(kept)
	return nil
}

// swap publishes new NARs, all of it durable, and then swaps.
func (r *Recompressor) swap(ctx context.Context, batch []packed, swaps []bincache.Swap) error {
	if err := bincache.EachOf(batch, func(p packed) error { return p.temp.Sync() }); err != nil {
		return err
	}
	for i, p := range batch {
		if err := r.Cache.PublishNar(p.temp, swaps[i].New.URL); err != nil {
			return err
		}
	}
	if err := r.Cache.SyncDir("nar"); err != nil {
		return err
	}
	swapped, err := r.Cache.SwapNars(ctx, swaps, time.Now().Add(r.Grace))
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, entries := range swapped {
		if entries > 0 {
			r.result.Recompressed++
			r.result.Before += batch[i].was
			r.result.After += batch[i].now.FileSize
		}
	}
	return err
}
