package bincache

import (
	"path"
	"time"
)

// Use is what records tell of when entries were used. It does not matter in which order
// they are added.
type Use struct {
	last map[string]time.Time // by base name
	gone map[string]time.Time // when entries were removed
}

// NewUse returns what no record tells.
func NewUse() *Use {
	return &Use{last: make(map[string]time.Time), gone: make(map[string]time.Time)}
}

// Add adds what a record tells.
func (u *Use) Add(r *Run) {
	for _, p := range r.Gone {
		name := path.Base(p)
		if u.gone[name].Before(r.Ended) {
			u.gone[name] = r.Ended
		}
		if !u.last[name].After(r.Ended) {
			delete(u.last, name)
		}
	}
	for p := range r.Paths() {
		name := path.Base(p)
		if u.last[name].Before(r.Ended) && u.gone[name].Before(r.Ended) {
			u.last[name] = r.Ended
		}
	}
}

// Last returns when the newest run ended that names an entry, by base name, for those that
// one names.
func (u *Use) Last() map[string]time.Time { return u.last }

// Gone returns when an entry was removed last, or the zero time.
func (u *Use) Gone(name string) time.Time { return u.gone[name] }

// Used returns when the newest run that names it ended, for every entry that records
// name, and an error for each record that can't be read.
func (c *Cache) Used() (map[string]time.Time, []error) {
	use := NewUse()
	var damaged []error
	for r, err := range c.Runs() {
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		use.Add(&r)
	}
	return use.Last(), damaged
}
