package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var errTest = errors.New("it did not work")

func TestClaimIsExclusive(t *testing.T) {
	q := newQueue(t)
	// As many as do not fit into a pipe: the other process has to wait halfway, and
	// goes on when this one has begun.
	all := paths("job", 2000)
	add(t, q, all...)
	other := start(t, nil, "claim", q.File())
	other.line(t) // it is ready
	must(t, other.stdin.Close())
	theirs := []string{other.line(t)}

	var mu sync.Mutex
	var ours []string // guarded by mu
	begun := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				job, err := q.Claim(t.Context())
				if errors.Is(err, ErrEmpty) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if ours = append(ours, job.Path); len(ours) == 20 {
					close(begun)
				}
				mu.Unlock()
			}
		})
	}
	<-begun
	theirs = append(theirs, other.finish(t)...)
	wg.Wait()
	t.Logf("%d claims here, %d in the other process", len(ours), len(theirs))
	if diff := cmp.Diff(all, sorted(append(ours, theirs...))); diff != "" {
		t.Errorf("claimed (-want +got):\n%s", diff)
	}
}

func TestEachPathHasOneRow(t *testing.T) {
	q := newQueue(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			// Each adds all, each in another order.
			all := paths("job", 20)
			slices.Reverse(all[i:])
			if err := q.Add(t.Context(), fmt.Sprint("drv-", i), all...); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := len(rows(t, q)); got != 20 {
		t.Errorf("%d rows, want 20", got)
	}
}

func TestAddIsAllOrNothing(t *testing.T) {
	q := newQueue(t)
	_, err := raw(t, q.File()).Exec(`create trigger full before insert on jobs when new.path like '%-0007'
		begin select raise(abort, 'disk full'); end`)
	must(t, err)
	if err := q.Add(t.Context(), "", paths("job", 10)...); err == nil {
		t.Error("Add succeeded, want an error")
	}
	if got := len(rows(t, q)); got != 0 {
		t.Errorf("%d rows, want none", got)
	}
}

func TestAddingNothingIsNothing(t *testing.T) {
	q := newQueue(t)
	hook, err := OpenForHook(q.File(), time.Second)
	must(t, err)
	defer hook.Close()
	must(t, q.Add(t.Context(), ""))
	must(t, hook.Add(""))
	if got := len(rows(t, q)); got != 0 {
		t.Errorf("%d rows, want none", got)
	}
}

func TestClaimsComeInTheOrderInWhichTheyAreDue(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("a"), path("b"), path("c"), path("d"))
	now := time.Now()
	for name, due := range map[string]time.Duration{"a": -time.Minute, "b": time.Hour, "c": -time.Hour, "d": -time.Hour} {
		_, err := q.db.Exec("update jobs set due = ? where path = ?", now.Add(due).UnixMilli(), path(name))
		must(t, err)
	}
	want := []string{path("c"), path("d"), path("a")}
	if diff := cmp.Diff(want, claimAll(t, q)); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	due, ok, err := q.NextDue(t.Context())
	must(t, err)
	if want := time.UnixMilli(now.Add(time.Hour).UnixMilli()); !ok || !due.Equal(want) {
		t.Errorf("next job is due at %v, %v, want %v", due, ok, want)
	}
}

func TestNextDueOfNothingIsNothing(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("a"), path("b"))
	claim(t, q)
	must(t, q.Bury(t.Context(), claim(t, q), errTest))
	if due, ok, err := q.NextDue(t.Context()); ok || err != nil {
		t.Errorf("a job is due at %v, %v, want none: one is claimed, one is dead", due, err)
	}
}

func TestJobHasWhatWasAdded(t *testing.T) {
	q := newQueue(t)
	before := time.Now().Truncate(time.Millisecond)
	must(t, q.Add(t.Context(), path("x.drv"), path("x")))
	must(t, q.Add(t.Context(), "", path("x"))) // who knows no derivation takes none away
	job := claim(t, q)
	if job.Path != path("x") || job.Drv != path("x.drv") || job.Attempts != 0 {
		t.Errorf("job is %+v", job)
	}
	if job.Added.Before(before) || job.Added.After(time.Now()) {
		t.Errorf("job was added at %v, want a moment ago", job.Added)
	}
}

