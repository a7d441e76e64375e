package cachegc

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// ids returns the numbers of entries, by the first parts of their store paths: of those that
// the survey could read.
func (s *Survey) ids(paths []string) map[string]int32 {
	ids := make(map[string]int32, len(paths))
	for _, p := range paths {
		if id, ok := s.graph.Find(p); ok {
			ids[bincache.HashPart(p)] = id
		}
	}
	return ids
}

// unneeded returns the files that nobody needs any more when some entries are gone, which are
// about to go.
func (g *collection) unneeded(paths []string) (names []string, err error) {
	s := g.survey
	gone := make(map[string]bool, len(paths))
	for _, p := range paths {
		gone[path.Base(p)] = true
		if listing := bincache.ListingName(p); g.cache.Has(listing) {
			names = append(names, listing)
		}
	}
	users := make(map[int32]int32) // that go
	for hash, id := range s.ids(paths) {
		if g.withdrawn[hash] {
			continue // and was counted
		}
		for _, f := range s.entries[id].sharedFiles() {
			if users[f]++; users[f] == g.users[f] {
				names = append(names, s.files[f].name)
			}
		}
	}
	slices.Sort(names)
	realisations, err := g.cache.RealisationsOf(gone)
	return append(names, realisations...), err
}

// looseLogs is how long a log is kept that belongs to no entry: nobody would keep those of
// builds that failed only to lose them at once.
const looseLogs = 30 * 24 * time.Hour

func isLog(name string) bool { return strings.HasPrefix(name, "log/") }

// retireLoose retires files that nobody needs, and that are not retired yet: what writers
// have left who were killed, or what is left of entries that somebody else has removed.
func (g *collection) retireLoose() error {
	retired, err := g.cache.Retired()
	if err != nil {
		return err
	}
	var now, later []string
	for _, name := range g.survey.loose {
		switch _, known := retired[name]; {
		case known:
		case isLog(name):
			later = append(later, name)
		default:
			now = append(now, name)
		}
	}
	if len(now)+len(later) == 0 {
		return nil
	}
	if err := g.step(); err != nil {
		return err
	}
	if err := g.cache.Retire(g.Now.Add(g.Grace), now...); err != nil {
		return err
	}
	return g.cache.Retire(g.Now.Add(looseLogs), later...)
}
