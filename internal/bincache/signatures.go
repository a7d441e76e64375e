package bincache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	for {
		have, err := c.Entry(n.StorePath)
		if err != nil || !lacks(have, n.Sigs) {
			return false, err
		}
		if !have.SameContents(n) {
			return false, fmt.Errorf("%w: nar hash is %s with %d bytes and %d references, want %s with %d and %d", ErrOtherContents,
				have.NarHash, have.NarSize, len(have.References), n.NarHash, n.NarSize, len(n.References))
		}
		count, err := c.UniteSignatures(ctx, []*NarInfo{n})
		if count > 0 || err != nil {
			return err == nil, err
		} // or somebody has changed the entry meanwhile
	}
}

// Lacks tells whether an entry has not all of some signatures.
func (n *NarInfo) Lacks(sigs []string) bool { return lacks(n, sigs) }

// ValidSigs returns those of some signatures that every Nix can read, whoever may have made
// them: one that can't be read makes what it is in of no use.
func ValidSigs(sigs []string) []string {
	bad := func(sig string) bool { return checkSig(sig) != nil }
	if !slices.ContainsFunc(sigs, bad) {
		return sigs
	}
	return slices.DeleteFunc(slices.Clone(sigs), bad)
}

// Signers returns the names of the keys of some signatures.
func Signers(sigs []string) []string {
	names := make([]string, len(sigs))
	for i, sig := range sigs {
		names[i], _, _ = strings.Cut(sig, ":")
	}
	return names
}

// lacks tells whether one of some signatures is missing in an entry.
func lacks(n *NarInfo, sigs []string) bool { return lacksSigs(n.Sigs, sigs) }
