package cachewriter

import (
	"context"
	"errors"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
)

// sign adds our signatures to a narinfo that is to be published.
func (w *Writer) sign(n *bincache.NarInfo) error {
	sigs, err := n.Sign(w.keys)
	if err != nil {
		return err
	}
	n.Sigs = append(n.Sigs, sigs...)
	slices.Sort(n.Sigs)
	n.Sigs = slices.Compact(n.Sigs)
	return n.Check()
}

// signPresent adds our signatures to an entry that is there, if it has what the
// store has, and tells whether it had to. An entry with other contents it leaves as
// it is.
func (w *Writer) signPresent(ctx context.Context, info *nixstore.Info, have *bincache.NarInfo) (bool, error) {
	if have.NarHash != bincache.Hash(info.NarHash) {
		w.keptOther(info.Path, "cache_nar_hash", have.NarHash.String(), "store_nar_hash", bincache.Hash(info.NarHash).String())
		return false, nil
	}
	// Without keys this is so of every entry.
	if signed, err := have.SignedBy(w.keys); signed || err != nil {
		return false, err
	}
	// The signature is of what our store has, never of what the cache says.
	n := &bincache.NarInfo{StorePath: info.Path, NarHash: have.NarHash, NarSize: info.NarSize, References: baseNames(info.References)}
	if n.NarSize == 0 { // Nix does not know, but the hash leaves one size only
		n.NarSize = have.NarSize
	}
	var err error
	if n.Sigs, err = n.Sign(w.keys); err != nil {
		return false, err
	}
	// Whoever closes the Writer does not wait for the cache's lock.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	return w.addSignatures(ctx, n)
}

// signPublished signs those entries that another writer was faster to publish.
func (w *Writer) signPublished(batch []*entry) error {
	if len(w.keys) == 0 {
		return nil
	}
	return bincache.EachOf(batch, func(e *entry) error {
		_, err := w.addSignatures(w.ctx, e.dump.narInfo)
		return err
	})
}

func (w *Writer) addSignatures(ctx context.Context, n *bincache.NarInfo) (bool, error) {
	added, err := w.cache.AddSignatures(ctx, n)
	if errors.Is(err, bincache.ErrOtherContents) {
		w.keptOther(n.StorePath, "err", err)
		return false, nil
	}
	return added, err
}

// keptOther says that the store has other contents than an entry. Clients may have
// that already, and everything that refers to it by name is as good with one as
// with the other: the first one stays.
func (w *Writer) keptOther(path string, how ...any) {
	w.log.Warn("kept another build of the same path", append([]any{"path", path}, how...)...)
}
