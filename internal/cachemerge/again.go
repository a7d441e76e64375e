package cachemerge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
)

// runAgain merges once more if entries were removed since there was another word of
// removals: those that were added may refer to them.
func (m *Merger) runAgain(ctx context.Context, before string) error {
	needs := make(map[string]need)
	last := m
	for again := false; ; again = true {
		after, removing, err := m.target().Removals()
		if err != nil {
			return err
		}
		if after == before && (again || !removing) {
			return m.lookAgain(ctx, last, needs)
		}
		before = after
		last.addNeeds(needs)
		last = New(Options{Target: m.target(), Sources: m.caches[1:], Log: m.log})
		if err := last.run(ctx); err != nil {
			return err
		}
		last.addNeeds(needs)
		m.result.Added += last.result.Added
		m.result.Mended += last.result.Mended
		m.result.Files += last.result.Files
		m.result.Relying += last.result.Relying
		m.linked.Add(last.linked.Load())
		m.copied.Add(last.copied.Load())
	}
}

// A need is what an entry that was added refers to.
type need struct {
	refs    []*entry // that some cache had then
	relying bool     // there are others
}

// addNeeds adds what those need that were added, by the first parts of their store paths.
func (m *Merger) addNeeds(needs map[string]need) {
	for _, e := range m.entries {
		if !e.added {
			continue
		}
		var n need
		for _, ref := range e.refs {
			if m.entries[ref].seen {
				n.refs = append(n.refs, m.entries[ref])
			} else {
				n.relying = true
			}
		}
		needs[e.hash] = n
	}
}

// lookAgain looks whether what was needed is there after entries were removed. last has
// merged last.
func (m *Merger) lookAgain(ctx context.Context, last *Merger, needs map[string]need) error {
	all := make(map[string]bool)
	for _, n := range needs {
		for _, ref := range n.refs {
			all[m.storePath(ref)] = true
		}
	}
	var damaged, elsewhere []string
	for _, path := range m.missing(ctx, slices.Sorted(maps.Keys(all))) {
		if last.entries[last.id(bincache.HashPart(path))].seen {
			damaged = append(damaged, path)
		} else {
			elsewhere = append(elsewhere, path)
		}
	}
	elsewhere, err := m.bringBack(ctx, elsewhere, true)
	if err != nil {
		return err
	}
	if damaged, err = m.bringBack(ctx, damaged, false); err != nil {
		return err
	}
	if len(damaged) > 0 {
		return fmt.Errorf("%s was removed meanwhile, and no source has it whole", damaged[0])
	}
	relied := make(map[string]bool, len(elsewhere))
	for _, path := range elsewhere {
		relied[bincache.HashPart(path)] = true
	}
	for _, n := range needs {
		if !n.relying && slices.ContainsFunc(n.refs, func(ref *entry) bool { return relied[ref.hash] }) {
			m.result.Relying++
		}
	}
	return nil
}

// bringBack has what was removed brought back, and returns what is missing still.
func (m *Merger) bringBack(ctx context.Context, removed []string, elsewhere bool) ([]string, error) {
	if len(removed) == 0 || m.removed == nil {
		return removed, nil
	}
	if err := m.removed(ctx, removed, elsewhere); err != nil {
		return nil, fmt.Errorf("%s was removed meanwhile: %w", removed[0], err)
	}
	return m.missing(ctx, removed), nil
}

// missing returns those store paths that are not in the target.
func (m *Merger) missing(ctx context.Context, paths []string) (missing []string) {
	for i, f := range m.target().Find(ctx, paths) {
		if errors.Is(f.Err, fs.ErrNotExist) {
			missing = append(missing, paths[i])
		}
	}
	return missing
}
