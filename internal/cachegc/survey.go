package cachegc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	entries  []entry          // by number
	count    int              // of entries
	broken   map[int32]bool   // entries whose NAR is not as they say
	files    []file           // that entries may share: NARs and logs
	fileIDs  map[string]int32 // by name
	extras   map[string]int64 // sizes of listings and logs
	loose    []string         // files that nobody needs
	bytes    int64            // in files that a policy counts

	use    *bincache.Use
	runs   []run     // oldest first
	newest time.Time // when the newest run ended
	pinned []int32

	summaries int // records that are of no run

	// Damaged are entries that clients can't use, by their errors. If only its NAR is lost,
	// an entry counts as any other: somebody may mend it, who then needs what it refers to,
	// and if nobody does, it gets old. Nothing is decided about the rest.
	Damaged []error

	closed error // if there is an entry that we may not read: why
}

// Blind returns an error if nobody should remove anything: there is an entry that others
// may be able to read, so that it is not known what it needs.
func (s *Survey) Blind() error {
	if s.closed == nil {
		return nil
	}
	return fmt.Errorf("%w: what it needs is unknown", s.closed)
}

// An entry is what a survey knows of a narinfo.
type entry struct {
	nar   int32 // number of its file
	log   int32 // number of the file of its build's log, or -1
	bytes int64 // of its files that it shares with nobody
}

// sharedFiles returns the numbers of the files that others may have as well.
func (e entry) sharedFiles() []int32 {
	if e.log < 0 {
		return []int32{e.nar}
	}
	return []int32{e.nar, e.log}
}

// A file is what a survey knows of a file that entries may share.
type file struct {
	name  string
	bytes int64
	users int32 // entries

	narBytes int64 // of a NAR: its size, unpacked
}

// A run is what a survey knows of a record.
type run struct {
	ended time.Time
	uses  []int32 // entries, what it added first
	still int     // how many of them it added
	added int     // how many there were
	bytes int64   // of those, if the record says it
}

// Look surveys a cache. What goes without entries by some moment, such as the end of a
// collection's grace, is not among its bytes. It is an error if a record of a run or a pin
// can't be read: nobody knows then what is needed.
func Look(ctx context.Context, c *bincache.Cache, by time.Time) (*Survey, error) {
	s, err := lookAtEntries(ctx, c, by)
	if err != nil {
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

// lookAtEntries surveys entries only, and not who uses them.
func lookAtEntries(ctx context.Context, c *bincache.Cache, by time.Time) (*Survey, error) {
	s := &Survey{storeDir: c.StoreDir(), graph: bincache.NewGraph(), fileIDs: make(map[string]int32), broken: make(map[int32]bool), use: bincache.NewUse()}
	// Before the entries: what comes meanwhile is needed by one of them.
	nars, extras, err := c.Files()
	if err != nil {
		return nil, err
	}
	s.extras = extras
	for n, err := range c.Entries(ctx) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && !errors.Is(err, bincache.ErrDamaged) {
			return nil, err
		}
		if err != nil {
			s.Damaged = append(s.Damaged, err)
		}
		switch {
		case n != nil:
			s.add(n, err == nil)
		case errors.Is(err, fs.ErrPermission):
			s.closed = err
		}
	}
	for _, name := range nars {
		if _, ok := s.fileIDs[name]; !ok {
			s.loose = append(s.loose, name)
		}
	}
	retired, _ := c.Retired()          // (ignored) who collects is told
	for name, size := range s.extras { // those of entries have been taken out
		if _, ok := s.fileIDs[name]; ok {
			continue
		}
		s.loose = append(s.loose, name)
		// Logs of failed builds stay for long. The rest waits, as NARs do, which is no reason
		// for yet more entries to go.
		if until, ok := retired[name]; isLog(name) && (!ok || until.After(by)) {
			s.bytes += size
		}
	}
	slices.Sort(s.loose)
	return s, nil
}

// add notes an entry, and whether its NAR is there.
func (s *Survey) add(n *bincache.NarInfo, whole bool) {
	id := s.graph.Add(path.Base(n.StorePath), n.References)
	s.entries = append(s.entries, make([]entry, s.graph.Len()-len(s.entries))...)
	size := n.FileSize
	switch {
	case !whole:
		size = 0 // gone, for the most part
		s.broken[id] = true
	case size == 0:
		size = n.NarSize // its narinfo does not say; it is hardly larger
	}
	e := entry{nar: s.shared(path.Clean(n.URL), size), log: -1, bytes: int64(len(n.Format()))}
	if whole {
		s.files[e.nar].narBytes = n.NarSize
	}
	if listing := bincache.ListingName(n.StorePath); s.extras[listing] > 0 {
		e.bytes += s.extras[listing]
		delete(s.extras, listing)
	}
	if log := bincache.LogName(n.Deriver); n.Deriver != "" {
		if size, ok := s.extras[log]; ok {
			e.log = s.shared(log, size)
		}
	}
	s.entries[id] = e
	s.bytes += e.bytes
	s.count++
}

// shared notes that one more entry uses a file.
func (s *Survey) shared(name string, size int64) int32 {
	id, ok := s.fileIDs[name]
	if !ok {
		id = int32(len(s.files))
		name = strings.Clone(name) // not all that was read with it
		s.files = append(s.files, file{name: name})
		s.fileIDs[name] = id
	}
	if f := &s.files[id]; f.bytes < size { // or it is known: another entry has it as well
		s.bytes += size - f.bytes
		f.bytes = size
	}
	s.files[id].users++
	return id
}

func (s *Survey) lookAtRuns(c *bincache.Cache) error {
	for r, err := range c.Runs() {
		if err != nil {
			return fmt.Errorf("%w: what it says is unknown, and so what is needed", err)
		}
		s.use.Add(&r)
		if r.Summary {
			s.summaries++
		} else {
			s.newest = latest(s.newest, r.Ended)
			s.runs = append(s.runs, s.runOf(&r))
		}
	}
	slices.SortStableFunc(s.runs, func(a, b run) int { return a.ended.Compare(b.ended) })
	return nil
}

func (s *Survey) runOf(r *bincache.Run) run {
	added := &bincache.Run{Added: r.Added}
	uses := s.find(slices.Collect(added.Paths()))
	return run{ended: r.Ended, still: len(uses), uses: append(uses, s.find(r.Used)...), added: len(r.Added), bytes: r.Bytes}
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

// justNow is the last use of what no record knows: it has come since the newest run, or was
// never used by one. It goes after all that runs have used.
var justNow = time.Unix(1<<40, 0)

// lastUse returns when entries were used last, by number.
func (s *Survey) lastUse() []time.Time {
	last := s.graph.LastUse(s.use.Last())
	var unknown []int32
	for id := range last {
		if last[id].IsZero() && s.graph.Has(int32(id)) {
			unknown = append(unknown, int32(id))
		}
	}
	s.graph.Closure(unknown, func(id int32) bool {
		first := last[id] != justNow
		last[id] = justNow
		return first
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
