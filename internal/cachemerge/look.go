package cachemerge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/nix-larder/larder/internal/bincache"
)

// An entry is a store path in any of the caches. There are as many as the caches have
// together, so it holds no more than the merge needs; the rest is read again.
type entry struct {
	hash    string // first part of the name
	name    string // base name; "" while it is only known as a reference, or damaged
	narHash bincache.Hash
	refs    []int32 // in the Merger's entries
	homes   []int16 // caches that have it, equal and good; the first one's is kept
	sigs    []string
	more    []string // of those: not in the kept one
	seen    bool     // some cache has it, maybe damaged
	mend    bool     // it is damaged in the target
	added   bool     // to the target
	state   state
}

// lost tells whether some cache has an entry, but none as it should be.
func (e *entry) lost() bool { return e.seen && len(e.homes) == 0 }

func (e *entry) inTarget() bool { return len(e.homes) > 0 && e.homes[0] == 0 }

// A damaged is a Damage of which nobody knows yet whether there is a better one.
type damaged struct {
	Damage
	of *entry
}

// look finds out what the caches have.
func (m *Merger) look(ctx context.Context) error {
	for i, cache := range m.caches {
		hashes, err := cache.Hashes()
		if err != nil {
			return err
		}
		if err := m.read(ctx, i, hashes); err != nil {
			return err
		}
	}
	return m.readUnseen(ctx)
}

// readUnseen looks for references that are in no list.
func (m *Merger) readUnseen(ctx context.Context) error {
	// What came while a directory was listed may not be in the list, but something in
	// the list may need it. Its narinfo was there first.
	for first := 0; first < len(m.entries); {
		var unseen []string
		for _, e := range m.entries[first:] {
			if !e.seen {
				unseen = append(unseen, e.hash)
			}
		}
		first = len(m.entries)
		for i := range m.caches {
			if err := m.read(ctx, i, unseen); err != nil {
				return err
			}
		}
	}
	return nil
}

// read reads entries of one cache, and unites them with those of the caches before.
func (m *Merger) read(ctx context.Context, cache int, hashes []string) error {
	var one sync.Mutex // what was read is not kept: a cache can have narinfos of any size
	for batch := range slices.Chunk(hashes, m.batch) {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := bincache.EachOf(batch, func(hash string) error {
			n, _, err := m.caches[cache].Read(hash)
			one.Lock()
			defer one.Unlock()
			return m.unite(cache, hash, n, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unite adds what one cache has to what those before it have.
func (m *Merger) unite(cache int, hash string, n *bincache.NarInfo, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	e := m.entries[m.id(hash)]
	e.seen = true
	if err != nil {
		if cache == 0 && !errors.Is(err, bincache.ErrDamaged) {
			return fmt.Errorf("read entry of %s: %w", hash, err)
		}
		e.mend = cache == 0
		m.damaged(e, cache, n, err)
		return nil
	}
	if len(e.homes) == 0 {
		e.name, e.narHash, e.refs = strings.Clone(path.Base(n.StorePath)), n.NarHash, m.refs(n)
		for _, sig := range n.Sigs {
			e.sigs = append(e.sigs, strings.Clone(sig)) // without the rest of the narinfo
		}
		e.homes = []int16{int16(cache)}
		m.found.Add(1)
		if cache == 0 {
			m.result.Present++
			m.done.Add(1)
		}
		return nil
	}
	if !m.isEqual(e, n) {
		kept := m.caches[e.homes[0]].Path()
		m.result.Conflicts = append(m.result.Conflicts, Conflict{n.StorePath, kept, m.caches[cache].Path()})
		return nil
	}
	e.homes = append(e.homes, int16(cache))
	for _, sig := range n.Sigs {
		if !slices.Contains(e.sigs, sig) {
			sig = strings.Clone(sig)
			e.sigs, e.more = append(e.sigs, sig), append(e.more, sig)
		}
	}
	return nil
}

// isEqual tells whether an entry is the one that is kept, but for signatures and the
// way it is compressed.
func (m *Merger) isEqual(e *entry, n *bincache.NarInfo) bool {
	return e.name == path.Base(n.StorePath) && e.narHash == n.NarHash && slices.Equal(e.refs, m.refs(n))
}

// refs returns the other entries that one refers to.
func (m *Merger) refs(n *bincache.NarInfo) []int32 {
	var refs []int32
	for _, ref := range n.References {
		if ref != path.Base(n.StorePath) {
			refs = append(refs, m.id(bincache.HashPart(ref)))
		}
	}
	slices.Sort(refs)
	return refs
}

// id returns where the entry with this first part is, and makes it if need be.
func (m *Merger) id(hash string) int32 {
	id, ok := m.ids[hash]
	if !ok {
		hash = strings.Clone(hash)
		id = int32(len(m.entries))
		m.entries = append(m.entries, &entry{hash: hash})
		m.ids[hash] = id
	}
	return id
}

func (m *Merger) storePath(e *entry) string { return path.Join(m.target().StoreDir(), e.name) }

// damaged notes that an entry is damaged in one of the caches.
func (m *Merger) damaged(e *entry, cache int, n *bincache.NarInfo, err error) {
	name := e.hash
	switch {
	case n != nil:
		name = n.StorePath
	case e.name != "":
		name = m.storePath(e)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.damage = append(m.damage, damaged{Damage{Path: name, Cache: m.caches[cache].Path(), Cause: err.Error()}, e})
}

// A state is how far order is with an entry.
type state uint8

const (
	unvisited state = iota
	visiting
	circular // visiting, and it has been come to again
	visited
)

// order returns the entries to add, references first, and leaves out those of which a
// reference is lost.
func (m *Merger) order() []*entry {
	var order []*entry
	var visit func(e *entry) (usable bool)
	visit = func(e *entry) bool {
		switch {
		case e.state == visiting || e.state == circular:
			e.state = circular // no Nix makes a circle of references, and it can't be added in order
			return false
		case e.state == visited || !e.seen || e.lost() || e.inTarget():
			return !e.lost()
		}
		e.state = visiting
		usable := true
		for _, ref := range e.refs {
			usable = visit(m.entries[ref]) && usable
		}
		switch {
		case usable:
			order = append(order, e)
		case e.state == circular:
			m.damaged(e, int(e.homes[0]), nil, errCircle)
			e.homes = nil
		default:
			m.leaveOut(e)
		}
		e.state = visited
		return usable
	}
	for _, e := range m.entries {
		visit(e)
	}
	return order
}

var errCircle = errors.New("what it refers to refers to it")

func (m *Merger) leaveOut(e *entry) {
	e.homes = nil
	m.result.LeftOut = append(m.result.LeftOut, m.storePath(e))
}
