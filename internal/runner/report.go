package runner

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nix-larder/larder/internal/rules"
)

// A Report is what became of a run.
type Report struct {
	Cache string `json:"cache"`

	// Queued counts jobs that came up; each ended in one of the ways below.
	Queued   int      `json:"queued"`
	Done     int      `json:"done"` // their closures are in the cache
	Gone     int      `json:"gone"` // deleted before they could be copied
	Failed   []Failed `json:"failed"`
	LeftOver int      `json:"left_over"` // the deadline came first

	// Added counts entries that were written, and their bytes.
	Added     int   `json:"added"`
	NarBytes  int64 `json:"nar_bytes"`
	FileBytes int64 `json:"file_bytes"`

	// Built counts paths that were built in the run, and Downloaded those that came
	// from somewhere else than the cache.
	Built      int `json:"built"`
	Downloaded int `json:"downloaded"`

	// AlreadyThere counts paths that came into the store otherwise than from the cache,
	// although it had them.
	AlreadyThere int `json:"already_there"`

	// LeftOut counts paths that the rules do not want, for each reason.
	LeftOut []Reason `json:"left_out"`

	// Conflicts are paths of which the store has other contents than the cache, where the
	// first ones stay: builds that are not reproducible.
	Conflicts []Conflict `json:"conflicts"`

	// FailedLogs counts builds that failed, and of which the cache has the log.
	FailedLogs int `json:"failed_logs"`

	// Hits counts paths that were downloaded and that the cache had: from there, as far
	// as can be told.
	Hits        int   `json:"hits"`
	HitNarBytes int64 `json:"hit_nar_bytes"`

	// Saved is how long those took to build, as far as records tell, and TimedHits how
	// many of them records tell of.
	Saved     Seconds `json:"saved_seconds"`
	TimedHits int     `json:"timed_hits"`

	// Evicted counts entries that were removed in the end, and their bytes, since the
	// cache was too large or they were too old; TooMuch are bytes that it is still too
	// large, since they are kept for other reasons.
	Evicted      int   `json:"evicted"`
	EvictedBytes int64 `json:"evicted_bytes"`
	TooMuch      int64 `json:"too_much_bytes"`

	// Drained is how long the end of the run was put off for the cache, Restored and
	// Stored are what the provider took, if it was said.
	Drained  Seconds `json:"drain_seconds"`
	Restored Seconds `json:"restore_seconds,omitempty"`
	Stored   Seconds `json:"save_seconds,omitempty"`

	// Pinned is what a pin stands for from now on, if one was to be set, and was.
	Pinned *Pinned `json:"pinned,omitempty"`

	// ExitCode is the command's. It is nil where there was none.
	ExitCode *int `json:"exit_code,omitempty"`

	// Notes are what a person should know of how it was run.
	Notes []string `json:"notes"`
}

// Seconds is a duration that is written as a number of seconds.
type Seconds time.Duration

// MarshalJSON writes seconds, to the millisecond.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(s).Round(time.Millisecond).Seconds(), 'f', -1, 64), nil
}

// Failed is a job that will not be tried again.
type Failed struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// Pinned are the results of a run that a pin keeps.
type Pinned struct {
	Name  string   `json:"name"`
	Paths []string `json:"paths"`
}

// A Reason counts the paths that were left out for it.
type Reason struct {
	Text  string `json:"reason"`
	Paths int    `json:"paths"`
}

// A Conflict is a path of which the store has other contents than the cache.
type Conflict struct {
	Path         string `json:"path"`
	CacheNarHash string `json:"cache_nar_hash"`
	StoreNarHash string `json:"store_nar_hash"`
}

// Empty tells whether nothing has happened.
func (r *Report) Empty() bool {
	return r.Queued+r.Added+r.Built+r.Downloaded+r.Hits+r.AlreadyThere == 0
}

// Cost is what the cache has cost in time.
func (r *Report) Cost() time.Duration { return time.Duration(r.Drained + r.Restored + r.Stored) }

// A Tally adds up a journal.
type Tally struct {
	Report

	// Wrote are the paths of entries that were written.
	Wrote map[string]bool

	// Hit are the paths of Report.Hits. It is good after Finish.
	Hit []string

	// There are the paths of Report.AlreadyThere. It is good after Finish.
	There []string

	// Made are the paths that were built or downloaded for the run, be they in the cache or
	// not. It is good after Finish.
	Made []string

	// Used are the paths that the run had to do with, and whose closures are in the
	// cache. It is good after Finish.
	Used []string

	earlier    map[string]bool
	failed     map[string]bool  // derivations of FailedLogs: a log may be copied again when there is more of it
	registered map[string]Event // by path: the first time
	done       map[string]bool
	built      map[string]bool   // of those done, as the hook says
	leftOut    map[string]string // reasons by path: the hook and the watcher may both tell of one
}

