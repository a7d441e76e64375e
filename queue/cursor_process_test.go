package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func init() { verbs["advance"] = verbAdvance }

const (
	advances  = 300 // how far such a process goes, in batches
	batchSize = 7
)

// verbAdvance moves the cursor a batch at a time, and says so. Others may do the
// same.
func verbAdvance(file string) error {
	q, err := Open(background, file)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if err := waitForParent(); err != nil {
		return err
	}
	for {
		c, err := q.Cursor(background)
		if err != nil {
			return err
		}
		if c.Last >= advances*batchSize {
			return nil
		}
		batch := registrations(c.Last+1, c.Last+batchSize)
		switch err := q.Advance(background, c.Last, batch, pathsOf(batch), nil); {
		case errors.Is(err, ErrMoved):
		case err != nil:
			return err
		default:
			// Words that fill a pipe: this process can't be far ahead of who listens.
			fmt.Printf("%-2000d\n", c.Last)
		}
	}
}

// watchMoves has every move of the cursor noted, and forbids to add a path twice.
func watchMoves(t *testing.T, q *Queue) {
	t.Helper()
	setCursor(t, q, Cursor{})
	_, err := raw(t, q.File()).Exec(`
		create table moves (last integer);
		create trigger moved after update on cursor begin insert into moves values (new.last); end;
		create trigger twice before update on jobs begin select raise(abort, 'added twice'); end`)
	must(t, err)
}

// wantMoves fails the test if the cursor did not go from batch to batch, to its end,
// or if a path has no job.
func wantMoves(t *testing.T, q *Queue) {
	t.Helper()
	var moves []int64
	found, err := q.db.Query("select last from moves order by rowid")
	must(t, err)
	defer found.Close()
	for found.Next() {
		var last int64
		must(t, found.Scan(&last))
		moves = append(moves, last)
	}
	must(t, found.Close())
	var want []int64
	for i := range int64(advances) {
		want = append(want, (i+1)*batchSize)
	}
	if diff := cmp.Diff(want, moves); diff != "" {
		t.Errorf("moves (-want +got):\n%s", diff)
	}
	const last = advances * batchSize
	wantCursor(t, q, &Cursor{Last: last, Seen: registrations(last-Evidence+1, last)})
	wantJobs(t, q, last)
}

// wantJobs fails the test if the jobs are not those of all rows up to last.
func wantJobs(t *testing.T, q *Queue, last int64) {
	t.Helper()
	var got []string
	for path := range rows(t, q) {
		got = append(got, path)
	}
	if diff := cmp.Diff(pathsOf(registrations(1, last)), sorted(got)); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
}

func TestProcessesAdvanceTogether(t *testing.T) {
	q := newQueue(t)
	watchMoves(t, q)
	var all []*process
	for range 3 {
		p := start(t, nil, "advance", q.File())
		p.line(t)
		all = append(all, p)
	}
	for _, p := range all {
		must(t, p.stdin.Close())
	}
	var said []string
	for i, p := range all {
		lines := p.finish(t)
		t.Logf("process %d went on %d times", i, len(lines))
		for _, line := range lines {
			said = append(said, strings.TrimSpace(line))
		}
	}
	// Each batch is somebody's, and nobody else's.
	var want []string
	for i := range advances {
		want = append(want, fmt.Sprint(i*batchSize))
	}
	if diff := cmp.Diff(sorted(want), sorted(said)); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	wantMoves(t, q)
}

func TestKilledProcessLeavesNoHalfAdvance(t *testing.T) {
	q := newQueue(t)
	watchMoves(t, q)
	// Each is killed somewhere in the batches after the first that it has done.
	for kills := 0; ; kills++ {
		p := start(t, nil, "advance", q.File())
		p.line(t)
		must(t, p.stdin.Close())
		for range 30 {
			if !p.out.Scan() {
				t.Logf("killed %d times", kills)
				if kills < 3 {
					t.Error("that is too few to show anything")
				}
				wantMoves(t, q)
				return
			}
		}
		p.kill()
		c, err := q.Cursor(t.Context())
		must(t, err)
		if c.Last%batchSize != 0 {
			t.Fatalf("cursor is at %d, in the middle of a batch", c.Last)
		}
		if want := registrations(max(1, c.Last-Evidence+1), c.Last); !slices.Equal(c.Seen, want) {
			t.Fatalf("evidence is %v, want %v", c.Seen, want)
		}
		wantJobs(t, q, c.Last)
	}
}
