package cachegc

import (
	"path"
	"slices"
	"time"
)

// A Policy says what may go. The zero value of a field is no limit.
type Policy struct {
	// MaxSize is how many bytes the cache's files may have together. What was not used
	// for the longest time goes first.
	MaxSize int64

	// MaxAge is how long an entry may be unused, back from the end of the newest run.
	MaxAge time.Duration

	// KeepLast is how many of the newest runs keep all that they have used, whatever the
	// limits are. What is pinned is kept as well.
	KeepLast int
}

// A Reason says why an entry goes, or stays.
type Reason string

const (
	TooOld  Reason = "too old"     // it goes: MaxAge
	TooMuch Reason = "no room"     // it goes: MaxSize
	Pinned  Reason = "pinned"      // it stays
	Recent  Reason = "recent runs" // it stays: KeepLast
)

// A Plan is what a policy means for a cache as it is.
type Plan struct {
	Entries int            // in the cache
	Bytes   int64          // in files of the cache
	Newest  time.Time      // when the newest run ended; ages count from there
	Evict   []Eviction     // in this order: who refers to others before them
	Freed   int64          // bytes in files that then nobody needs
	Kept    map[Reason]int // entries that stay for a reason
	// Short is how many bytes more than MaxSize stay, because they are kept.
	Short int64

	last []time.Time // use of each entry, by number
}

// gone returns the base names of what is to go.
func (p *Plan) gone() map[string]bool {
	gone := make(map[string]bool, len(p.Evict))
	for _, e := range p.Evict {
		gone[path.Base(e.Path)] = true
	}
	return gone
}

// An Eviction is an entry that is to go.
type Eviction struct {
	Path    string
	Why     Reason
	LastUse time.Time // the zero time if no record tells
	Bytes   int64     // of files that nobody needs when this entry and those before it are gone
}

// Plan decides what goes. It changes nothing.
func (s *Survey) Plan(p Policy) *Plan {
	plan := &Plan{Entries: s.count, Bytes: s.bytes, Newest: s.newest, Kept: make(map[Reason]int)}
	plan.last = s.lastUse()
	last := plan.last
	keep := s.kept(p)
	for _, why := range keep {
		if why != "" {
			plan.Kept[why]++
		}
	}
	order := s.graph.Order()
	slices.Reverse(order) // who refers to others before them
	slices.SortStableFunc(order, func(a, b int32) int { return last[a].Compare(last[b]) })

	e := &evicting{survey: s, plan: plan, gone: make([]bool, s.graph.Len()), left: s.bytes}
	for _, f := range s.files {
		e.users = append(e.users, f.users)
	}
	oldest := plan.Newest.Add(-p.MaxAge)
	for _, id := range order {
		switch {
		case keep[id] != "":
		case p.MaxAge > 0 && len(s.runs) > 0 && last[id].Before(oldest): // or nobody knows how old anything is
			e.evict(id, TooOld)
		case p.MaxSize > 0 && e.left > p.MaxSize:
			e.evict(id, TooMuch)
		}
	}
	e.closeCircles(order)
	if p.MaxSize > 0 {
		plan.Short = max(0, e.left-p.MaxSize)
	}
	return plan
}

// evicting is a plan in the making.
type evicting struct {
	survey *Survey
	plan   *Plan
	gone   []bool
	users  []int32 // of each file, that stay
	left   int64   // bytes
}

func (e *evicting) evict(id int32, why Reason) {
	entry := e.survey.entries[id]
	freed := entry.bytes
	for _, f := range entry.sharedFiles() {
		if e.users[f]--; e.users[f] == 0 {
			freed += e.survey.files[f].bytes
		}
	}
	e.gone[id] = true
	e.left -= freed
	e.plan.Freed += freed
	gone := Eviction{Path: e.survey.path(id), Why: why, Bytes: freed}
	if last := e.plan.last[id]; last != justNow {
		gone.LastUse = last
	}
	e.plan.Evict = append(e.plan.Evict, gone)
}

// closeCircles evicts what refers to something that goes. Who refers to another is before
// that in the order, and goes with it, but for circles: Nix makes none, but whoever wrote
// the cache may have.
func (e *evicting) closeCircles(order []int32) {
	for again := len(e.plan.Evict) > 0; again; {
		again = false
		for _, id := range order {
			if e.gone[id] {
				continue
			}
			if slices.ContainsFunc(e.survey.graph.References(id), func(ref int32) bool { return e.gone[ref] }) {
				e.evict(id, e.plan.Evict[len(e.plan.Evict)-1].Why)
				again = true
			}
		}
	}
}
