package cachegc

import (
	"path"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// Stats sum up a survey.
type Stats struct {
	Entries  int   // that can be used
	Bytes    int64 // of files, each once
	NarBytes int64 // of the contents of all entries, unpacked

	// Shared counts entries whose NAR is that of another one as well, and SharedBytes what
	// their files would take besides if each had its own.
	Shared      int
	SharedBytes int64

	Pinned      int   // entries that pins keep
	PinnedBytes int64 // of their files

	// When entries were used: that which was not for the longest time, and the newest run.
	// Undated counts entries of which no record tells.
	OldestUse, NewestUse time.Time
	Undated              int

	Runs []RunStats // oldest first
}

// RunStats are what the record of a run tells.
type RunStats struct {
	Ended time.Time
	Added int // entries, be they still there or not

	// Bytes is how much larger that made the cache. If the record does not say it, it is
	// what those take that are still there.
	Bytes int64

	// Used counts what the run found there: entries that it names or that those need, as
	// far as they are still there.
	Used int
}

// HitRate returns which part of what it had to do with a run found in the cache, or -1 if
// it had to do with nothing.
func (r *RunStats) HitRate() float64 {
	if r.Used+r.Added == 0 {
		return -1
	}
	return float64(r.Used) / float64(r.Used+r.Added)
}

// Stats sums up what was found.
func (s *Survey) Stats() *Stats {
	st := &Stats{Entries: s.count - len(s.broken), Bytes: s.bytes, NewestUse: s.newest}
	named := s.graph.LastUse(s.use.Last())
	last := s.lastUse()
	for id := range int32(s.graph.Len()) {
		if !s.graph.Has(id) || s.broken[id] {
			continue
		}
		nar := s.files[s.entries[id].nar]
		st.NarBytes += nar.narBytes
		if nar.users > 1 {
			st.Shared++
		}
		if named[id].IsZero() {
			st.Undated++
		}
		if last[id] != justNow && (st.OldestUse.IsZero() || last[id].Before(st.OldestUse)) {
			st.OldestUse = last[id]
		}
	}
	for _, f := range s.files {
		if f.narBytes > 0 { // or it is a log
			st.SharedBytes += int64(f.users-1) * f.bytes
		}
	}
	c := &closures{graph: s.graph, seen: make([]int32, s.graph.Len())}
	pinned := c.closure(s.pinned)
	st.Pinned, st.PinnedBytes = len(pinned), s.bytesOf(pinned)
	for _, r := range s.runs {
		rs := RunStats{Ended: r.ended, Added: r.added, Bytes: r.bytes}
		if rs.Bytes == 0 {
			rs.Bytes = s.bytesOf(r.uses[:r.still])
		}
		rs.Used = max(0, len(c.closure(r.uses))-r.still)
		st.Runs = append(st.Runs, rs)
	}
	return st
}

// Closures are made one after the other, in the same memory.
type closures struct {
	graph *bincache.Graph
	seen  []int32 // by number: in which closure it was last
	times int32
	last  []int32
}

// closure returns the entries that some need, themselves included.
func (c *closures) closure(of []int32) []int32 {
	c.times++
	c.last = c.last[:0]
	c.graph.Closure(of, func(id int32) bool {
		first := c.seen[id] != c.times
		if first {
			c.seen[id] = c.times
			c.last = append(c.last, id)
		}
		return first
	})
	return c.last
}

// bytesOf returns what the files of some entries take, each once.
func (s *Survey) bytesOf(ids []int32) (sum int64) {
	files := make(map[int32]bool)
	for _, id := range ids {
		e := s.entries[id]
		sum += e.bytes
		for _, f := range e.sharedFiles() {
			if !files[f] {
				files[f] = true
				sum += s.files[f].bytes
			}
		}
	}
	return sum
}

// Needs tells whether an entry has a file, by its name in the cache.
func (s *Survey) Needs(name string) bool {
	_, ok := s.fileIDs[path.Clean(name)]
	return ok
}
