package queue

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// registrations returns what Nix registered in the given rows, both included.
func registrations(first, last int64) (seen []Seen) {
	for id := first; id <= last; id++ {
		seen = append(seen, registration(id))
	}
	return seen
}

func registration(id int64) Seen { return Seen{ID: id, Path: path(fmt.Sprintf("row-%06d", id))} }

func pathsOf(seen []Seen) (paths []string) {
	for _, s := range seen {
		paths = append(paths, s.Path)
	}
	return paths
}

func setCursor(t *testing.T, q *Queue, c Cursor) {
	t.Helper()
	from, err := q.Cursor(t.Context())
	must(t, err)
	must(t, q.SetCursor(t.Context(), from, c))
}

func wantCursor(t *testing.T, q *Queue, want *Cursor) {
	t.Helper()
	got, err := q.Cursor(t.Context())
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cursor (-want +got):\n%s", diff)
	}
}

func TestCursorIsWhereItWasPut(t *testing.T) {
	q := newQueue(t)
	wantCursor(t, q, nil)
	for _, c := range []Cursor{
		{},
		{Last: 7, Start: 5, Epoch: "boot x, cache y", Seen: registrations(3, 7)},
		{Last: 1 << 60, Start: 1 << 59, Epoch: `"'`, Seen: []Seen{{1, path("a")}, {1 << 59, path("b")}, {1 << 60, path("c")}}},
		{Last: 2, Epoch: "back again", Seen: registrations(1, 2)}, // nothing stays of what was
		{Epoch: "nothing seen"},
	} {
		setCursor(t, q, c)
		wantCursor(t, q, &c)
		must(t, q.Close())
		q = create(t, q.File())
		wantCursor(t, q, &c)
	}
}

func TestAdvanceAddsWhatIsWantedAndMovesOn(t *testing.T) {
	q := newQueue(t)
	setCursor(t, q, Cursor{Last: 2, Start: 2, Epoch: "e", Seen: registrations(1, 2)})
	before := time.Now().Truncate(time.Millisecond)
	must(t, q.Advance(t.Context(), 2, registrations(3, 5), []string{path("x"), path("y"), path("x")}, nil))
	wantCursor(t, q, &Cursor{Last: 5, Start: 2, Epoch: "e", Seen: registrations(1, 5)})
	must(t, q.Advance(t.Context(), 5, []Seen{registration(9)}, nil, nil)) // numbers have gaps
	wantCursor(t, q, &Cursor{Last: 9, Start: 2, Epoch: "e", Seen: append(registrations(1, 5), registration(9))})
	must(t, q.Advance(t.Context(), 9, nil, nil, nil))
	must(t, q.Advance(t.Context(), 4711, nil, nil, nil)) // it moves nothing
	// A number that is used again means what it meant last.
	setCursor(t, q, Cursor{Last: 2, Seen: []Seen{{3, path("lost")}}})
	must(t, q.Advance(t.Context(), 2, registrations(3, 4), nil, nil))
	wantCursor(t, q, &Cursor{Last: 4, Seen: registrations(3, 4)})
	if got := len(rows(t, q)); got != 2 {
		t.Errorf("%d jobs, want 2", got)
	}
	for _, name := range []string{"x", "y"} {
		row, err := q.Find(t.Context(), path(name))
		must(t, err)
		if row == nil || row.State != Waiting || row.Added.Before(before) || row.Due.After(time.Now()) || row.Drv != "" {
			t.Errorf("job is %+v, want one that is due", row)
		}
	}
}

// failures are what may keep Advance from its end. Each is put into a queue's way.
var failures = map[string]func(t *testing.T, q *Queue) context.Context{
	"a job":    func(t *testing.T, q *Queue) context.Context { return trigger(t, q, "jobs") },
	"evidence": func(t *testing.T, q *Queue) context.Context { return trigger(t, q, "seen") },
	"nobody waits any more": func(t *testing.T, _ *Queue) context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return ctx
	},
}

// trigger makes inserts of row 7's path fail.
func trigger(t *testing.T, q *Queue, table string) context.Context {
	t.Helper()
	_, err := raw(t, q.File()).Exec(fmt.Sprintf(`create trigger full before insert on %s
		when new.path = '%s' begin select raise(abort, 'disk full'); end`, table, registration(7).Path))
	must(t, err)
	return t.Context()
}