func TestAddingMakesDue(t *testing.T) {
	later := time.Now().Add(time.Hour)
	for name, test := range map[string]struct {
		put      func(*Queue, context.Context, *Job) error
		attempts int
	}{
		"released": {func(q *Queue, ctx context.Context, j *Job) error { return q.Release(ctx, j, later, errTest) }, 0},
		"failed":   {func(q *Queue, ctx context.Context, j *Job) error { return q.Fail(ctx, j, later, errTest) }, 1},
		"dead":     {func(q *Queue, ctx context.Context, j *Job) error { return q.Bury(ctx, j, errTest) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			add(t, q, path("x"))
			must(t, test.put(q, t.Context(), claim(t, q)))
			_, err := q.Claim(t.Context())
			wantIs(t, err, ErrEmpty)

			add(t, q, path("x"))
			if got := claim(t, q).Attempts; got != test.attempts {
				t.Errorf("job has %d attempts behind it, want %d", got, test.attempts)
			}
		})
	}
}

func TestAddingWhileClaimedBringsAnotherTurn(t *testing.T) {
	later := time.Now().Add(time.Hour)
	for name, put := range map[string]func(*Queue, context.Context, *Job) error{
		"dropped": func(q *Queue, ctx context.Context, j *Job) error {
			return q.Drop(ctx, j, func() error { return errors.New("the root was taken away") })
		},
		"released": func(q *Queue, ctx context.Context, j *Job) error { return q.Release(ctx, j, later, nil) },
		"failed":   func(q *Queue, ctx context.Context, j *Job) error { return q.Fail(ctx, j, later, errTest) },
		"dead":     func(q *Queue, ctx context.Context, j *Job) error { return q.Bury(ctx, j, errTest) },
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			add(t, q, path("x"))
			job := claim(t, q)
			add(t, q, path("x"))
			_, err := q.Claim(t.Context())
			wantIs(t, err, ErrEmpty) // but only after the one at hand

			must(t, put(q, t.Context(), job))
			job = claim(t, q)
			// The turn that was promised is used up now.
			must(t, q.Done(t.Context(), job, nil))
			if got := len(rows(t, q)); got != 0 {
				t.Errorf("%d rows, want none", got)
			}
		})
	}
}

func TestDoneIsDoneThoughItWasAddedAgain(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	job := claim(t, q)
	add(t, q, path("x"))
	unrooted := false
	must(t, q.Done(t.Context(), job, func() error { unrooted = true; return nil }))
	if got := len(rows(t, q)); got != 0 || !unrooted {
		t.Errorf("%d rows, want none; root removed: %v, want it to be", got, unrooted)
	}
}

func TestDoneByIsNotDoneForAnotherDerivation(t *testing.T) {
	for again, left := range map[string]int64{"": 0, "/nix/store/one.drv": 0, "/nix/store/two.drv": 1} {
		q := newQueue(t)
		must(t, q.Add(t.Context(), "/nix/store/one.drv", "/nix/store/path"))
		j := claim(t, q)
		must(t, q.Add(t.Context(), again, "/nix/store/path"))
		unrooted := false
		must(t, q.DoneBy(t.Context(), j, func() error { unrooted = true; return nil }))
		counts, err := q.Counts(t.Context())
		must(t, err)
		if counts.Left() != left || unrooted != (left == 0) {
			t.Errorf("after %q: %+v, root removed: %v", again, counts, unrooted)
		}
		if left == 1 {
			if j := claim(t, q); j.Drv != again {
				t.Errorf("the next turn is for %q, want %q", j.Drv, again)
			}
		}
	}
}

func TestDoneUnrootsBeforeAnybodyCanAddAgain(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	job := claim(t, q)
	other := raw(t, q.File())
	called := 0
	must(t, q.Done(t.Context(), job, func() error {
		called++
		// To others the row is still there, and they can't write.
		if n := countRows(t, other); n != 1 {
			t.Errorf("others see %d rows, want 1", n)
		}
		if _, err := other.Exec("update jobs set due = 0"); err == nil {
			t.Error("somebody else could write")
		}
		return nil
	}))
	if called != 1 {
		t.Errorf("unroot was called %d times, want 1", called)
	}
	if n := countRows(t, other); n != 0 {
		t.Errorf("%d rows, want none", n)
	}
}

