package bincache

import (
	"bytes"
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
// It takes, and waits for, the cache's lock if there is something to add, but only to
// put in place what it has made durable before: many can be added to at a time.
func (c *Cache) AddSignatures(ctx context.Context, n *NarInfo) (added bool, err error) {
	for !added && err == nil {
		have, err := c.Entry(n.StorePath)
		if err != nil || !lacks(have, n.Sigs) {
			return false, err
		}
		if have.NarHash != n.NarHash || have.NarSize != n.NarSize || !slices.Equal(have.References, n.References) {
			return false, fmt.Errorf("%w: nar hash is %s with %d bytes and %d references, want %s with %d and %d", ErrOtherContents,
				have.NarHash, have.NarSize, len(have.References), n.NarHash, n.NarSize, len(n.References))
		}
		united := *have
		united.Sigs = slices.Concat(have.Sigs, n.Sigs)
		slices.Sort(united.Sigs)
		united.Sigs = slices.Compact(united.Sigs)
		if added, err = c.replaceNarInfo(ctx, have, &united); err != nil {
			return false, err
		}
	}
	return added, err
}

// replaceNarInfo puts a narinfo in the place of another one, if that is still as it
// was read, and tells whether it was.
func (c *Cache) replaceNarInfo(ctx context.Context, was, is *NarInfo) (bool, error) {
	t, err := c.TempNarInfo(is)
	if err != nil {
		return false, err
	}
	defer t.Discard()
	if err := t.Sync(); err != nil {
		return false, err
	}
	if replaced, err := c.replaceLocked(ctx, t, was); err != nil || !replaced {
		return false, err
	}
	return true, c.SyncDir(".")
}

func (c *Cache) replaceLocked(ctx context.Context, t *Temp, was *NarInfo) (bool, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	now, err := c.Entry(was.StorePath)
	if err != nil || !bytes.Equal(now.Format(), was.Format()) {
		return false, err
	}
	return true, t.Replace(narInfoName(was.StorePath))
}

// lacks tells whether one of some signatures is missing in an entry.
func lacks(n *NarInfo, sigs []string) bool {
	return slices.ContainsFunc(sigs, func(sig string) bool { return !slices.Contains(n.Sigs, sig) })
}
