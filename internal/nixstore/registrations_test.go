package nixstore

import (
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nix-larder/larder/internal/nixtest"
)

// readAll reads all registrations after a row, a batch at a time.
func readAll(t *testing.T, s *Store, after int64, batch int) (all []Registration) {
	t.Helper()
	for regs := range batches(t, s, after, batch) {
		all = append(all, regs...)
	}
	return all
}

// batches returns all registrations after a row, a batch at a time.
func batches(t *testing.T, s *Store, after int64, batch int) iter.Seq[[]Registration] {
	return func(yield func([]Registration) bool) {
		t.Helper()
		for {
			regs, err := s.Registrations(t.Context(), after, batch)
			must(t, err)
			if len(regs) == 0 {
				return
			}
			if len(regs) > batch || regs[0].ID <= after {
				t.Fatalf("%d registrations from row %d, want %d at most, after row %d", len(regs), regs[0].ID, batch, after)
			}
			if !yield(regs) {
				return
			}
			after = regs[len(regs)-1].ID
		}
	}
}

func TestRegistrationsComeInTheirOrder(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	if regs := readAll(t, s, 0, 10); len(regs) > 0 {
		t.Errorf("an empty store has registrations: %+v", regs)
	}
	var want []string
	for _, name := range []string{"c", "a", "d", "b", "e", "f", "g"} {
		want = append(want, nix.Add(t, name, name))
	}
	all := readAll(t, s, 0, 1000)
	var paths []string
	for _, reg := range all {
		paths = append(paths, reg.Path)
	}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Fatalf("paths (-added +registered):\n%s", diff)
	}
	for batch := 1; batch <= len(all)+1; batch++ {
		if diff := cmp.Diff(all, readAll(t, s, 0, batch)); diff != "" {
			t.Errorf("in batches of %d (-want +got):\n%s", batch, diff)
		}
	}
	// What is after a row, before it, and the row itself are the same to all who ask.
	newest, err := s.Newest(t.Context(), 1000)
	must(t, err)
	for i, reg := range all {
		if diff := cmp.Diff(all[i+1:], readAll(t, s, reg.ID, 2), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("after row %d (-want +got):\n%s", reg.ID, diff)
		}
		n, err := s.CountAfter(t.Context(), reg.ID)
		must(t, err)
		if want := int64(len(all) - i - 1); n != want {
			t.Errorf("%d registrations after row %d, want %d", n, reg.ID, want)
		}
		one, err := s.Registration(t.Context(), reg.Path)
		must(t, err)
		if diff := cmp.Diff(reg, one); diff != "" {
			t.Errorf("registration (-in the list +alone):\n%s", diff)
		}
		if got := newest[len(newest)-1-i]; got != reg.Row {
			t.Errorf("row %d from the end is %+v, want %+v", i, got, reg.Row)
		}
	}
	for _, limit := range []int{0, 1, 3} {
		few, err := s.Newest(t.Context(), limit)
		must(t, err)
		if diff := cmp.Diff(newest[:limit], few, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("newest %d (-want +got):\n%s", limit, diff)
		}
	}
	for name, test := range map[string]struct {
		ids  []int64
		want []Row
	}{
		"none":    {nil, nil},
		"of none": {[]int64{}, nil},
		"unknown": {[]int64{0, -1, 1 << 62}, nil},
		"some":    {[]int64{all[4].ID, 1 << 40, all[1].ID, all[4].ID}, []Row{all[1].Row, all[4].Row}},
	} {
		rows, err := s.Rows(t.Context(), test.ids)
		must(t, err)
		if diff := cmp.Diff(test.want, rows); diff != "" {
			t.Errorf("rows, %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPathThatComesAgainIsRegisteredAnew(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	for _, last := range []bool{true, false} { // the highest number is not used again either
		path := nix.Add(t, "source", fmt.Sprint(last))
		old, err := s.Registration(t.Context(), path)
		must(t, err)
		if !last {
			nix.Add(t, "other", "other")
		}
		nix.Run(t, "nix-store", "--delete", path)
		if _, err := s.Registration(t.Context(), path); !errors.Is(err, ErrNotValid) || !strings.Contains(err.Error(), path) {
			t.Errorf("deleted: %v, want ErrNotValid", err)
		}
		if rows, err := s.Rows(t.Context(), []int64{old.ID}); len(rows) > 0 || err != nil {
			t.Errorf("the row of what was deleted: %v, %v", rows, err)
		}
		newest, err := s.Newest(t.Context(), 1)
		must(t, err)
		nix.Add(t, "source", fmt.Sprint(last))
		again, err := s.Registration(t.Context(), path)
		must(t, err)
		if again.ID <= old.ID || len(newest) > 0 && again.ID <= newest[0].ID {
			t.Errorf("row is %d, want one after %d and %v", again.ID, old.ID, newest)
		}
		if got := readAll(t, s, old.ID, 10); got[len(got)-1].Path != path {
			t.Errorf("what comes last is %+v, want %s", got, path)
		}
		// What is registered though it is there does not come again.
		nix.Add(t, "source", fmt.Sprint(last))
		if same, err := s.Registration(t.Context(), path); err != nil || same.ID != again.ID {
			t.Errorf("row is %d, want %d: %v", same.ID, again.ID, err)
		}
	}
}

func TestDeriversAreThoseThatNixKnows(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	hash := "outputHash = builtins.hashString \"sha256\" \"x\"; outputHashAlgo = \"sha256\";"
	// Two derivations may have the same fixed output.
	out := nix.Build(t, `build "fixed" "printf x > $out" { `+hash+` }`)[0]
	nix.Build(t, `build "fixed" "printf x > $out; : other" { `+hash+` }`)
	drvs, err := s.Derivers(t.Context(), out)
	must(t, err)
	if len(drvs) != 2 || drvs[0] >= drvs[1] {
		t.Errorf("derivers are %q, want two, sorted", drvs)
	}
	for _, drv := range drvs {
		if !strings.HasSuffix(drv, "-fixed.drv") {
			t.Errorf("%s is said to be a deriver", drv)
		}
	}
	// The output need not be there, the derivation must.
	nix.Run(t, "nix-store", "--delete", out)
	after, err := s.Derivers(t.Context(), out)
	must(t, err)
	if diff := cmp.Diff(drvs, after); diff != "" {
		t.Errorf("when the output is gone (-want +got):\n%s", diff)
	}
	nix.Run(t, "nix-store", "--delete", drvs[0])
	after, err = s.Derivers(t.Context(), out)
	must(t, err)
	if diff := cmp.Diff(drvs[1:], after); diff != "" {
		t.Errorf("when one derivation is gone (-want +got):\n%s", diff)
	}
	for _, path := range []string{nix.Add(t, "source", "source"), drvs[1], ""} {
		if drvs, err := s.Derivers(t.Context(), path); len(drvs) > 0 || err != nil {
			t.Errorf("derivers of %q: %q, %v, want none", path, drvs, err)
		}
	}
}

var parameter = regexp.MustCompile(`:(\w+)`)

// plan returns what SQLite would do.
func plan(t *testing.T, db *sql.DB, statement string) (steps []string) {
	t.Helper()
	var args []any
	for _, match := range parameter.FindAllStringSubmatch(statement, -1) {
		if !slices.Contains(args, any(sql.Named(match[1], "1"))) {
			args = append(args, sql.Named(match[1], "1"))
		}
	}
	rows, err := db.Query("explain query plan "+statement, args...)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		must(t, rows.Scan(&id, &parent, &unused, &detail))
		steps = append(steps, detail)
	}
	must(t, rows.Err())
	return steps
}