func TestAdvanceIsAllOrNothing(t *testing.T) {
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			start := Cursor{Last: 4, Start: 4, Epoch: "e", Seen: registrations(1, 4)}
			setCursor(t, q, start)
			ctx := failure(t, q)
			batch := registrations(5, 10)
			if err := q.Advance(ctx, 4, batch, pathsOf(batch), nil); err == nil {
				t.Error("Advance succeeded, want an error")
			} else {
				wantText(t, err, "advance cursor: ")
			}
			wantCursor(t, q, &start)
			if got := len(rows(t, q)); got != 0 {
				t.Errorf("%d jobs, want none", got)
			}
			_, err := raw(t, q.File()).Exec("drop trigger if exists full")
			must(t, err)
			must(t, q.Advance(t.Context(), 4, batch, pathsOf(batch), nil))
			if got := len(rows(t, q)); got != 6 {
				t.Errorf("%d jobs, want 6", got)
			}
		})
	}
}

func TestSetCursorIsAllOrNothing(t *testing.T) {
	q := newQueue(t)
	was := Cursor{Last: 4, Start: 4, Epoch: "e", Seen: registrations(1, 4)}
	setCursor(t, q, was)
	trigger(t, q, "seen")
	wantText(t, q.SetCursor(t.Context(), &was, Cursor{Last: 9, Seen: registrations(5, 9)}), "set cursor: ")
	wantCursor(t, q, &was)
}

func TestCursorIsPutElsewhereOnlyByThoseWhoKnowWhereItIs(t *testing.T) {
	q := newQueue(t)
	was := Cursor{Last: 4, Start: 3, Epoch: "e", Seen: registrations(1, 4)}
	wantIs(t, q.SetCursor(t.Context(), &was, was), ErrMoved)
	wantCursor(t, q, nil)
	must(t, q.SetCursor(t.Context(), nil, was))
	for name, from := range map[string]*Cursor{
		"none":          nil,
		"another place": {Last: 5, Start: 3, Epoch: "e"},
		"another start": {Last: 4, Start: 0, Epoch: "e"},
		"another epoch": {Last: 4, Start: 3, Epoch: "f"},
	} {
		t.Run(name, func(t *testing.T) {
			wantIs(t, q.SetCursor(t.Context(), from, Cursor{Last: 9}), ErrMoved)
			wantCursor(t, q, &was)
		})
	}
}

func TestWhoeverComesSecondHasToLookAgain(t *testing.T) {
	q := newQueue(t)
	batch := registrations(1, 5)
	wantIs(t, q.Advance(t.Context(), 0, batch, pathsOf(batch), nil), ErrMoved) // there is none yet
	wantCursor(t, q, nil)
	setCursor(t, q, Cursor{})
	must(t, q.Advance(t.Context(), 0, batch, pathsOf(batch[:2]), nil))
	other := create(t, q.File())
	for _, from := range []int64{0, 4, 6} {
		wantIs(t, other.Advance(t.Context(), from, registrations(from+1, 9), []string{path("x")}, nil), ErrMoved)
	}
	wantCursor(t, q, &Cursor{Last: 5, Seen: batch})
	if got := len(rows(t, q)); got != 2 {
		t.Errorf("%d jobs, want 2", got)
	}
	// Backwards it goes by SetCursor only.
	setCursor(t, q, Cursor{Last: 2})
	wantIs(t, q.Advance(t.Context(), 5, registrations(6, 9), nil, nil), ErrMoved)
	must(t, other.Advance(t.Context(), 2, registrations(3, 9), nil, nil))
}

func TestEvidenceIsBounded(t *testing.T) {
	old := append(registrations(10, 19), registrations(80, 100)...)
	for _, size := range []int64{1, 63, 64, 65, 1000} {
		t.Run(fmt.Sprint("batches of ", size), func(t *testing.T) {
			q := newQueue(t)
			setCursor(t, q, Cursor{Last: 100, Start: 100, Seen: old})
			for last := int64(100); last < 100+3*Evidence; {
				next := last + size
				must(t, q.Advance(t.Context(), last, registrations(last+1, next), nil, nil))
				last = next
				c, err := q.Cursor(t.Context())
				must(t, err)
				want := slices.Concat(old, registrations(max(101, last-Evidence+1), last))
				if diff := cmp.Diff(want, c.Seen); diff != "" || c.Last != last {
					t.Fatalf("at row %d, want %d; evidence (-want +got):\n%s", c.Last, last, diff)
				}
			}
			// When the start is forgotten, so are they in time.
			must(t, q.ForgetStart(t.Context()))
			c, err := q.Cursor(t.Context())
			must(t, err)
			last := c.Last
			if c.Start != 0 {
				t.Errorf("start is %d, want 0", c.Start)
			}
			must(t, q.Advance(t.Context(), last, registrations(last+1, last+1), nil, nil))
			wantCursor(t, q, &Cursor{Last: last + 1, Seen: registrations(last+2-Evidence, last+1)})
		})
	}
	t.Run("too much at once", func(t *testing.T) {
		q := newQueue(t)
		setCursor(t, q, Cursor{Last: 1000, Start: 10, Seen: registrations(1, 1000)})
		wantCursor(t, q, &Cursor{Last: 1000, Start: 10, Seen: slices.Concat(registrations(1, 10), registrations(1001-Evidence, 1000))})
	})
}