// WhyLeftOut returns why the rules do not want a path, or "" if that was not told.
func (t *Tally) WhyLeftOut(path string) string { return t.leftOut[path] }

// NewTally returns a Tally in which nothing is counted.
func NewTally() *Tally {
	return &Tally{
		Report: Report{Failed: []Failed{}, LeftOut: []Reason{}, Conflicts: []Conflict{}, Notes: []string{}}, // never null
		Wrote:  make(map[string]bool), registered: make(map[string]Event),
		earlier: make(map[string]bool), failed: make(map[string]bool), done: make(map[string]bool), built: make(map[string]bool), leftOut: make(map[string]string),
	}
}

// Add counts an event.
func (t *Tally) Add(e Event) {
	switch e.Kind {
	case Registered:
		if e.Reason != "" && !e.Present {
			t.leftOut[e.Path] = e.Reason
		}
		delete(t.earlier, e.Path)
		if _, ok := t.registered[e.Path]; !ok {
			t.registered[e.Path] = e
		}
	case Added:
		t.Added++
		t.NarBytes += e.NarBytes
		t.FileBytes += e.FileBytes
		t.Wrote[e.Path] = true
	case Done:
		t.done[e.Path] = true
		if e.Class == rules.Built {
			t.built[e.Path] = true
		}
	case LeftOut:
		t.leftOut[e.Path] = e.Reason
	case Kept:
		t.Conflict(e.Path, e.CacheNarHash, e.StoreNarHash)
	case FailedLog:
		t.failed[e.Path] = true
		t.FailedLogs = len(t.failed)
	case Earlier:
		t.earlier[e.Path] = true
	case Gone:
		t.Gone++
	}
}

// Conflict counts a path of which the store has other contents than the cache. Several
// may tell of one.
func (t *Tally) Conflict(path, cacheNarHash, storeNarHash string) {
	at, found := slices.BinarySearchFunc(t.Conflicts, path, func(c Conflict, path string) int { return cmp.Compare(c.Path, path) })
	if !found {
		t.Conflicts = slices.Insert(t.Conflicts, at, Conflict{path, cacheNarHash, storeNarHash})
	}
}

// Finish returns the report. What the journal does not know, the queue's failures and
// leftovers for example, is to be filled in before.
func (t *Tally) Finish() *Report {
	r := &t.Report
	used := maps.Clone(t.done)
	for path, e := range t.registered {
		// If we wrote it, the worker was faster than the watcher.
		present := e.Present && !t.Wrote[path]
		switch {
		case e.Class == rules.Built:
			t.built[path] = true
		case e.Class == rules.Downloaded && present:
			r.Hits++
			r.HitNarBytes += e.NarBytes
			t.Hit = append(t.Hit, path)
		case e.Class == rules.Downloaded:
			r.Downloaded++
		}
		if present {
			used[path] = true
		}
	}
	t.Used = slices.Sorted(maps.Keys(used))
	for _, path := range t.Used {
		if t.registered[path].Class != rules.Downloaded && !t.Wrote[path] {
			r.AlreadyThere++
			t.There = append(t.There, path)
		}
	}
	made := maps.Clone(t.built)
	for path, e := range t.registered {
		if e.Class == rules.Downloaded {
			made[path] = true
		}
	}
	maps.DeleteFunc(made, func(path string, _ bool) bool { return t.earlier[path] })
	t.Made = slices.Sorted(maps.Keys(made))
	slices.Sort(t.Hit)
	r.Built = len(t.built)
	r.Done = len(t.done)
	r.Queued = r.Done + r.Gone + len(r.Failed) + r.LeftOver
	reasons := make(map[string]int)
	for _, reason := range t.leftOut {
		reasons[reason]++
	}
	for reason, n := range reasons {
		r.LeftOut = append(r.LeftOut, Reason{reason, n})
	}
	slices.SortFunc(r.LeftOut, func(a, b Reason) int { return cmp.Or(b.Paths-a.Paths, cmp.Compare(a.Text, b.Text)) })
	return r
}
