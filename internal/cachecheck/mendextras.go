package cachecheck

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
)

// mendExtras mends what entries can do without, when they are as they will be.
func (m *mending) mendExtras() error {
	for _, p := range m.extras {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		var err error
		switch p.Kind {
		case Listing:
			err = m.mendListing(p)
		case Realised:
			err = m.mendRealisation(p)
		case Log:
			err = m.removeLog(p)
		}
		if err != nil {
			return fmt.Errorf("repair %s: %w", p.File, err)
		}
	}
	return nil
}

// mendListing makes a listing of the NAR, or removes it if there can be none.
func (m *mending) mendListing(p *Problem) error {
	why := m.listAnew(p.hash)
	if why == nil {
		m.done(p, Rewritten, nil)
		return nil
	}
	if m.ctx.Err() != nil {
		return m.ctx.Err()
	}
	if bincache.IsFull(why) {
		m.done(p, Left, why)
		return nil
	}
	removed, err := m.Cache.RemoveExtra(m.ctx, p.File, func() (bool, error) { return true, nil })
	switch {
	case err != nil:
		return err
	case removed:
		m.done(p, Removed, why)
	default:
		m.done(p, Settled, nil)
	}
	return nil
}

// listAnew writes the listing of an entry, as its NAR has it.
func (m *mending) listAnew(hash string) error {
	n, _, err := m.Cache.Read(hash)
	if err != nil {
		return err
	}
	file, _, err := m.Cache.OpenNar(n)
	if err != nil {
		return err
	}
	defer file.Close()
	from, err := compress.NewReader(n.Compression, file, n.NarSize)
	if err != nil {
		return err
	}
	defer from.Close()
	temp, err := m.Cache.CreateTemp()
	if err != nil {
		return err
	}
	defer temp.Discard()
	h := sha256.New()
	r := nar.NewReader(io.TeeReader(&untilDone{m.ctx, from}, h))
	r.Listing = nar.NewListing(temp.Added())
	if _, _, err := r.Copy(io.Discard); err != nil {
		return err
	}
	if err := r.Listing.Close(); err != nil {
		return err
	}
	if end, err := r.AtEnd(); err != nil || !end || bincache.Hash(h.Sum(nil)) != n.NarHash {
		return cannot("the NAR is not as it should be")
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := m.Cache.PublishExtra(m.ctx, temp, bincache.ListingName(n.StorePath), true); err != nil {
		return err
	}
	return m.Cache.SyncDir(".")
}

// mendRealisation copies what a realisation promises, or withdraws it.
func (m *mending) mendRealisation(p *Problem) error {
	if m.gone[p.File] {
		return nil // it was named with what it depends on
	}
	var why error
	if !p.useless {
		copied, err := m.copyPromised(p.Path)
		switch {
		case err == nil && copied:
			m.done(p, Rewritten, nil)
			return nil
		case err != nil && !errors.Is(err, ErrCannot):
			m.done(p, Left, err)
			return nil
		case !m.Closed:
			m.done(p, Left, fmt.Errorf("%w, but may be where nobody has looked", err))
			return nil
		}
		why = err
	}
	gone, withdrawn, err := m.Cache.WithdrawRealisation(m.ctx, p.File, func() (bool, error) { return m.isUseless(p) })
	if err != nil {
		return err
	}
	if withdrawn {
		m.done(p, Withdrawn, why)
	} else {
		m.done(p, Settled, nil)
	}
	for _, r := range gone {
		m.gone[r.File()] = true
		m.done(&Problem{
			Kind: Realised, File: r.File(), Path: m.Cache.StoreDir() + "/" + r.OutPath,
			Err: errors.New("it depends on a realisation that is withdrawn"),
		}, Withdrawn, nil)
	}
	return nil
}

// copyPromised copies the store path of a realisation, if the store has it.
func (m *mending) copyPromised(storePath string) (bool, error) {
	if m.Store == nil {
		return false, cannot("there is no store")
	}
	t := &task{Problem: &Problem{}}
	if err := m.planCopy(t, storePath); err != nil {
		return false, err
	}
	if err := m.Store.Copy(m.ctx, t.copy, nil); err != nil {
		return false, err
	}
	if _, err := m.Cache.Entry(storePath); err != nil {
		return false, cannot("others are to have it from elsewhere")
	}
	return true, nil
}

// isUseless tells whether a realisation is still as it was. The cache's lock is held.
func (m *mending) isUseless(p *Problem) (bool, error) {
	r, err := m.Cache.Realisation(p.File)
	switch {
	case err != nil:
		return isDamage(err)
	case p.useless:
		return (&Checker{Cache: m.Cache}).isStillBroken(p.File), nil
	}
	storePath := m.Cache.StoreDir() + "/" + r.OutPath
	if f := m.Cache.Find(m.ctx, []string{storePath})[0]; f.Err == nil || !errors.Is(f.Err, fs.ErrNotExist) && !damaged(f.Err) {
		return false, f.Err
	}
	lacks, err := NotInBases(m.ctx, m.Bases, []string{storePath})
	return len(lacks) > 0, err
}

func (m *mending) removeLog(p *Problem) error {
	removed, err := m.Cache.RemoveExtra(m.ctx, p.File, func() (bool, error) {
		err := (&Checker{Cache: m.Cache, Contents: true}).readLog(m.ctx, p.File)
		return err != nil && (damaged(err) || errors.Is(err, compress.ErrCorrupt)), m.ctx.Err()
	})
	switch {
	case err != nil:
		return err
	case removed:
		m.done(p, Removed, nil)
	default:
		m.done(p, Settled, nil)
	}
	return nil
}