func TestForgettingTheStartIsNothingElse(t *testing.T) {
	q := newQueue(t)
	must(t, q.ForgetStart(t.Context()))
	wantCursor(t, q, nil)
	c := Cursor{Last: 9, Start: 5, Epoch: "e", Seen: registrations(1, 9)}
	setCursor(t, q, c)
	must(t, q.ForgetStart(t.Context()))
	c.Start = 0
	wantCursor(t, q, &c)
}

// TestAdvanceAddsLikeAdd has jobs in every state.
func TestAdvanceAddsLikeAdd(t *testing.T) {
	later := time.Now().Add(time.Hour)
	names := []string{"claimed", "dead", "new", "released"}
	all := []string{path("claimed"), path("dead"), path("new"), path("released")}
	prepare := func() *Queue {
		q := newQueue(t)
		must(t, q.Add(t.Context(), path("x.drv"), path("released"), path("dead"), path("claimed")))
		must(t, q.Release(t.Context(), claim(t, q), later, nil))
		must(t, q.Bury(t.Context(), claim(t, q), errTest))
		claim(t, q)
		return q
	}
	one, two := prepare(), prepare()
	add(t, one, all...)
	setCursor(t, two, Cursor{})
	must(t, two.Advance(t.Context(), 0, registrations(1, 4), all, nil))
	for i, p := range all {
		a, b := find(t, one, p), find(t, two, p)
		if d := a.Due.Sub(b.Due).Abs(); d > time.Minute {
			t.Errorf("%s is due %v apart", names[i], d)
		}
		a.Due, a.Added, b.Due, b.Added = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%s (-by Add +by Advance):\n%s", names[i], diff)
		}
	}
	if diff := cmp.Diff(again(t, one), again(t, two)); diff != "" {
		t.Errorf("added again while claimed (-by Add +by Advance):\n%s", diff)
	}
	for _, q := range []*Queue{one, two} {
		if diff := cmp.Diff([]string{path("dead"), path("new"), path("released")}, sorted(claimAll(t, q))); diff != "" {
			t.Errorf("due (-want +got):\n%s", diff)
		}
	}
}

func find(t *testing.T, q *Queue, path string) *Row {
	t.Helper()
	row, err := q.Find(t.Context(), path)
	must(t, err)
	if row == nil {
		t.Fatalf("%s has no job", path)
	}
	return row
}

// again returns the jobs that were added again while they were claimed.
func again(t *testing.T, q *Queue) (list []string) {
	t.Helper()
	rows, err := q.db.Query("select path from jobs where again = 1")
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var path sql.NullString
		must(t, rows.Scan(&path))
		list = append(list, path.String)
	}
	must(t, rows.Err())
	if len(list) == 0 {
		t.Error("no job was added again while it was claimed, and so the test shows nothing")
	}
	return list
}

func TestManyPathsAreOneAdvance(t *testing.T) {
	const count = 10_000
	q := newQueue(t)
	setCursor(t, q, Cursor{})
	batch := registrations(1, count)
	must(t, q.Advance(t.Context(), 0, batch, pathsOf(batch), nil))
	wantCursor(t, q, &Cursor{Last: count, Seen: registrations(count-Evidence+1, count)})
	missing, err := q.Missing(t.Context(), pathsOf(batch))
	must(t, err)
	if got := len(rows(t, q)); got != count || len(missing) > 0 {
		t.Errorf("%d jobs, want %d; missing are %q", got, count, missing)
	}
	// They are handed out as they were registered.
	for _, want := range batch[:10] {
		if got := claim(t, q).Path; got != want.Path {
			t.Errorf("claimed %s, want %s", got, want.Path)
		}
	}
}
