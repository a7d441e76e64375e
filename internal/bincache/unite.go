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
	all := make([]*signing, len(batch))
	defer func() {
		for _, s := range all {
			if s != nil && s.temp != nil {
				s.temp.Discard()
			}
		}
	}()
	for i, n := range batch {
		all[i] = &signing{cache: c, want: n}
	}
	// Somebody may change an entry between its look and the lock.
	for len(all) > 0 {
		if err := EachOf(all, (*signing).prepare); err != nil {
			return added, err
		}
		all = slices.DeleteFunc(all, func(s *signing) bool { return s.temp == nil })
		count, err := c.putSigned(ctx, all)
		added += count
		if err != nil {
			return added, err
		}
		all = slices.DeleteFunc(all, func(s *signing) bool { return s.done })
	}
	if added == 0 {
		return 0, nil
	}
	return added, c.SyncDir(".")
}

// putSigned puts narinfos in place that are still what they were when they were
// prepared.
func (c *Cache) putSigned(ctx context.Context, batch []*signing) (added int, err error) {
	if len(batch) == 0 {
		return 0, nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	for _, s := range batch {
		name := narInfoName(s.want.StorePath)
		now, err := c.readFile(name, maxNarInfo)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return added, err
		}
		if !bytes.Equal(now, s.before) {
			s.temp.Discard()
			continue
		}
		if err := s.temp.Replace(name); err != nil {
			return added, err
		}
		s.done = true
		added += s.adds
	}
	return added, nil
}

// A signing is an entry that gets signatures.
type signing struct {
	cache  *Cache
	want   *NarInfo
	before []byte // its narinfo
	temp   *Temp  // its narinfo with the signatures; nil if there are none to add
	adds   int    // signatures
	done   bool
}

func (s *signing) prepare() error {
	s.temp = nil
	have, text, err := s.cache.Read(HashPart(s.want.StorePath))
	if errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !have.SameContents(s.want) || !lacks(have, s.want.Sigs) {
		return err
	}
	s.before = text
	var united []byte
	united, s.adds = WithSignatures(have, text, s.want.Sigs)
	if s.temp, err = s.cache.TempText(united); err != nil {
		return err
	}
	return s.temp.Sync()
}

// SameContents tells whether two entries of one store path are the same for a
// signature: in contents, and in references.
func (n *NarInfo) SameContents(o *NarInfo) bool {
	return n.StorePath == o.StorePath && n.NarHash == o.NarHash && n.NarSize == o.NarSize && slices.Equal(n.References, o.References)
}

// WithSignatures returns the text of a narinfo with some signatures that it may have
// already, and how many it had not. Otherwise it stays as it is, also where that is
// not how Format would write it.
func WithSignatures(n *NarInfo, text []byte, sigs []string) (united []byte, added int) {
	if !lacks(n, sigs) {
		return text, 0
	}
	all := slices.Concat(n.Sigs, sigs)
	slices.Sort(all)
	all = slices.Compact(all)
	added = len(all) - len(slices.Compact(slices.Sorted(slices.Values(n.Sigs))))
	var b strings.Builder
	left := all
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
	if want := n.signedBy(all); err != nil || !back.equal(want) {
		return want.Format(), added
	}
	return []byte(b.String()), added
}

// signedBy returns an entry with other signatures.
func (n *NarInfo) signedBy(sigs []string) *NarInfo {
	signed := *n
	signed.Sigs = sigs
	return &signed
}

// equal tells whether two entries are the same in every field.
func (n *NarInfo) equal(o *NarInfo) bool { return bytes.Equal(n.Format(), o.Format()) }
