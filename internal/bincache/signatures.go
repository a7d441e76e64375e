package bincache

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrOtherContents says that an entry of the same store path has other contents, or
// other references: a build that is not reproducible.
var ErrOtherContents = errors.New("entry has other contents")

// AddSignatures adds those signatures of n to the entry of the same path that it has
// not, and tells whether there were any. What is signed are contents and references,
// so an entry in which they differ is left alone; the error wraps [ErrOtherContents].
// For the rest errors are Entry's.
//
// It takes, and waits for, the cache's lock if there is something to add.
func (c *Cache) AddSignatures(ctx context.Context, n *NarInfo) (added bool, err error) {
	if have, err := c.Entry(n.StorePath); err != nil || !lacks(have, n.Sigs) {
		return false, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	have, err := c.Entry(n.StorePath)
	if err != nil || !lacks(have, n.Sigs) {
		return false, err
	}
	if have.NarHash != n.NarHash || have.NarSize != n.NarSize || !slices.Equal(have.References, n.References) {
		return false, fmt.Errorf("%w: nar hash is %s with %d bytes and %d references, want %s with %d and %d", ErrOtherContents,
			have.NarHash, have.NarSize, len(have.References), n.NarHash, n.NarSize, len(n.References))
	}
	have.Sigs = append(have.Sigs, n.Sigs...)
	slices.Sort(have.Sigs)
	have.Sigs = slices.Compact(have.Sigs)
	t, err := c.TempNarInfo(have)
	if err != nil {
		return false, err
	}
	defer t.Discard()
	if err := t.Sync(); err != nil {
		return false, err
	}
	if err := t.Replace(narInfoName(n.StorePath)); err != nil {
		return false, err
	}
	return true, c.SyncDir(".")
}

// lacks tells whether one of some signatures is missing in an entry.
func lacks(n *NarInfo, sigs []string) bool {
	return slices.ContainsFunc(sigs, func(sig string) bool { return !slices.Contains(n.Sigs, sig) })
}
