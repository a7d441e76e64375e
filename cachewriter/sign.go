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

// signPresent adds our signatures, and those that Nix's database has, to an entry that is
// there, if it has what the store has, and tells whether it had to. An entry with other
// contents it leaves as it is.
func (w *Writer) signPresent(ctx context.Context, info *nixstore.Info, have *bincache.NarInfo) (bool, error) {
	n := inStore(info, have)
	if !have.SameContents(n) {
		w.keepOther(have, n)
		return false, nil
	}
	// The signature is of what our store has, never of what the cache says.
	sigs, err := n.Sign(w.keys)
	if err != nil {
		return false, err
	}
	n.Sigs = append(sigs, bincache.ValidSigs(info.Sigs)...)
	if !have.Lacks(n.Sigs) {
		return false, nil
	}
	// Whoever closes the Writer does not wait for the cache's lock.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	return w.addSignatures(ctx, n)
}

// inStore returns what the store has of an entry.
func inStore(info *nixstore.Info, have *bincache.NarInfo) *bincache.NarInfo {
	n := &bincache.NarInfo{StorePath: info.Path, NarHash: info.NarHash, NarSize: info.NarSize, References: baseNames(info.References)}
	if n.NarSize == 0 && n.NarHash == have.NarHash { // Nix does not know, but the hash leaves one size only
		n.NarSize = have.NarSize
	}
	return n
}

// SameContents tells whether an entry has what the store has.
func SameContents(have *bincache.NarInfo, info *nixstore.Info) bool {
	return have.SameContents(inStore(info, have))
}

// lacks tells whether an entry has not all signatures of Nix's database that it can have:
// anybody may have put anything there.
func lacks(have *bincache.NarInfo, sigs []string) bool {
	return have.Lacks(sigs) && have.Lacks(bincache.ValidSigs(sigs))
}

// signPublished signs those entries that another writer was faster to publish.
func (w *Writer) signPublished(batch []*entry) error {
	return bincache.EachOf(batch, func(e *entry) error {
		if e.ours || e.present { // what is present was looked at before
			return nil
		}
		have, err := w.cache.Entry(e.info.Path)
		if err != nil {
			return err
		}
		if !have.SameContents(e.dump.narInfo) {
			w.keepOther(have, e.dump.narInfo)
			return nil
		}
		_, err = w.addSignatures(w.ctx, e.dump.narInfo)
		return err
	})
}

func (w *Writer) addSignatures(ctx context.Context, n *bincache.NarInfo) (bool, error) {
	added, err := w.cache.AddSignatures(ctx, n)
	if errors.Is(err, bincache.ErrOtherContents) {
		return false, nil // it has been replaced since it was looked at
	}
	return added, err
}

// keepOther says, once, that the store has other contents than an entry. Clients may
// have that already, and everything that refers to it by name is as good with one as
// with the other: the first one stays.
func (w *Writer) keepOther(have, n *bincache.NarInfo) {
	if !w.sayOnce(n.StorePath) {
		return
	}
	attrs := []any{"path", n.StorePath, "cache_nar_hash", have.NarHash.String(), "store_nar_hash", n.NarHash.String()}
	if have.NarHash == n.NarHash {
		attrs = append(attrs, "cache_nar_size", have.NarSize, "store_nar_size", n.NarSize, "cache_references", have.References, "store_references", n.References)
	}
	w.log.Warn("kept another build of the same path", attrs...)
	w.kept(have, n)
}

// replaced says what became of an entry that had other contents.
func (w *Writer) replaced(was, n *bincache.NarInfo) {
	attrs := []any{"path", n.StorePath, "was_nar_hash", was.NarHash.String(), "nar_hash", n.NarHash.String()}
	signers := bincache.Signers(n.Sigs)
	lost := slices.DeleteFunc(bincache.Signers(was.Sigs), func(name string) bool { return slices.Contains(signers, name) })
	if len(lost) > 0 {
		w.log.Warn("replaced entry was signed by others as well, who have not signed the new contents", append(attrs, "keys", slices.Compact(lost))...)
		return
	}
	w.log.Info("replaced entry", attrs...)
}
