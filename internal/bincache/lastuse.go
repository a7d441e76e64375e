package bincache

import (
	"path"
	"slices"
	"time"
)

// LastUse tells when entries were used last: when the newest run ended that names
// them, or an entry that needs them. used says of every entry that runs name when the
// newest of those ended. Entries that nobody has used are not in the result.
//
// Both maps, and references, have base names of store paths.
func LastUse(references map[string][]string, used map[string]time.Time) map[string]time.Time {
	named := make([]string, 0, len(used))
	for name := range used {
		if _, ok := references[name]; ok { // or nobody knows what it needed
			named = append(named, name)
		}
	}
	// Newest first: whoever comes to an entry first has its time.
	slices.SortFunc(named, func(a, b string) int { return used[b].Compare(used[a]) })
	last := make(map[string]time.Time, len(references))
	var todo []string // not by recursion: a chain may be as long as the cache is large
	for _, first := range named {
		todo = append(todo, first)
		for len(todo) > 0 {
			name := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			refs, ok := references[name]
			if _, done := last[name]; done || !ok {
				continue
			}
			last[name] = used[first]
			todo = append(todo, refs...)
		}
	}
	return last
}

// Used returns when the newest run that names it ended, for every entry that records
// name, and an error for each record that can't be read.
func (c *Cache) Used() (map[string]time.Time, []error) {
	used := make(map[string]time.Time)
	var damaged []error
	for r, err := range c.Runs() {
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		for p := range r.Paths() {
			if name := path.Base(p); used[name].Before(r.Ended) {
				used[name] = r.Ended
			}
		}
	}
	return used, damaged
}
