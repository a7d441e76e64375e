package cachecheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
)

// A Store is what Nix still has.
type Store interface {
	// Find returns the store path with some first part, and the hash of its NAR, if Nix
	// has it.
	Find(ctx context.Context, hash string) (storePath string, narHash bincache.Hash, ok bool)

	// Copy writes the closure of a store path to the cache.
	Copy(ctx context.Context, storePath string) error
}

// NoStore is a Store without any paths.
type NoStore struct{}

// Find finds nothing.
func (NoStore) Find(context.Context, string) (string, bincache.Hash, bool) {
	return "", bincache.Hash{}, false
}

// Copy copies nothing.
func (NoStore) Copy(context.Context, string) error { return errors.New("there is no store") }

// An Action says what became of a problem.
type Action string

const (
	Rewritten Action = "rewritten" // from the local store
	Withdrawn Action = "withdrawn" // the entry is gone: clients build, or look elsewhere
	Removed   Action = "removed"   // the file is gone
	Left      Action = "left"      // nothing was done
)

// A Repair is what became of a problem, or of an entry that needs another one.
type Repair struct {
	Problem
	Action Action
	Why    error // why it was not done better; nil if it was done as well as can be
}

// Mend mends what a check has found, as far as it can be.
func Mend(ctx context.Context, c *bincache.Cache, store Store, problems []Problem) ([]Repair, error) {
	m := &mender{ctx: ctx, cache: c, store: store}
	for _, p := range problems {
		if err := m.mend(p); err != nil {
			return m.repairs, fmt.Errorf("repair %s: %w", p.File, err)
		}
	}
	if err := m.withdrawAll(); err != nil {
		return m.repairs, fmt.Errorf("withdraw entries: %w", err)
	}
	return m.repairs, nil
}

type mender struct {
	ctx      context.Context
	cache    *bincache.Cache
	store    Store
	repairs  []Repair
	withdraw []Repair // what is to be withdrawn
}

func (m *mender) done(p Problem, a Action, why error) {
	m.repairs = append(m.repairs, Repair{p, a, why})
}

func (m *mender) mend(p Problem) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	if errors.Is(p.Err, fs.ErrPermission) {
		m.done(p, Left, errors.New("who repairs must be allowed to read it"))
		return nil
	}
	switch p.Kind {
	case NarInfo, Nar, Contents, Reference:
		return m.mendEntry(p)
	case Record:
		m.done(p, Removed, nil)
		return m.cache.RemoveFile(p.File)
	case Pin:
		if p.Path == "" {
			m.done(p, Left, errors.New("only you know what it should keep"))
			return nil
		}
		err := errors.New("it is not in the store")
		if _, _, ok := m.store.Find(m.ctx, bincache.HashPart(p.Path)); ok {
			err = m.store.Copy(m.ctx, p.Path)
		}
		if err == nil {
			m.done(p, Rewritten, nil)
		} else {
			m.done(p, Left, err)
		}
		return m.ctx.Err()
	}
	m.done(p, Left, errors.New("only you know what it should be"))
	return nil
}

// mendEntry writes an entry anew, or has it withdrawn.
func (m *mender) mendEntry(p Problem) error {
	storePath, narHash, ok := m.store.Find(m.ctx, p.hash)
	err := errors.New("it is not in the store")
	if ok && p.narHash != (bincache.Hash{}) && narHash != p.narHash {
		ok, err = false, errors.New("what the store has was built differently")
	}
	if ok {
		if p.Kind == Contents {
			// It has the right size, and so would be taken for whole.
			if err := m.cache.RemoveFile(p.url); err != nil {
				return err
			}
		}
		if err = m.store.Copy(m.ctx, storePath); err == nil {
			p.Path = storePath
			m.done(p, Rewritten, nil)
			return nil
		}
		if m.ctx.Err() != nil {
			return m.ctx.Err()
		}
	}
	m.withdraw = append(m.withdraw, Repair{p, Withdrawn, err})
	return nil
}

// withdrawAll withdraws entries, and all that need them.
func (m *mender) withdrawAll() error {
	if len(m.withdraw) == 0 {
		return nil
	}
	var hashes []string
	for _, r := range m.withdraw {
		hashes = append(hashes, r.hash)
	}
	withdrawn, err := cachegc.Withdraw(m.ctx, m.cache, hashes)
	if err != nil {
		return err
	}
	for _, r := range m.withdraw {
		if r.Kind == Contents || r.Kind == Nar {
			// Nobody names it any more, and nobody can use it.
			if err := m.cache.RemoveFile(r.url); err != nil && !errors.Is(err, fs.ErrNotExist) {
				r.Why = errors.Join(r.Why, err)
			}
		}
		m.repairs = append(m.repairs, r)
	}
	for _, storePath := range withdrawn {
		hash := bincache.HashPart(storePath)
		if !slices.Contains(hashes, hash) {
			p := Problem{Kind: Reference, File: hash + ".narinfo", Path: storePath, hash: hash, Err: errors.New("it needs an entry that is withdrawn")}
			m.done(p, Withdrawn, nil)
		}
	}
	return nil
}
