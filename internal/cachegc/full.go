package cachegc

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
)

// makeRoom makes some room on a full disk: it takes a little to note what is removed, and
// whoever collects may do so because there is none. What takes the least is done first, and
// nobody misses the logs and listings of what is to go.
func (g *collection) makeRoom(r *Result) error {
	var paths []string
	for _, e := range r.Evict {
		paths = append(paths, e.Path)
	}
	names, err := g.unneeded(paths)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := g.cache.DropExtra(name); err != nil {
			return fmt.Errorf("make room: %w", err)
		}
	}
	swept, err := g.sweep()
	r.add(swept)
	if err != nil && !(bincache.IsFull(err) && g.Grace == 0) { // or there is one thing left to try
		return fmt.Errorf("make room: %w", err)
	}
	return nil
}

// removeFirst removes those entries at once, with their files, that are to go first, until there
// should be room to note the rest. It writes nothing, but for the word of removals in its place,
// and begins with narinfos: on most file systems those take a block.
//
// Those who add entries meanwhile are safe as always, unless they are killed: what came between
// is looked at before anything is lost, but nothing is left in the trash.
func (g *collection) removeFirst(r *Result) error {
	room := int64(64<<10) + 256*int64(g.survey.count)
	var hashes, paths []string
	for _, e := range r.Evict {
		if room <= 0 {
			break
		}
		room -= e.Bytes
		hashes, paths = append(hashes, bincache.HashPart(e.Path)), append(paths, e.Path)
	}
	names, err := g.unneeded(paths)
	if err == nil {
		err = g.takeAway(hashes, paths)
	}
	if err == nil {
		err = g.step()
	}
	if err == nil {
		var swept bincache.Swept
		swept, err = g.cache.RemoveFiles(g.ctx, names, bincache.Known{Hashes: g.seen, Needs: g.needs})
		r.add(swept)
	}
	if err != nil {
		return fmt.Errorf("make room: %w", err)
	}
	return nil
}

// takeAway removes entries for good, but for those that somebody needs who has come meanwhile.
func (g *collection) takeAway(hashes, paths []string) error {
	if err := g.step(); err != nil {
		return err
	}
	if err := g.cache.TellRemoval(true); err != nil {
		return err
	}
	g.aside = g.cache.BeginRemovalAside()
	defer func() { g.aside = nil }()
	err := g.takeOut(g.aside, hashes, paths)
	if err == nil {
		err = g.finish(g.seen)
	}
	if err != nil { // and nobody else would find them
		for _, hash := range slices.Backward(g.aside.Hashes) {
			if undo := g.cache.Reinstate(g.aside, hash); !errors.Is(undo, fs.ErrNotExist) { // or it is back already
				err = errors.Join(err, undo)
			}
		}
		return err
	}
	if err := g.step(); err != nil {
		return err
	}
	return g.cache.EndRemoval(g.aside)
}
