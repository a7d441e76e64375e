package queue

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSettingsOutliveTheProcess(t *testing.T) {
	q := newQueue(t)
	got, err := q.Settings(t.Context())
	must(t, err)
	if got != (Settings{}) {
		t.Errorf("a new queue has settings %+v, want none", got)
	}
	for _, want := range []Settings{
		{Cache: "file:///cache?trusted=true", Compression: "zstd:3"},
		{Cache: "file:///cache", Rules: `{"keep":["built"],"exclude":["*'s"]}`, Mode: "watch-only"},
		{Mode: "hook-only"},
		{Cache: "file:///o'ther"}, // what is not said is unset
	} {
		must(t, q.SetSettings(t.Context(), want))
		must(t, q.Close())
		q = create(t, q.File())
		got, err := q.Settings(t.Context())
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("settings (-want +got):\n%s", diff)
		}
	}
}

func TestMissingAreThoseWithoutAJob(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("waiting"), path("claimed"), path("dead"))
	for range 2 {
		if job := claim(t, q); job.Path != path("claimed") {
			must(t, q.Bury(t.Context(), job, errTest))
		}
	}
	for name, test := range map[string]struct{ paths, want []string }{
		"none":      {nil, nil},
		"of none":   {[]string{}, nil},
		"of all":    {[]string{path("dead"), path("claimed"), path("waiting")}, nil},
		"of others": {[]string{path("x"), path("dead"), `quo"ted`, path("waiting") + "x"}, []string{path("x"), `quo"ted`, path("waiting") + "x"}},
		"of many":   {paths("many", 5000), paths("many", 5000)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := q.Missing(t.Context(), test.paths)
			must(t, err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFindTellsAllOfOneJob(t *testing.T) {
	q := newQueue(t)
	must(t, q.Add(t.Context(), path("x.drv"), path("dead"), path("failed"), path("claimed"), path("waiting")))
	must(t, q.Bury(t.Context(), claim(t, q), errTest))
	must(t, q.Fail(t.Context(), claim(t, q), time.Now().Add(time.Hour), errTest))
	claim(t, q)
	all := rows(t, q)
	if len(all) != 4 {
		t.Errorf("%d rows, want 4", len(all))
	}
	for path, want := range all {
		got, err := q.Find(t.Context(), path)
		must(t, err)
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("job (-in the list +alone):\n%s", diff)
		}
	}
	for _, path := range []string{"", path("other"), path("x.drv"), path("dead") + "x", "%"} {
		if got, err := q.Find(t.Context(), path); got != nil || err != nil {
			t.Errorf("job of %q is %+v, %v, want none", path, got, err)
		}
	}
}

func TestRowsComeInTheOrderOfClaims(t *testing.T) {
	q := newQueue(t)
	must(t, q.Add(t.Context(), path("x.drv"), path("dead"), path("later"), path("claimed"), path("b"), path("a")))
	must(t, q.Bury(t.Context(), claim(t, q), fmt.Errorf("copy: %w", errTest)))
	must(t, q.Fail(t.Context(), claim(t, q), time.Now().Add(time.Hour), errTest))
	claim(t, q)
	want := []Row{
		{Path: path("claimed"), State: Claimed},
		{Path: path("b"), State: Waiting},
		{Path: path("a"), State: Waiting},
		{Path: path("later"), State: Waiting, Attempts: 1, Error: "it did not work"},
		{Path: path("dead"), State: Dead, Attempts: 1, Error: "copy: it did not work"},
	}
	var got []Row
	for row, err := range q.Rows(t.Context()) {
		must(t, err)
		if row.Drv != path("x.drv") || time.Since(row.Added) > time.Minute || row.Due.Before(row.Added) {
			t.Errorf("row is %+v", row)
		}
		row.Drv, row.Added, row.Due = "", time.Time{}, time.Time{}
		got = append(got, row)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	counts, err := q.Counts(t.Context())
	must(t, err)
	if diff := cmp.Diff(Counts{Waiting: 3, Claimed: 1, Dead: 1}, counts); diff != "" || counts.Left() != 4 {
		t.Errorf("%d left, counts (-want +got):\n%s", counts.Left(), diff)
	}
}

func TestRowsMayBeLeftHalfway(t *testing.T) {
	q := newQueue(t)
	add(t, q, paths("job", 10)...)
	for range q.Rows(t.Context()) {
		break
	}
	claim(t, q) // and nothing is held on to
}

func TestRemovedQueueLeavesNothing(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	lock, err := q.Lock()
	must(t, err)
	defer lock.Unlock()
	must(t, q.Remove())
	left, err := filepath.Glob(filepath.Join(filepath.Dir(q.File()), "*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

func TestErrorsSayWhatWasDone(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	job := claim(t, q)
	must(t, q.Close())
	for want, err := range map[string]error{
		"add to queue: ":           q.Add(t.Context(), "", path("y")),
		"advance cursor: ":         q.Advance(t.Context(), 0, registrations(1, 1), nil, nil),
		"claim job: ":              second(q.Claim(t.Context())),
		"count jobs: ":             second(q.Counts(t.Context())),
		"find job: ":               second(q.Find(t.Context(), job.Path)),
		"finish job: ":             q.Done(t.Context(), job, nil),
		"look for jobs: ":          second(q.Missing(t.Context(), []string{""})),
		"look for the next job: ":  third(q.NextDue(t.Context())),
		"put job back: ":           q.Release(t.Context(), job, time.Now(), nil),
		"read cursor: ":            second(q.Cursor(t.Context())),
		"read setting ":            second(q.Settings(t.Context())),
		"retry jobs: ":             second(q.Retry(t.Context())),
		"return a dead worker's c": second(q.Lock()),
		"set cursor: ":             errors.Join(q.SetCursor(t.Context(), nil, Cursor{}), q.ForgetStart(t.Context())),
		"write settings: ":         q.SetSettings(t.Context(), Settings{}),
	} {
		wantText(t, err, want)
	}
	wantAlive(t, q, false) // a Lock that failed is no lock
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

func TestDefaultFileIsTheUsersOwn(t *testing.T) {
	for name, test := range map[string]struct {
		uid  int
		env  map[string]string
		want string
	}{
		"root":          {0, map[string]string{"HOME": "/home/x", "XDG_STATE_HOME": "/state"}, "/var/lib/larder/queue.db"},
		"state home":    {1000, map[string]string{"HOME": "/home/x", "XDG_STATE_HOME": "/state"}, "/state/larder/queue.db"},
		"home":          {1000, map[string]string{"HOME": "/home/x"}, "/home/x/.local/state/larder/queue.db"},
		"relative":      {1000, map[string]string{"HOME": "/home/x", "XDG_STATE_HOME": "state"}, "/home/x/.local/state/larder/queue.db"},
		"homeless":      {1000, nil, ""},
		"relative home": {1000, map[string]string{"HOME": "x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DefaultFile(test.uid, func(name string) string { return test.env[name] })
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("default is %q, %v, want %q", got, err, test.want)
			}
		})
	}
}
