package cachegc

import (
	"maps"
	"path"
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// Records are folded when that many can be, so that a cache of many years has few files of
// them; the newest stay as they are, for those who want to know about runs. Where there are no
// runs, what collections put down is folded alone.
const (
	foldAtLeast = 50
	foldNever   = 100
)

// keepDates puts down when entries were used that stay, where no record will tell it: none
// does, or only as something that an entry needed that goes.
func (g *collection) keepDates(plan *Plan) error {
	gone := plan.gone()
	use := maps.Clone(g.survey.use.Last())
	maps.DeleteFunc(use, func(name string, _ time.Time) bool { return gone[name] })
	told := g.survey.graph.LastUse(use)
	dates := make(map[string]time.Time)
	for id, last := range plan.last {
		name := g.survey.graph.Name(int32(id))
		switch {
		case last != justNow:
		case len(g.survey.runs) > 0:
			last = g.survey.newest // and no later: ages count from there
		default:
			last = g.Now
		}
		if !g.survey.graph.Has(int32(id)) || gone[name] || !told[id].Before(last) {
			continue
		}
		// It may be there again since it was removed.
		if removed := g.survey.use.Gone(name); !last.After(removed) {
			last = removed.Add(time.Second)
		}
		dates[name] = last
	}
	return g.write(g.summarize(dates, nil, aDay))
}

const aDay = 24 * time.Hour

// fold makes few records of those that are old. Killed before the old ones are gone, it has
// told twice what they tell.
func (g *collection) fold(plan *Plan) error {
	keep := max(foldNever, g.Policy.KeepLast)
	if len(g.survey.runs) < keep+foldAtLeast && g.survey.summaries < foldNever+foldAtLeast {
		return nil // and nothing is read once more
	}
	var all []bincache.Run
	var runs, summaries []int // in all
	for r, err := range g.cache.Runs() {
		if err != nil {
			return err
		}
		if r.Summary {
			summaries = append(summaries, len(all))
		} else {
			runs = append(runs, len(all))
		}
		all = append(all, r)
	}
	var old, stay []bincache.Run
	switch {
	case len(runs) >= keep+foldAtLeast:
		first := runs[len(runs)-keep]
		old, stay = all[:first], all[first:]
		return g.replace(old, g.folded(plan, old, stay, aDay))
	case len(summaries) >= foldNever+foldAtLeast:
		first := summaries[len(summaries)-foldNever]
		for i, r := range all {
			if r.Summary && i < first {
				old = append(old, r)
			} else {
				stay = append(stay, r)
			}
		}
		for _, unit := range []time.Duration{time.Second, aDay} { // exactly, if that makes them few
			if folded := g.folded(plan, old, stay, unit); len(old)-len(folded) >= foldAtLeast {
				return g.replace(old, folded)
			}
		}
	}
	return nil // or somebody else has removed some
}

// replace writes records in place of others.
func (g *collection) replace(old, by []bincache.Run) error {
	if err := g.write(by); err != nil {
		return err
	}
	if err := g.step(); err != nil {
		return err
	}
	var names []string
	for _, r := range old {
		names = append(names, r.Name)
	}
	return g.cache.RemoveRuns(names...)
}

// folded returns what records tell that is of interest beside those that stay: of entries that
// are there, and of removals since which records that stay don't know of a use.
func (g *collection) folded(plan *Plan, old, stay []bincache.Run, unit time.Duration) []bincache.Run {
	use := bincache.NewUse()
	builds := make(map[string]time.Duration)
	for _, r := range old {
		for _, e := range r.Added {
			builds[path.Base(e.Path)] = max(builds[path.Base(e.Path)], e.Build)
		}
		use.Add(&r)
	}
	gone := plan.gone()
	latest := use.Last()
	maps.DeleteFunc(latest, func(name string, last time.Time) bool {
		return gone[name] || !g.survey.has(name) || !last.After(g.survey.use.Gone(name))
	})
	folded := g.summarize(latest, builds, unit)

	removed := make(map[time.Time]map[string]bool) // store paths
	for _, r := range stay {
		for p := range r.Paths() {
			at := use.Gone(path.Base(p))
			if at.IsZero() || r.Ended.After(at) {
				continue
			}
			if removed[at] == nil {
				removed[at] = make(map[string]bool)
			}
			removed[at][p] = true
		}
	}
	for at, paths := range removed {
		folded = append(folded, bincache.Run{Ended: at, Gone: slices.Sorted(maps.Keys(paths))})
	}
	return folded
}

func (s *Survey) has(name string) bool {
	_, ok := s.graph.Find(name)
	return ok
}

// summarize returns a record for each day, or other unit, in which entries were used last, up
// to the end of the last run of it.
func (g *collection) summarize(latest map[string]time.Time, builds map[string]time.Duration, unit time.Duration) []bincache.Run {
	storeDir := g.cache.StoreDir()
	units := make(map[time.Time]*bincache.Run)
	for _, name := range slices.Sorted(maps.Keys(latest)) {
		ended := latest[name]
		begin := ended.UTC().Truncate(unit)
		r := units[begin]
		if r == nil {
			r = &bincache.Run{}
			units[begin] = r
		}
		if r.Ended.Before(ended) {
			r.Ended = ended
		}
		if build := builds[name]; build > 0 {
			r.Added = append(r.Added, bincache.RunEntry{Path: storeDir + "/" + name, Build: build})
		} else {
			r.Used = append(r.Used, storeDir+"/"+name)
		}
	}
	var records []bincache.Run
	for _, r := range units {
		records = append(records, *r)
	}
	return records
}

// write writes records that are of no run.
func (g *collection) write(records []bincache.Run) error {
	for _, r := range records {
		if err := g.step(); err != nil {
			return err
		}
		if err := g.cache.RecordSummary(r); err != nil {
			return err
		}
	}
	return nil
}
