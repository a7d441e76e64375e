package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// A Swap is another NAR for some entries, with the same in it.
type Swap struct {
	Old    *NarInfo // one of the entries, as it was read
	Hashes []string // the first parts of the store paths of all of them
	New    NarInfo  // which NAR it is, published and durable; the rest is not looked at
	Method string   // that need not be tried with it any more, such as "zstd:19"
}

// SwapNars makes entries name other NARs, and returns for each of the batch how many it
// did. Those that were changed meanwhile, or are gone, stay as they are. The old NARs stay
// until then for those who have read an entry before: [Cache.SweepRetired] removes them.
//
// At no moment is an entry without its NAR.
func (c *Cache) SwapNars(ctx context.Context, batch []Swap, until time.Time) (swapped []int, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Before the entries change: if we are killed, the worst is that a NAR is remembered
	// as retired that is not, which the sweeper sees.
	var retired []string
	var tried strings.Builder
	var all []*swapping
	for i, s := range batch {
		n := *s.Old
		n.URL, n.Compression, n.FileHash, n.FileSize = s.New.URL, s.New.Compression, s.New.FileHash, s.New.FileSize
		if err := c.checkNar(&n); errors.Is(err, ErrDamaged) {
			continue // a sweeper has come in between: nobody named it yet
		} else if err != nil {
			return nil, err
		}
		retired = append(retired, s.Old.URL)
		tried.WriteString(triedLine(s.Method, s.New.URL))
		for _, hash := range s.Hashes {
			all = append(all, &swapping{cache: c, swap: &batch[i], hash: hash, of: i})
		}
	}
	if err := c.Retire(until, retired...); err != nil {
		return nil, fmt.Errorf("remember what is replaced: %w", err)
	}
	defer func() {
		for _, s := range all {
			if s.temp != nil {
				s.temp.Discard()
			}
		}
	}()
	if err := EachOf(all, (*swapping).prepare); err != nil {
		return nil, err
	}
	swapped = make([]int, len(batch))
	for _, s := range all {
		if s.temp == nil {
			continue
		}
		if err := s.temp.Replace(s.hash + narInfoEnding); err != nil {
			return swapped, err
		}
		s.temp = nil
		swapped[s.of]++
	}
	if err := c.SyncDir("."); err != nil {
		return swapped, err
	}
	return swapped, c.appendLines(recompressedFile, tried.String())
}

// A swapping is an entry that is about to name another NAR.
type swapping struct {
	cache *Cache
	swap  *Swap
	hash  string
	of    int   // which of the batch
	temp  *Temp // its new narinfo; nil if there is to be none
}

// prepare writes the new narinfo, durably. The cache's lock is held.
func (s *swapping) prepare() error {
	n, text, err := s.cache.Read(s.hash)
	if errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old := s.swap.Old
	if err != nil || n.URL != old.URL || n.Compression != old.Compression || n.NarHash != old.NarHash || n.NarSize != old.NarSize {
		return err
	}
	text, err = withFile(text, &s.swap.New)
	if err != nil {
		return fmt.Errorf("%s: %w", n.StorePath, err)
	}
	if s.temp, err = s.cache.TempText(text); err != nil {
		return err
	}
	return s.temp.Sync()
}

// withFile returns the text of a narinfo that names another NAR. Otherwise it stays as
// it is, also where that is not how Format would write it.
func withFile(text []byte, f *NarInfo) ([]byte, error) {
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "URL":
			fmt.Fprintf(&b, "URL: %s\nCompression: %s\nFileHash: %s\nFileSize: %d\n", f.URL, f.Compression, f.FileHash, f.FileSize)
		case "Compression", "FileHash", "FileSize":
		default:
			b.WriteString(line)
		}
	}
	n, err := ParseNarInfo([]byte(b.String()))
	if err != nil {
		return nil, err
	}
	if n.URL != f.URL || n.Compression != f.Compression || n.FileHash != f.FileHash || n.FileSize != f.FileSize {
		return nil, errors.New("narinfo would not read back as it is written") // it names several NARs
	}
	return []byte(b.String()), nil
}
