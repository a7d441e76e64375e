package cachecheck

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
)

// copyAll copies all that would mend something. What comes of it is looked at: the store may
// leave a path to others, who have it.
func (m *mending) copyAll() error {
	var all []string
	for _, t := range m.todo {
		all = append(all, t.copy...)
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	// At once, so that syncs are shared. One that is in the way of others is copied alone.
	_ = m.Store.Copy(m.ctx, slices.Compact(all), m.anew) // (ignored) what is missing is copied again
	for _, t := range m.todo {
		if t.err = m.ctx.Err(); t.err != nil {
			return t.err
		}
		mended, err := m.isMended(t)
		if err == nil && !mended {
			if err = m.Store.Copy(m.ctx, t.copy, m.anew); err == nil {
				mended, err = m.isMended(t)
			}
		}
		switch {
		case m.ctx.Err() != nil:
			return m.ctx.Err()
		case err == nil && !mended && t.Kind == Signature:
			err = cannot("the store has no such signature either, and no key that makes one")
		case err == nil && !mended:
			err = cannot("others are to have it from elsewhere")
		}
		if t.err = err; err != nil {
			m.giveUp(t)
			continue
		}
		if t.Path == "" {
			t.Path = t.copy[0] // now it is known
		}
		m.done(t.Problem, Rewritten, nil)
		if err := m.removeOldNar(t); err != nil {
			return err
		}
	}
	return nil
}

// isMended tells whether something is as it should be, after a copy.
func (m *mending) isMended(t *task) (bool, error) {
	if t.Kind == Reference && !m.anew[t.hash] {
		bad, err := m.isUnfit(t)
		return !bad, err
	}
	n, err := m.Cache.Entry(t.copy[0])
	switch {
	case errors.Is(err, fs.ErrNotExist) || damaged(err):
		return false, nil
	case err != nil:
		return false, err
	}
	switch t.Kind {
	case Signature:
		s := n.SignatureState(m.Keys)
		return s == bincache.Valid || s == bincache.ContentAddressed, nil
	case Reference:
		bad, err := m.isUnfit(t)
		return !bad, err
	case Contents:
		if bad, err := m.isUnfit(t); bad || err != nil {
			return false, err
		}
	}
	if t.Kind != Pin {
		m.mended[n.NarHash] = n
	}
	return true, nil
}

// isDamage tells whether the error of reading something once more says that it is damaged. If it
// is gone, that is no error, and nothing to be withdrawn.
func isDamage(err error) (bool, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case damaged(err):
		return true, nil
	}
	return false, err
}

// isUnfit tells whether an entry is still as damaged as it was.
func (m *mending) isUnfit(t *task) (bool, error) {
	n, _, err := m.Cache.Read(t.hash)
	if err != nil {
		return isDamage(err)
	}
	switch t.Kind {
	case Contents:
		// Who mends it puts another file there, or names another one.
		if path.Clean(n.URL) != t.nar.url || saysOf(n) != saysOf(t.entry) {
			return false, nil
		}
		is, err := m.Cache.StatNar(n.URL)
		return err == nil && bincache.SameFile(t.nar.file, is), err
	case Reference:
		var lacks []string
		for _, ref := range t.missing {
			if slices.Contains(n.References, path.Base(ref)) {
				lacks = append(lacks, ref)
			}
		}
		for i, f := range m.Cache.Find(m.ctx, lacks) {
			if f.Err != nil && !errors.Is(f.Err, fs.ErrNotExist) && !damaged(f.Err) {
				return false, fmt.Errorf("look for %s: %w", lacks[i], f.Err)
			}
			if f.Err == nil {
				lacks[i] = ""
			}
		}
		lacks = slices.DeleteFunc(lacks, func(ref string) bool { return ref == "" })
		lacks, err := NotInBases(m.ctx, m.Bases, lacks)
		return len(lacks) > 0, err
	}
	return false, nil
}

// useOtherNars has entries name the NARs of others that have been written anew with the
// same contents, or the same file.
func (m *mending) useOtherNars() {
	var left []*task
	for _, t := range m.unfit {
		if bad, err := m.isUnfit(t); err == nil && !bad && t.entry != nil && m.mended[t.entry.NarHash] != nil {
			m.done(t.Problem, Rewritten, nil)
			continue
		}
		if t.entry != nil && (t.Kind == Nar || t.Kind == Contents) && m.mended[t.entry.NarHash] != nil {
			if named, err := m.Cache.NameNar(m.ctx, t.hash, m.mended[t.entry.NarHash]); err == nil && named {
				m.done(t.Problem, Rewritten, nil)
				continue
			}
		}
		left = append(left, t)
	}
	m.unfit = left
}

// removeOldNar removes a NAR that is right for nobody: it would be taken for a good one by
// who wants to publish it, since it has the size.
func (m *mending) removeOldNar(t *task) error {
	if t.Kind != Contents || t.nar.good || m.keep[t.nar.url] {
		return nil
	}
	_, err := m.Cache.RemoveNar(m.ctx, t.nar.url, t.nar.file)
	return err
}
