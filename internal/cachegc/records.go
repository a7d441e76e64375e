package cachegc

import (
	"maps"
	"path"
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// Records of runs are folded when that many can be, so that a cache of many years has few
// files of them; the newest stay as they are, for those who want to know about runs.
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
	return g.summarize(dates, nil)
}

// fold makes one record for each day of those that are old. Killed before the old ones are
// gone, it has told twice what they tell.
func (g *collection) fold(plan *Plan) error {
	keep := max(foldNever, g.Policy.KeepLast)
	if len(g.survey.runs) < keep+foldAtLeast {
		return nil // and nothing is read once more
	}
	gone := plan.gone()
	var names []string // of records
	var runs []int     // which of them are of runs
	use := bincache.NewUse()
	builds := make(map[string]time.Duration)
	var all []bincache.Run
	for r, err := range g.cache.Runs() {
		if err != nil {
			return err
		}
		if !r.Summary {
			runs = append(runs, len(all))
		}
		all = append(all, r)
	}
	if len(runs) < keep+foldAtLeast {
		return nil // somebody else has removed some
	}
	old := all[:runs[len(runs)-keep]]
	for _, r := range old {
		names = append(names, r.Name)
		for _, e := range r.Added {
			builds[path.Base(e.Path)] = max(builds[path.Base(e.Path)], e.Build)
		}
		use.Add(&r)
	}
	latest := use.Last()
	maps.DeleteFunc(latest, func(name string, _ time.Time) bool { return gone[name] || !g.survey.has(name) })
	if err := g.summarize(latest, builds); err != nil {
		return err
	}
	if err := g.step(); err != nil {
		return err
	}
	return g.cache.RemoveRuns(names...)
}

func (s *Survey) has(name string) bool {
	_, ok := s.graph.Find(name)
	return ok
}

// summarize writes a record for each day on which entries were used last, up to the end of
// the last run of that day.
func (g *collection) summarize(latest map[string]time.Time, builds map[string]time.Duration) error {
	storeDir := g.cache.StoreDir()
	days := make(map[time.Time]*bincache.Run)
	for _, name := range slices.Sorted(maps.Keys(latest)) {
		ended := latest[name]
		day := ended.UTC().Truncate(24 * time.Hour)
		r := days[day]
		if r == nil {
			r = &bincache.Run{}
			days[day] = r
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
	for _, r := range days {
		if err := g.step(); err != nil {
			return err
		}
		if err := g.cache.RecordSummary(*r); err != nil {
			return err
		}
	}
	return nil
}
