package cachecheck

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
)

// withdrawAll withdraws entries, and all that need them.
func (m *mending) withdrawAll() error {
	if m.unknown != "" {
		for _, t := range m.unfit {
			m.done(t.Problem, Left, fmt.Errorf("%w, and nobody knows whether %s needs it, which can't be read", t.err, m.unknown))
		}
		return nil
	}
	if len(m.unfit) == 0 {
		return nil
	}
	var chosen []*task
	gone := make(map[string]bool) // base names of store paths that nobody else has
	needing, err := cachegc.Withdraw(m.ctx, m.Cache, func() (unfit []cachegc.Unfit, err error) {
		for _, t := range m.unfit {
			bad, err := m.isUnfit(t)
			if err != nil {
				m.done(t.Problem, Left, err)
				continue
			}
			if !bad {
				m.done(t.Problem, Settled, nil)
				continue
			}
			u := cachegc.Unfit{Hash: t.hash, Path: t.Path}
			if u.Elsewhere, err = m.isElsewhere(t); err != nil {
				return nil, err
			}
			if t.Kind == Nar && t.entry != nil {
				u.URL = t.entry.URL
			}
			if !u.Elsewhere && t.Path != "" {
				gone[path.Base(t.Path)] = true
			}
			unfit, chosen = append(unfit, u), append(chosen, t)
		}
		return unfit, nil
	})
	if err != nil {
		return err
	}
	for _, t := range chosen {
		m.done(t.Problem, Withdrawn, t.err)
	}
	for _, storePath := range needing {
		hash := bincache.HashPart(storePath)
		p := &Problem{Kind: Reference, File: hash + ".narinfo", Path: storePath, hash: hash, Err: errors.New("it needs an entry that is withdrawn")}
		m.done(p, Withdrawn, nil)
		gone[path.Base(storePath)] = true
	}
	for _, t := range chosen {
		if err := m.removeOldNar(t); err != nil {
			return err
		}
	}
	return m.tellPins(gone)
}

// isElsewhere tells whether those who need an entry have it from somewhere else.
func (m *mending) isElsewhere(t *task) (bool, error) {
	sigs := t.sigs
	if t.entry != nil {
		sigs = slices.Concat(sigs, t.entry.Sigs)
	}
	if m.Upstream != nil && m.Upstream(sigs) {
		return true, nil
	}
	for _, base := range m.Bases {
		n, _, err := base.Read(t.hash)
		switch {
		case err == nil && (t.Path == "" || t.Path == n.StorePath): // or nobody knows its name
			return true, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !damaged(err):
			return false, fmt.Errorf("look into base %s: %w", base.Path(), err)
		case base.Replaced():
			return false, fmt.Errorf("look into base %s: it is gone, or another one", base.Path())
		}
	}
	return false, nil
}

// tellPins tells of pins that have lost what they keep.
func (m *mending) tellPins(gone map[string]bool) error {
	for pin, err := range m.Cache.EachPin() {
		if err != nil {
			continue // (ignored) the check has told it
		}
		for _, p := range pin.Paths() {
			if gone[path.Base(p)] {
				lost := lostPin(pin.Name, p)
				m.done(&lost, Left, errors.New("it was withdrawn"))
			}
		}
	}
	return nil
}
