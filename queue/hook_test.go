package queue

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
	"time"
)

func TestHookLeavesTheDatabaseToTheWorker(t *testing.T) {
	q := newQueue(t)
	add(t, q, paths("job", 100)...)
	must(t, q.Close()) // all of it is in the database now, and there is no log
	before := sum(t, q.File())
	var logs []int64
	for range 3 {
		start(t, nil, "add", q.File()).finish(t)
		logs = append(logs, logSize(t, q.File()))
	}
	if logs[0] == 0 || logs[1] <= logs[0] || logs[2] <= logs[1] {
		t.Errorf("log has %d bytes after each hook, want more each time", logs)
	}
	if sum(t, q.File()) != before {
		t.Error("a hook wrote to the database itself")
	}
	if got := len(rows(t, create(t, q.File()))); got != 103 {
		t.Errorf("%d rows, want 103", got)
	}
}

// Without a worker the log must not grow for ever.
func TestTidyEmptiesALongLogOnly(t *testing.T) {
	q := newQueue(t)
	hook, err := OpenForHook(q.File(), workerBusy)
	must(t, err)
	defer hook.Close()
	must(t, q.Close())

	must(t, hook.Add("", path("x")))
	short := logSize(t, q.File())
	must(t, hook.Tidy())
	if got := logSize(t, q.File()); got != short || got == 0 {
		t.Errorf("a log of %d bytes has %d, want it left alone", short, got)
	}
	added := 1 + fill(t, hook)
	must(t, hook.Tidy())
	if got := logSize(t, q.File()); got != 0 {
		t.Errorf("a long log has %d bytes, want none", got)
	}
	if got := len(rows(t, create(t, q.File()))); got != added {
		t.Errorf("%d rows, want %d", got, added)
	}
}

// A worker that has much to do lets the log grow for a while, and hooks need not wait for
// the disk in its place.
func TestTidyLeavesALongLogToAWorker(t *testing.T) {
	q := newQueue(t)
	hook, err := OpenForHook(q.File(), workerBusy)
	must(t, err)
	defer hook.Close()
	lock, err := q.Lock()
	must(t, err)
	fill(t, hook)
	long := logSize(t, q.File())
	must(t, hook.Tidy())
	if got := logSize(t, q.File()); got != long {
		t.Errorf("beside a worker a log of %d bytes has %d, want it left alone", long, got)
	}
	must(t, lock.Unlock())
	must(t, hook.Tidy())
	if got := logSize(t, q.File()); got != 0 {
		t.Errorf("without a worker the log has %d bytes, want none", got)
	}
}

// Somebody who reads the queue, or writes to it, is no reason to fail.
func TestTidyGivesUpBesideOthers(t *testing.T) {
	q := newQueue(t)
	hook, err := OpenForHook(q.File(), 20*time.Millisecond)
	must(t, err)
	defer hook.Close()
	must(t, q.Close())
	fill(t, hook)
	other, err := raw(t, q.File()).Begin()
	must(t, err)
	defer other.Rollback()
	if err := hook.Tidy(); err != nil {
		t.Error(err)
	}
}

// fill adds jobs until the queue's log is a long one, and returns how many.
func fill(t *testing.T, hook *Adder) (n int) {
	t.Helper()
	for logSize(t, hook.file) <= maxWAL {
		must(t, hook.Add("", paths(fmt.Sprint("job-", n), 200)...))
		n += 200
	}
	return n
}

func logSize(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file + "-wal")
	must(t, err)
	return info.Size()
}

func sum(t *testing.T, file string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	return sha256.Sum256(data)
}

func TestHookMakesDueWhatIsThere(t *testing.T) {
	q := newQueue(t)
	add(t, q, paths("job", 2)...)
	job, err := q.Claim(t.Context())
	must(t, err)
	must(t, q.Fail(t.Context(), job, time.Now().Add(time.Hour), nil))
	hook, err := OpenForHook(q.File(), workerBusy)
	must(t, err)
	defer hook.Close()
	must(t, hook.Add("x.drv", job.Path, path("new")))
	must(t, hook.Add("", job.Path))
	row, err := q.Find(t.Context(), job.Path)
	must(t, err)
	if row.Due.After(time.Now()) || row.Drv != "x.drv" || row.Attempts != 1 {
		t.Errorf("row is %+v, want it due, with the derivation and the attempt", row)
	}
	if got := len(rows(t, q)); got != 3 {
		t.Errorf("%d rows, want 3", got)
	}
}
