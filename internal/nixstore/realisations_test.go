package nixstore

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/nixtest"
)

const withCA = "experimental-features = nix-command ca-derivations"

// buildAddressed builds a chain of two content-addressed derivations and one that is not,
// and returns the last output.
func buildAddressed(t *testing.T, nix *nixtest.Store, input string) string {
	t.Helper()
	return nix.Build(t, fmt.Sprintf(`let
		addressed = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
		base = build "base" "test -n $input; echo base > $out" (addressed // { input = "%s"; });
		middle = build "middle" "echo $base > $out" { inherit base; };
		in build "top" "echo $middle $base > $out" (addressed // { inherit middle base; })`, input))[0]
}

// namesOf returns the names of the outputs of realisations, sorted, and checks the rest.
func namesOf(t *testing.T, list []Realisation) (names []string) {
	t.Helper()
	for _, r := range list {
		names = append(names, Name(r.OutPath))
		if r.Output != "out" || !strings.HasPrefix(r.Drv, "sha256:") {
			t.Errorf("it is %+v", r)
		}
		for id, path := range r.Dependent {
			i := slices.IndexFunc(list, func(o Realisation) bool { return o.ID() == id })
			if i < 0 || list[i].OutPath != path {
				t.Errorf("%+v depends on %s, which is not there as %s", r, id, path)
			}
		}
	}
	slices.Sort(names)
	return names
}

func TestRealisationsOfAClosure(t *testing.T) {
	nix := nixtest.New(t, withCA)
	s := openStore(t, nix)
	top := buildAddressed(t, nix, "one")
	list, err := s.Realisations(t.Context(), nil, top)
	must(t, err)
	// Of what was asked for, and of what it came down to; the latter depends on nothing.
	if got := namesOf(t, list); !slices.Contains(got, "base") || !slices.Contains(got, "top") {
		t.Errorf("realisations are of %q", got)
	}
	if !slices.ContainsFunc(list, func(r Realisation) bool { return len(r.Dependent) > 0 }) {
		t.Errorf("none of them depends on another: %+v", list)
	}
	graph, err := s.Closure(t.Context(), []string{top}, func(int64) bool { return false })
	must(t, err)
	all, err := s.Realisations(t.Context(), graph)
	must(t, err)
	want := countRows(t, nix, "Realisations")
	if len(all) != want {
		t.Errorf("%d realisations of the closure, want %d", len(all), want)
	}
	none, err := s.Realisations(t.Context(), nil, nix.Add(t, "source", "source"), filepath.Join(nix.Dir, strings.Repeat("0", 32)+"-gone"))
	if err != nil || none != nil {
		t.Errorf("of what was not realised: %+v, %v", none, err)
	}
}

func TestRealisationsComeAfterAMark(t *testing.T) {
	nix := nixtest.New(t, withCA)
	s := openStore(t, nix)
	after := func(mark RealisationMark, limit int) ([]Realisation, RealisationMark) {
		t.Helper()
		list, next, err := s.RealisationsAfter(t.Context(), mark, limit)
		must(t, err)
		return list, next
	}
	if list, next := after(RealisationMark{}, 10); list != nil || next != (RealisationMark{}) {
		t.Errorf("before there are any: %+v, %+v", list, next)
	}
	top := buildAddressed(t, nix, "one")
	list, first := after(RealisationMark{}, 1000)
	if len(list) != countRows(t, nix, "Realisations") {
		t.Errorf("first there are %+v", list)
	}
	if list, next := after(first, 1000); list != nil || next != first {
		t.Errorf("then there are %+v, %+v", list, next)
	}
	// Another derivation of what is there is no new path, but a new realisation.
	if again := buildAddressed(t, nix, "two"); again != top {
		t.Fatalf("built %s, want %s", again, top)
	}
	list, second := after(first, 1000)
	if got := namesOf(t, list); second == first || !slices.Contains(got, "top") || !slices.Contains(got, "base") {
		t.Errorf("the second time there are %q", got)
	}
	// One at a time gives the same.
	seen := make(map[string]bool)
	for mark := (RealisationMark{}); ; {
		list, next := after(mark, 1)
		for _, r := range list {
			seen[r.ID()] = true
		}
		if next == mark {
			break
		}
		mark = next
	}
	if len(seen) != countRows(t, nix, "Realisations") {
		t.Errorf("one at a time there are %d", len(seen))
	}
	// A database that was made anew has not come as far.
	if list, _ := after(RealisationMark{1000, 0}, 1000); len(list) != len(seen) {
		t.Errorf("after a mark that is not from here there are %d, want %d", len(list), len(seen))
	}
}

// What Nix 2.35 has is made by hand, from its ca-specific-schema.sql.
func TestBuildTracesAreRead(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	source := nix.Add(t, "source", "source")
	execSQL(t, nix, `create table BuildTraceV3 (
		id integer primary key autoincrement not null,
		drvPath text not null, outputName text not null, outputPath text not null, signatures text)`)
	drv := strings.Repeat("0", 32) + "-x.drv"
	gone := filepath.Join(nix.Dir, strings.Repeat("1", 32)+"-gone")
	execSQL(t, nix, fmt.Sprintf(`insert into BuildTraceV3 (drvPath, outputName, outputPath, signatures)
		values ('%s', 'out', '%s', 'a:b c:d'), ('%s', 'dev', '%s', null)`, drv, source, drv, gone))
	want := Realisation{Drv: drv, Output: "out", OutPath: source, Sigs: []string{"a:b", "c:d"}}
	one, err := s.Realisations(t.Context(), nil, source, gone)
	must(t, err)
	after, mark, err := s.RealisationsAfter(t.Context(), RealisationMark{}, 10)
	must(t, err)
	for _, list := range [][]Realisation{one, after} {
		if len(list) != 1 || fmt.Sprint(list[0]) != fmt.Sprint(want) {
			t.Errorf("got %+v, want %+v", list, want)
		}
	}
	if list, next, err := s.RealisationsAfter(t.Context(), mark, 10); list != nil || next != mark || err != nil {
		t.Errorf("then there are %+v, %+v, %v", list, next, err)
	}
	if has, err := s.HasRealisations(t.Context()); !has || err != nil {
		t.Errorf("it has some: %v, %v", has, err)
	}
}

func TestStoreWithoutTheFeatureHasNoRealisations(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	graph(t, nix)
	if has, err := s.HasRealisations(t.Context()); has || err != nil {
		t.Errorf("it has some: %v, %v", has, err)
	}
}

func countRows(t *testing.T, nix *nixtest.Store, table string) (count int) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(nix.State, "db", "db.sqlite"))
	must(t, err)
	defer db.Close()
	must(t, db.QueryRow("select count(*) from "+table).Scan(&count))
	return count
}
