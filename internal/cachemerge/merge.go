// Package cachemerge unites binary caches: what several jobs have written, each into
// a cache of its own, becomes one cache.
//
// # What is kept
//
// An entry that the target has stays. Of the others the first good one is taken, in
// the order of the sources; its narinfo is copied as it is written. Entries of one
// store path with the same contents and references get each other's signatures; one
// with other contents is a conflict, which is reported and otherwise ignored, since
// everything that refers to it by name is as good with one as with the other.
//
// An entry is damaged if its NAR is not there as its narinfo says. It is taken from the
// next cache that has a good one, and so is one that is damaged in the target. If no
// cache has a good one, it is left out, with all that refers to it.
//
// A reference that none of the caches has is another matter: a source that was
// written with --skip-signed-by or --base relies on others for it, and so does the
// target from then on.
//
// What only the target has, and is removed from it while something that needs it is added,
// comes back if the caller sees to it. If it can't, all is as if it had been removed before:
// the target relies on others for it, as the source does, or if a source has it damaged, it is
// an error, and what needs it goes. So merging again changes nothing.
//
// Build logs, listings, records of runs and pins are copied where the target has none of
// the same name; of a record that was still being written when it was copied before, what
// was written last is taken. Nothing else is recorded: entries are as old as they were where
// they come from, and those of which no record tells count as just used. Realisations are copied as well, unless their store path is lost, or they depend on
// others of which the target has another; those with the same store path get each other's
// signatures, and those with another one are conflicts.
//
// # Order of writes
//
// The target is whole at any moment, whoever is killed. For one batch after the other,
// references first, files become visible in this order, each durable before the next:
//
//  1. the NARs,
//  2. the narinfos, those of references before those of referrers.
//
// Nothing is remembered of an unfinished merge: the next one finds what is there.
//
// # Links
//
// A NAR whose owner, group and mode are right for the target is hard-linked, which
// takes neither time nor space. Both caches then share it for ever; that is safe
// because nobody writes to a NAR that has its name. Everything else is copied (on file
// systems that can share blocks: without taking space), narinfos too: they are small,
// and change. What is linked is not read; what is copied is compared with its hash.
//
// Sources are only read. Others may write to them, and to the target, meanwhile.
package cachemerge

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nix-larder/larder/internal/bincache"
)

// Options tell New what to do.
type Options struct {
	// Target is the cache that gets what the others have. It must not be nil.
	Target *bincache.Cache

	// Sources are the others. If they disagree, the first one is right.
	Sources []*bincache.Cache

	// Removed, if it is not nil, is told of store paths that were removed from the target
	// while what needs them was added, and that no source has whole. It has to bring them
	// back, or else, unless clients have them from elsewhere, to withdraw what needs them.
	Removed func(ctx context.Context, storePaths []string, elsewhere bool) error

	// Log gets what a person should know. Nil means nobody wants to.
	Log *slog.Logger
}

// A Result says what a merge did.
type Result struct {
	Added      int `json:"added"`             // entries that the target had not
	Present    int `json:"present"`           // entries that it had
	Mended     int `json:"mended"`            // entries that were damaged there
	Signatures int `json:"signatures"`        // that the kept entries had not
	Files      int `json:"files"`             // logs, realisations and the like that were copied
	Relying    int `json:"relying_on_others"` // of the added and mended: with a reference that no cache has

	LinkedBytes int64 `json:"linked_bytes"` // of NARs that are now one file in both caches
	CopiedBytes int64 `json:"copied_bytes"` // of NARs

	Conflicts []Conflict `json:"conflicts"` // what differs, and so was not united
	Damaged   []Damage   `json:"damaged"`   // entries that are damaged in some cache
	LeftOut   []string   `json:"left_out"`  // store paths that need one of those that are lost
}

// A Conflict is a store path, a realisation, or a pin, that is not the same in two caches.
type Conflict struct {
	Name  string `json:"name"`
	Kept  string `json:"kept"`  // the directory of the cache whose is kept
	Other string `json:"other"` // of the other one
}

// Damage is an entry that is of no use in one cache.
type Damage struct {
	Path  string `json:"path"`  // store path, or just its first part if that is all that is known
	Cache string `json:"cache"` // its directory
	Cause string `json:"cause"`
	Lost  bool   `json:"lost"` // no other cache has a good one
}

// Lost returns how many store paths are damaged everywhere.
func (r *Result) Lost() int {
	lost := make(map[string]bool)
	for _, d := range r.Damaged {
		if d.Lost {
			lost[bincache.HashPart(d.Path)] = true
		}
	}
	return len(lost)
}

// sort brings what was found in whatever order into one.
func (r *Result) sort() {
	slices.SortFunc(r.Conflicts, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Other, b.Other))
	})
	slices.SortFunc(r.Damaged, func(a, b Damage) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Cache, b.Cache))
	})
	slices.Sort(r.LeftOut)
}

// Progress is how far a merge is.
type Progress struct {
	Paths int   // found so far
	Done  int   // of those: in the target
	Bytes int64 // of NARs that were linked or copied
}

// A Merger merges caches once.
type Merger struct {
	caches  []*bincache.Cache // the target, and then the sources
	log     *slog.Logger
	removed func(ctx context.Context, storePaths []string, elsewhere bool) error
	batch   int // how many entries are read, or published, together
	entries []*entry
	ids     map[string]int32 // in entries, by the first part of the store path

	found, done, linked, copied atomic.Int64

	mu     sync.Mutex // guards what is below, while a batch is placed
	result Result
	damage []damaged
}

// New returns a Merger.
func New(o Options) *Merger {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Merger{
		caches:  append([]*bincache.Cache{o.Target}, o.Sources...),
		log:     o.Log,
		removed: o.Removed,
		batch:   1024, // enough to share syncs
		ids:     make(map[string]int32),
	}
}

// Progress returns how far Run is.
func (m *Merger) Progress() Progress {
	return Progress{Paths: int(m.found.Load()), Done: int(m.done.Load()), Bytes: m.linked.Load() + m.copied.Load()}
}

// Run merges. After an error, or if it is killed, the target is whole, and Run of a new
// Merger goes on. What is removed from the target meanwhile is added once more, as far as a
// source has it.
func (m *Merger) Run(ctx context.Context) (Result, error) {
	before, _, err := m.target().Removals()
	if err == nil {
		err = m.run(ctx)
	}
	if err == nil {
		err = m.runAgain(ctx, before)
	}
	if err == nil {
		err = ctx.Err()
	}
	m.result.LinkedBytes, m.result.CopiedBytes = m.linked.Load(), m.copied.Load()
	for _, d := range m.damage {
		d.Lost = d.of.lost()
		m.result.Damaged = append(m.result.Damaged, d.Damage)
	}
	m.result.sort()
	if err != nil {
		err = fmt.Errorf("merge into %s: %w", m.target().Path(), err)
	}
	return m.result, err
}

func (m *Merger) run(ctx context.Context) error {
	if err := m.look(ctx); err != nil {
		return err
	}
	for batch := range slices.Chunk(m.order(), m.batch) {
		if err := m.add(ctx, batch); err != nil {
			return err
		}
	}
	if err := m.sign(ctx); err != nil {
		return err
	}
	if err := m.takeRealisations(ctx); err != nil {
		return err
	}
	return m.takeFiles(ctx)
}

func (m *Merger) target() *bincache.Cache { return m.caches[0] }
