// Package closurefile carries closures from one binary cache to somewhere else in one
// file: out of a cache, and into one, without a Nix store.
//
// # Formats
//
// [Exporter.Export] writes what nix-store --export writes, byte for byte, and [Import]
// reads it (src/libstore/export-import.cc). For each path, references first,
//
//	1, NAR, 0x4558494e, path, references, deriver, 0
//
// and a 0 at the end: numbers of 64 bits, strings as in a NAR, and a list as a number and
// so many strings. Neither signatures nor content addresses are part of it.
//
// [Exporter.Tar] writes a cache as a tar archive: narinfos and NARs as they are, with what
// there is of logs, listings and realisations.
//
// # What is trusted
//
// Nothing. A NAR goes out only if it is the one that the narinfo says, in form, size and
// hash: what follows its end in the stream would be taken for another path. One that
// comes in is written by the grammar and ends where every Nix sees its end. Nobody can
// know whether a path that comes in has the right contents: whoever signs it, vouches for
// it. Only content addresses prove themselves, and are found again that way.
//
// # Memory
//
// A closure takes less than 200 bytes for each of its paths, and a NAR takes what a few
// buffers take.
package closurefile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/nix-larder/larder/internal/bincache"
)

// ErrMissing says that a path, or one that it refers to, is not there.
var ErrMissing = errors.New("not in the cache")

// ErrChanged says that somebody has changed an entry meanwhile.
var ErrChanged = errors.New("entry was changed meanwhile")

// A Source says what is exported.
type Source struct {
	// Cache is where entries come from. It must not be nil.
	Cache *bincache.Cache

	// Paths are the store paths whose closures are exported.
	Paths []string

	// NoClosure leaves out all but Paths themselves.
	NoClosure bool

	// AllowMissing leaves out references that the cache has not: whoever gets the
	// export has them from somewhere else.
	AllowMissing bool
}

// A closure is store paths in a cache.
type closure struct {
	Source
	items    []item
	ids      map[string]int32 // in items, by base name
	narBytes int64
	missing  int // references that were left out
}

// An item is a path of a closure.
type item struct {
	name  string  // base name
	refs  []int32 // other items that it refers to
	state state
}

// A state is how far order is with an item.
type state uint8

const (
	unvisited state = iota
	visiting
	visited
	left // it is not there, and may be
)

// lookAtOnce is how many entries are looked for at a time.
const lookAtOnce = 256

// newClosure finds what is to be exported. All of it is there, as far as sizes tell.
func newClosure(ctx context.Context, s Source) (*closure, error) {
	c := &closure{Source: s, ids: make(map[string]int32)}
	for _, p := range s.Paths {
		if err := s.Cache.CheckPath(p); err != nil {
			return nil, err
		}
		c.add(path.Base(p))
	}
	named := len(c.items)
	for first := 0; first < len(c.items); {
		last := min(first+lookAtOnce, len(c.items))
		var paths []string
		for _, i := range c.items[first:last] {
			paths = append(paths, c.path(i.name))
		}
		for n, found := range s.Cache.Find(ctx, paths) {
			if err := c.found(int32(first+n), found, first+n < named); err != nil {
				return nil, err
			}
		}
		first = last
	}
	return c, ctx.Err()
}

func (c *closure) path(name string) string { return path.Join(c.Cache.StoreDir(), name) }

// add returns where an item is, and makes it if need be.
func (c *closure) add(name string) int32 {
	id, ok := c.ids[name]
	if !ok {
		id = int32(len(c.items))
		c.items = append(c.items, item{name: name})
		c.ids[name] = id
	}
	return id
}

// found takes what was found of an item.
func (c *closure) found(id int32, f bincache.Found, named bool) error {
	i := &c.items[id]
	switch {
	case errors.Is(f.Err, fs.ErrNotExist) && !named && c.AllowMissing:
		i.state = left
		c.missing++
		return nil
	case errors.Is(f.Err, fs.ErrNotExist):
		return fmt.Errorf("%s%s: %w", c.path(i.name), c.referrer(id, named), ErrMissing)
	case f.Err != nil:
		return fmt.Errorf("%s%s: %w", c.path(i.name), c.referrer(id, named), f.Err)
	}
	c.narBytes += f.Entry.NarSize
	refs := c.refs(f.Entry, func(name string) (int32, bool) {
		if c.NoClosure {
			id, ok := c.ids[name]
			return id, ok
		}
		return c.add(strings.Clone(name)), true // without the rest of the narinfo
	})
	c.items[id].refs = refs
	return nil
}

// referrer says why an item belongs to the closure.
func (c *closure) referrer(id int32, named bool) string {
	if named {
		return ""
	}
	for _, i := range c.items {
		if slices.Contains(i.refs, id) {
			return fmt.Sprintf(", to which %s refers", c.path(i.name))
		}
	}
	return ""
}

// refs returns the other items that an entry refers to, sorted by name.
func (c *closure) refs(n *bincache.NarInfo, item func(name string) (id int32, ok bool)) []int32 {
	names := slices.Sorted(slices.Values(n.References))
	var refs []int32
	for _, name := range slices.Compact(names) {
		if id, ok := item(name); ok && name != path.Base(n.StorePath) {
			refs = append(refs, id)
		}
	}
	return slices.Clip(refs)
}

// order returns the items, references first: in the order of nix-store --export.
func (c *closure) order() ([]int32, error) {
	byName := make([]int32, len(c.items))
	for i := range byName {
		byName[i] = int32(i)
	}
	slices.SortFunc(byName, func(a, b int32) int { return strings.Compare(c.items[a].name, c.items[b].name) })
	order := make([]int32, 0, len(byName))
	var visit func(id int32) error
	visit = func(id int32) error {
		i := &c.items[id]
		switch i.state {
		case visited, left:
			return nil
		case visiting:
			// No Nix makes one, and there would be no order to import it in.
			return fmt.Errorf("%w: %s refers to itself through others", bincache.ErrDamaged, c.path(i.name))
		}
		i.state = visiting
		for _, ref := range i.refs {
			if err := visit(ref); err != nil {
				return err
			}
		}
		i.state = visited
		order = append(order, id)
		return nil
	}
	for _, id := range byName {
		if err := visit(id); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// read reads the entry of an item once more, and the text of its narinfo.
func (c *closure) read(id int32) (*bincache.NarInfo, []byte, error) {
	i := c.items[id]
	n, text, err := c.Cache.Read(bincache.HashPart(i.name))
	if err != nil {
		return nil, nil, err
	}
	unknown := false
	refs := c.refs(n, func(name string) (int32, bool) {
		id, ok := c.ids[name]
		unknown = unknown || !ok
		return id, ok
	})
	if n.StorePath != c.path(i.name) || unknown && !c.NoClosure || !slices.Equal(refs, i.refs) {
		return nil, nil, ErrChanged // it may need what was not looked for
	}
	return n, text, nil
}