func TestRootsAreMadeBeforeAnybodyCanDropTheJob(t *testing.T) {
	for name, add := range map[string]func(q *Queue, root func() error) error{
		"AddRooted": func(q *Queue, root func() error) error { return q.AddRooted(background, root, path("x")) },
		"Advance": func(q *Queue, root func() error) error {
			setCursor(t, q, Cursor{})
			return q.Advance(background, 0, registrations(1, 1), []string{path("x")}, root)
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			other := raw(t, q.File())
			wantIs(t, add(q, func() error { return errTest }), errTest)
			if n := countRows(t, other); n != 0 {
				t.Errorf("%d rows, want none: its root could not be made", n)
			}
			called := 0
			must(t, add(q, func() error {
				called++
				if _, err := other.Exec("delete from jobs"); err == nil {
					t.Error("somebody else could write")
				}
				return nil
			}))
			if called != 1 || countRows(t, other) != 1 {
				t.Errorf("root was called %d times, and there are %d rows, want 1 and 1", called, countRows(t, other))
			}
		})
	}
}

func countRows(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	must(t, db.QueryRow("select count(*) from jobs").Scan(&n))
	return n
}

func TestDoneKeepsTheJobIfItsRootCanNotBeRemoved(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	job := claim(t, q)
	wantIs(t, q.Done(t.Context(), job, func() error { return errTest }), errTest)
	if got := rows(t, q)[job.Path].State; got != Claimed {
		t.Errorf("job is %q, want claimed", got)
	}
	must(t, q.Done(t.Context(), job, nil))
}

func TestOnlyTheClaimedJobIsSettled(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	job := claim(t, q)
	must(t, q.Release(t.Context(), job, time.Now().Add(time.Hour), errTest))
	want := rows(t, q)

	// The job is not the worker's any more.
	unroot := func() error { return errors.New("the root was taken away") }
	must(t, q.Done(t.Context(), job, unroot))
	must(t, q.Fail(t.Context(), job, time.Now(), nil))
	must(t, q.Bury(t.Context(), job, nil))
	if diff := cmp.Diff(want, rows(t, q)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestFailuresAreCountedAndReleasesAreNot(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	past := time.Now().Add(-time.Second)
	must(t, q.Fail(t.Context(), claim(t, q), past, errTest))
	must(t, q.Release(t.Context(), claim(t, q), past, nil))
	must(t, q.Fail(t.Context(), claim(t, q), past, errTest))
	job := claim(t, q)
	if job.Attempts != 2 {
		t.Errorf("job has %d attempts behind it, want 2", job.Attempts)
	}
	must(t, q.Bury(t.Context(), job, errTest))
	row := rows(t, q)[job.Path]
	if row.State != Dead || row.Attempts != 3 || row.Error != errTest.Error() {
		t.Errorf("row is %+v, want a dead one with 3 attempts and the reason", row)
	}
}

func TestRetry(t *testing.T) {
	setup := func(t *testing.T) *Queue {
		q := newQueue(t)
		// Three that failed, and thereafter one of each other kind.
		add(t, q, path("dead"), path("dead2"), path("failed"))
		for range 3 {
			job := claim(t, q)
			if job.Path == path("failed") {
				must(t, q.Fail(t.Context(), job, time.Now().Add(time.Hour), errTest))
			} else {
				must(t, q.Bury(t.Context(), job, errTest))
			}
		}
		add(t, q, path("claimed"))
		claim(t, q)
		add(t, q, path("waiting"))
		return q
	}
	for name, test := range map[string]struct {
		retry []string
		n     int64
		due   []string
	}{
		"all":     {nil, 3, []string{"dead", "dead2", "failed", "waiting"}},
		"dead":    {[]string{path("dead")}, 1, []string{"dead", "waiting"}},
		"failed":  {[]string{path("failed")}, 1, []string{"failed", "waiting"}},
		"claimed": {[]string{path("claimed")}, 0, []string{"waiting"}},
		"unknown": {[]string{path("unknown"), path("dead2")}, 1, []string{"dead2", "waiting"}},
	} {
		t.Run(name, func(t *testing.T) {
			q := setup(t)
			n, err := q.Retry(t.Context(), test.retry...)
			must(t, err)
			if n != test.n {
				t.Errorf("%d jobs, want %d", n, test.n)
			}
			var due []string
			for {
				job, err := q.Claim(t.Context())
				if errors.Is(err, ErrEmpty) {
					break
				}
				must(t, err)
				if job.Attempts != 0 {
					t.Errorf("%s has %d attempts behind it, want none", job.Path, job.Attempts)
				}
				due = append(due, job.Path[len(path("")):])
			}
			if diff := cmp.Diff(test.due, sorted(due)); diff != "" {
				t.Errorf("due (-want +got):\n%s", diff)
			}
		})
	}
}
