package queue

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TestQueueIsSmallWhenItIsEmpty has many rows come and go, beside a hook that stays.
func TestQueueIsSmallWhenItIsEmpty(t *testing.T) {
	q := newQueue(t)
	hook, err := OpenForHook(q.File(), time.Minute)
	must(t, err)
	defer hook.Close()
	size := func() int64 {
		t.Helper()
		var pages int64
		must(t, q.db.QueryRow("pragma page_count").Scan(&pages))
		return pages * pageSize
	}
	fill := func() {
		t.Helper()
		paths := make([]string, 50000)
		for i := range paths {
			paths[i] = path(fmt.Sprint("row-", i))
		}
		must(t, q.Add(t.Context(), "", paths...))
	}
	fill()
	full := size()
	must(t, q.Shrink(t.Context()))
	if size() != full {
		t.Error("a full queue was written anew")
	}
	for round := range 3 {
		if round > 0 {
			fill()
		}
		_, err := q.db.Exec("delete from jobs where path not like '%row-7'")
		must(t, err)
		must(t, hook.Add("", path(fmt.Sprint("hook-", round))))
		if size() < full/2 {
			t.Fatal("it is small by itself")
		}
		must(t, q.Shrink(t.Context()))
		info, err := os.Stat(q.File())
		must(t, err)
		if size() > 64<<10 || info.Size() != size() {
			t.Errorf("has %d bytes, and its file %d, with next to nothing in it; had %d", size(), info.Size(), full)
		}
		must(t, hook.Add("", path(fmt.Sprint("later-", round))))
		counts, err := q.Counts(t.Context())
		must(t, err)
		if counts.Waiting != 3 {
			t.Errorf("%d jobs wait, want 3", counts.Waiting)
		}
	}
	// A little that is free is for the next jobs.
	must(t, q.Add(t.Context(), "", path("a"), path("b")))
	_, err = q.db.Exec("delete from jobs")
	must(t, err)
	before := size()
	must(t, q.Shrink(t.Context()))
	if size() != before {
		t.Error("a small queue was written anew")
	}
}
