package bincache

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// syncs is how many files are synced at a time: the file system makes one journal
// commit of many.
const syncs = 16

// EachOf does something to all of a batch, several at a time, which makes syncs
// cheaper. It returns the first error, when all is done.
func EachOf[T any](batch []T, do func(T) error) error {
	var g errgroup.Group
	var next atomic.Int64
	for range min(syncs, len(batch)) {
		g.Go(func() (err error) {
			for i := next.Add(1) - 1; i < int64(len(batch)); i = next.Add(1) - 1 {
				err = cmp.Or(err, do(batch[i]))
			}
			return err
		})
	}
	return g.Wait()
}

// UniteSignatures is AddSignatures for many entries at once: the cache's lock is only
// taken to put in place what has been made durable before. It returns how many
// signatures it has added, none to an entry that is not there, is damaged, or has
// other contents.
func (c *Cache) UniteSignatures(ctx context.Context, batch []*NarInfo) (added int, err error) {
	all, adds := make([]*rewrite, len(batch)), make([]int, len(batch))
	for i, n := range batch {
		all[i] = &rewrite{file: narInfoName(n.StorePath), change: func() (before, after []byte, err error) {
			have, text, err := c.Read(HashPart(n.StorePath))
			if errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
				return nil, nil, nil
			}
			if err != nil || !have.SameContents(n) || !lacks(have, n.Sigs) {
				return nil, nil, err
			}
			after, adds[i] = WithSignatures(have, text, n.Sigs)
			return text, after, nil
		}}
	}
	err = c.rewriteAll(ctx, all)
	for i, r := range all {
		if r.done {
			added += adds[i]
		}
	}
	return added, err
}

// SameContents tells whether two entries of one store path are the same for a
// signature: in contents, and in references.
func (n *NarInfo) SameContents(o *NarInfo) bool {
	return n.StorePath == o.StorePath && n.NarHash == o.NarHash && n.NarSize == o.NarSize &&
		(slices.Equal(n.References, o.References) || slices.Equal(sortedSet(n.References), sortedSet(o.References)))
}

// WithSignatures returns the text of a narinfo with some signatures that it may have
// already, and how many it had not. Otherwise it stays as it is, also where that is
// not how Format would write it.
func WithSignatures(n *NarInfo, text []byte, sigs []string) (united []byte, added int) {
	if !lacks(n, sigs) {
		return text, 0
	}
	all := sortedSet(slices.Concat(n.Sigs, sigs))
	return setSignatures(n, text, all), len(all) - len(sortedSet(n.Sigs))
}

// sortedSet returns what is in a list, once.
func sortedSet(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// setSignatures returns the text of a narinfo with these signatures in place of those
// that it has, and otherwise as it is.
func setSignatures(n *NarInfo, text []byte, sigs []string) []byte {
	var b strings.Builder
	left := sigs
	write := func() {
		for _, sig := range left {
			b.WriteString("Sig: " + sig + "\n")
		}
		left = nil
	}
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "CA:"):
			write() // Nix has it behind them
		case strings.HasPrefix(line, "Sig:"):
			continue
		}
		b.WriteString(line)
	}
	write()
	// Not every text that Nix reads is made of lines.
	back, err := ParseNarInfo([]byte(b.String()))
	if want := n.signedBy(sigs); err != nil || !back.equal(want) {
		return want.Format()
	}
	return []byte(b.String())
}

// signedBy returns an entry with other signatures.
func (n *NarInfo) signedBy(sigs []string) *NarInfo {
	signed := *n
	signed.Sigs = sigs
	return &signed
}

// equal tells whether two entries are the same in every field.
func (n *NarInfo) equal(o *NarInfo) bool { return bytes.Equal(n.Format(), o.Format()) }
