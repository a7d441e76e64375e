package cachegc

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// A Survey is what is in a cache, and who has used it. For each entry it has about as
// many bytes as its store path has, and four for each reference.
type Survey struct {
	storeDir string
	graph    *bincache.Graph
	entries  []entry // by number
	count    int     // of entries that can be used
	nars     []nar
	narIDs   map[string]int32 // by URL
	bytes    int64            // in files that a policy counts

	use    *bincache.Use
	runs   []run     // oldest first
	newest time.Time // when the newest run ended
	pinned []int32

	// Damaged are entries that clients can't use, by their errors. Nothing is decided about
	// them.
	Damaged []error
}

// An entry is what a survey knows of a narinfo.
type entry struct {
	nar   int32 // number of its NAR
	bytes int64 // of its files beside the NAR
}

// A nar is what a survey knows of a NAR.
type nar struct {
	url    string
	bytes  int64
	namers int32 // entries that name it
}

// A run is what a survey knows of a record.
type run struct {
	ended time.Time
	uses  []int32 // entries
}

// Look surveys a cache. It is an error if a record of a run or a pin can't be read: nobody
// knows then what is needed.
func Look(ctx context.Context, c *bincache.Cache) (*Survey, error) {
	s := newSurvey(c)
	if err := s.lookAtEntries(ctx, c); err != nil {
		return nil, err
	}
	if err := s.lookAtRuns(c); err != nil {
		return nil, err
	}
	pins, err := c.Pins()
	if err != nil {
		return nil, err
	}
	for _, pin := range pins {
		s.pinned = append(s.pinned, s.find(pin.Paths())...)
	}
	return s, nil
}

func newSurvey(c *bincache.Cache) *Survey {
	return &Survey{storeDir: c.StoreDir(), graph: bincache.NewGraph(), narIDs: make(map[string]int32), use: bincache.NewUse()}
}

func (s *Survey) lookAtEntries(ctx context.Context, c *bincache.Cache) error {
	for n, err := range c.Entries(ctx) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if !errors.Is(err, bincache.ErrDamaged) {
				return err
			}
			s.Damaged = append(s.Damaged, err)
			continue
		}
		s.add(n)
	}
	return nil
}

func (s *Survey) add(n *bincache.NarInfo) {
	id := s.graph.Add(path.Base(n.StorePath), n.References)
	s.entries = append(s.entries, make([]entry, s.graph.Len()-len(s.entries))...)
	url := path.Clean(n.URL)
	narID, ok := s.narIDs[url]
	if !ok {
		narID = int32(len(s.nars))
		url = strings.Clone(url) // not all that was read with it
		size := n.FileSize
		if size == 0 {
			size = n.NarSize // its narinfo does not say; it is hardly larger
		}
		s.nars = append(s.nars, nar{url: url, bytes: size})
		s.narIDs[url] = narID
		s.bytes += size
	}
	s.nars[narID].namers++
	s.entries[id] = entry{nar: narID, bytes: int64(len(n.Format()))}
	s.bytes += s.entries[id].bytes
	s.count++
}

func (s *Survey) lookAtRuns(c *bincache.Cache) error {
	var newest time.Time // of all records
	for r, err := range c.Runs() {
		if err != nil {
			return fmt.Errorf("%w: what it says is unknown, and so what is needed", err)
		}
		s.use.Add(&r)
		newest = latest(newest, r.Ended)
		if !r.Summary {
			s.newest = latest(s.newest, r.Ended)
			s.runs = append(s.runs, run{r.Ended, s.find(slices.Collect(r.Paths()))})
		}
	}
	if len(s.runs) == 0 {
		s.newest = newest
	}
	slices.SortStableFunc(s.runs, func(a, b run) int { return a.ended.Compare(b.ended) })
	return nil
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// find returns the numbers of entries, without what is none.
func (s *Survey) find(paths []string) []int32 {
	ids := make([]int32, 0, len(paths))
	for _, p := range paths {
		if id, ok := s.graph.Find(p); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *Survey) path(id int32) string { return s.storeDir + "/" + s.graph.Name(id) }

// lastUse returns when entries were used last, by number. What no record knows counts as
// used by the newest run.
func (s *Survey) lastUse() []time.Time {
	last := s.graph.LastUse(s.use.Last())
	var undated []int32
	for id := range last {
		if last[id].IsZero() && s.graph.Has(int32(id)) {
			undated = append(undated, int32(id))
		}
	}
	s.graph.Closure(undated, func(id int32) bool {
		older := last[id].Before(s.newest)
		last[id] = latest(last[id], s.newest)
		return older
	})
	return last
}

// kept returns why entries stay whatever the limits are, by number.
func (s *Survey) kept(p Policy) []Reason {
	keep := make([]Reason, s.graph.Len())
	mark := func(ids []int32, why Reason) {
		s.graph.Closure(ids, func(id int32) bool {
			first := keep[id] == ""
			if first {
				keep[id] = why
			}
			return first
		})
	}
	mark(s.pinned, Pinned)
	for _, r := range s.runs[max(0, len(s.runs)-p.KeepLast):] {
		mark(r.uses, Recent)
	}
	return keep
}