// TestLargeStoreIsReadByItsIndexes has half a million paths.
func TestLargeStoreIsReadByItsIndexes(t *testing.T) {
	const count, batch = 500_000, 1000
	nix := nixtest.New(t)
	execSQL(t, nix, `
		with recursive n(i) as (select 1 union all select i + 1 from n where i < ?)
		insert into ValidPaths (path, hash, registrationTime, narSize)
		select printf('/nix/store/%032d-path', i), 'sha256:' || printf('%064d', i), 1, 1000 from n`, count)
	s := openStore(t, nix)
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(nix.State, "db", "db.sqlite")+"?mode=ro")
	must(t, err)
	defer db.Close()
	for name, statement := range map[string]string{
		"contents":      contentsSQL,
		"count_after":   countAfterSQL,
		"derivers":      deriversSQL,
		"edges":         edgesSQL,
		"ids":           idsSQL,
		"info":          infoSQL,
		"newest":        newestSQL,
		"outputs":       outputsSQL,
		"paths":         pathsSQL,
		"registration":  registrationSQL,
		"registrations": registrationsSQL,
	} {
		steps := plan(t, db, statement)
		if name == "newest" && slices.Equal(steps, []string{"SCAN ValidPaths"}) {
			continue // from its end, and no further than the limit
		}
		for _, step := range steps {
			if strings.HasPrefix(step, "SCAN") && !strings.HasPrefix(step, "SCAN json_each") {
				t.Errorf("%s reads all of a table:\n%s", name, strings.Join(steps, "\n"))
			}
			if strings.Contains(step, "TEMP B-TREE") && strings.Contains(statement, "limit") {
				t.Errorf("%s sorts more than it returns:\n%s", name, strings.Join(steps, "\n"))
			}
		}
	}

	var last int64
	var ids []int64
	for regs := range batches(t, s, 0, batch) {
		for _, reg := range regs {
			if last++; reg.ID != last || reg.Path != fmt.Sprintf("/nix/store/%032d-path", last) {
				t.Fatalf("registration %d is %+v", last, reg)
			}
		}
		ids = append(ids, last)
	}
	if last != count {
		t.Errorf("%d registrations, want %d", last, count)
	}
	rows, err := s.Rows(t.Context(), ids)
	must(t, err)
	newest, err := s.Newest(t.Context(), batch)
	must(t, err)
	if len(rows) != count/batch || len(newest) != batch || newest[0].ID != count {
		t.Errorf("%d rows and %d newest, want %d and %d", len(rows), len(newest), count/batch, batch)
	}
}

func TestLastNumberOutlivesItsPath(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	want := func(want int64) {
		t.Helper()
		got, err := s.Last(t.Context())
		must(t, err)
		if got != want {
			t.Errorf("last is %d, want %d", got, want)
		}
	}
	want(0)
	nix.Add(t, "stays", "stays")
	gone := nix.Add(t, "goes", "goes")
	want(2)
	nix.Run(t, "nix-store", "--delete", gone)
	want(2)
	nix.Add(t, "goes", "goes")
	want(3)
}
