package nixstore

import (
	"database/sql"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
)

// TestBuildTimesBeginWithTheLastInput sets the times of a graph that was built.
func TestBuildTimesBeginWithTheLastInput(t *testing.T) {
	nix := nixtest.New(t)
	top := graph(t, nix)
	s := openStore(t, nix)
	db, err := sql.Open("sqlite3", "file:"+dbFile(nix))
	must(t, err)
	defer db.Close()
	// Derivations and sources are there at 1000, and everything else comes later.
	for _, set := range []struct {
		name string
		at   int
	}{{"%", 1000}, {"%-base", 1010}, {"%-left", 1015}, {"%-right", 1040}, {"%-top", 1045}, {"%-top-dev", 1045}, {"%-top-doc", 1045}} {
		_, err := db.Exec("update ValidPaths set registrationTime = ? where path like ?", set.at, set.name)
		must(t, err)
	}
	all, err := s.Registrations(t.Context(), 0, 1000)
	must(t, err)
	var paths []string
	for _, r := range all {
		paths = append(paths, r.Path)
	}
	times, err := s.BuildTimes(t.Context(), append(paths, nix.Dir+"/00000000000000000000000000000000-gone"))
	must(t, err)
	got := make(map[string]time.Duration)
	for path, d := range times {
		got[Name(path)] = d.End.Sub(d.Begin)
	}
	first := Name(min(top[0], top[1], top[2])) // one stands for all three
	want := map[string]time.Duration{"base": 10 * time.Second, "left": 5 * time.Second, "right": 30 * time.Second, first: 5 * time.Second}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
}
