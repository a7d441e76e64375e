package cachewriter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
)

// lookAhead is how many paths are looked up together, so that the answers of a
// slow file system come at the same time.
const lookAhead = 128

// A look is what was found out about a path.
type look struct {
	path      string
	info      *nixstore.Info // nil if it is present, or there is trouble
	present   bool           // the cache has it
	signed    bool           // and has now been signed
	lack      lack           // of what is present
	rewrite   bool           // the cache has it, but damaged
	elsewhere bool           // the cache need not have it, nor what it refers to
	err       error          // this path's own trouble
}

// lookAll finds out which paths of a graph are in the cache, but for those that are known
// to be, and calls admit for all of them, in their order. While the cache is looked at for
// some, Nix's database is for the next ones.
func (w *Writer) lookAll(ctx context.Context, graph nixstore.Graph, known map[int64]*look, admit func(nixstore.Node, *look) error) error {
	isKnown := func(node nixstore.Node) bool { return known[node.ID] != nil }
	var next part
	var nextErr error
	read := func(nodes []nixstore.Node) {
		if next = (part{nodes: slices.DeleteFunc(slices.Clone(nodes), isKnown)}); len(next.nodes) > 0 {
			next.contents, nextErr = w.store.Contents(ctx, next.nodes)
		}
	}
	parts := slices.Collect(slices.Chunk(graph, lookAhead))
	for i, nodes := range parts {
		if i == 0 {
			read(nodes)
		}
		if nextErr != nil {
			return nextErr
		}
		now := next
		var reading sync.WaitGroup
		if i+1 < len(parts) {
			reading.Go(func() { read(parts[i+1]) })
		}
		looked, err := w.look(ctx, now)
		reading.Wait()
		if err != nil {
			return err
		}
		for _, node := range nodes {
			l := known[node.ID]
			if l == nil {
				l, looked = &looked[0], looked[1:]
			}
			if err := admit(node, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// look finds out which of some paths are in the cache. For those that are, as nearly
// all may be, it takes as little as can tell that.
func (w *Writer) look(ctx context.Context, p part) ([]look, error) {
	nodes := p.nodes
	looked, found := make([]look, len(nodes)), make([]bincache.Found, len(nodes))
	w.findAll(ctx, p.contents, func(i int, l look, f bincache.Found) { looked[i], found[i] = l, f })
	var rest []int // where those are that need more than a look
	var restNodes []nixstore.Node
	for i := range looked {
		if !looked[i].present {
			rest, restNodes = append(rest, i), append(restNodes, nodes[i])
		}
	}
	if len(rest) == 0 {
		return looked, nil
	}
	infos, err := w.store.NodeInfos(ctx, restNodes)
	if err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for n, i := range rest {
		g.Go(func() (err error) {
			looked[i], err = w.lookAt(ctx, nodes[i], infos[n], found[i])
			return err
		})
	}
	return looked, g.Wait()
}

// findAll calls see, by several goroutines, for all of some paths.
func (w *Writer) findAll(ctx context.Context, contents []nixstore.Content, see func(i int, l look, found bincache.Found)) {
	paths := make([]string, len(contents))
	for i, c := range contents {
		paths[i] = c.Path
	}
	w.cache.FindEach(ctx, paths, func(i int, f bincache.Found) { see(i, w.findPresent(contents[i], f), f) })
}

// findPresent finds out whether the cache has a path as we would write it.
func (w *Writer) findPresent(c nixstore.Content, found bincache.Found) look {
	l := look{path: c.Path}
	have := found.Entry
	switch {
	case w.replace:
		return l // it takes more than a hash to tell
	case have == nil || have.NarHash != c.NarHash || lacks(have, c.Sigs) || w.rewrite(have):
		return l
	case len(w.keys) > 0:
		// What is wrong shows when it is to be signed.
		if signed, err := have.SignedBy(w.keys); !signed || err != nil {
			return l
		}
	}
	l.present, l.lack = true, w.lackOf(c.NarHash, found)
	return l
}

func (w *Writer) lookAt(ctx context.Context, node nixstore.Node, info *nixstore.Info, found bincache.Found) (look, error) {
	if info == nil {
		return look{err: fmt.Errorf("read info of path %d: %w", node.ID, ErrNotInStore)}, nil
	}
	if err := ctx.Err(); err != nil {
		return look{}, err
	}
	err := found.Err
	if err == nil && w.rewrite(found.Entry) {
		l, err := w.lookElsewhere(ctx, info)
		l.rewrite = true
		return l, err
	}
	if err == nil && w.replace && !SameContents(found.Entry, info) {
		return look{path: info.Path, info: info}, nil
	}
	if err == nil {
		var signed bool
		if signed, err = w.signPresent(ctx, info, found.Entry); err == nil {
			return look{path: info.Path, present: true, signed: signed, lack: w.lackOf(info.NarHash, found)}, nil
		}
	}
	switch {
	case errors.Is(err, bincache.ErrDamaged):
		w.log.Warn("entry will be replaced", "path", info.Path, "err", err)
		return w.lookElsewhere(ctx, info)
	case errors.Is(err, fs.ErrNotExist):
		return w.lookElsewhere(ctx, info)
	}
	err = cacheError(fmt.Errorf("look for %s in the cache: %w", info.Path, err))
	if errors.Is(err, ErrUnavailable) {
		return look{}, err
	}
	return look{err: err}, nil
}

// lookElsewhere finds out whether a path that is not in the cache has to be.
func (w *Writer) lookElsewhere(ctx context.Context, info *nixstore.Info) (look, error) {
	elsewhere, err := w.elsewhere(ctx, info)
	if err != nil {
		// To copy what is not needed would be no help: others rely on what is there.
		return look{}, fmt.Errorf("%w: look for %s elsewhere: %w", ErrUnavailable, info.Path, err)
	}
	if elsewhere {
		return look{elsewhere: true}, nil
	}
	if reason := w.cut(info); reason != "" {
		return look{err: fmt.Errorf("%w: %s: %s", ErrLeftOut, info.Path, reason)}, nil
	}
	return look{path: info.Path, info: info}, nil
}
