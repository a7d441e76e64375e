package queue

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkQueue measures what hooks, watcher and worker do to a queue, one after the
// other, in an empty one and in a long one. The worker has it open all the time, as it
// has, so that what is measured has the worker's checkpoints in it.
func BenchmarkQueue(b *testing.B) {
	many := 1_000_000
	if testing.Short() {
		many = 20_000
	}
	for _, rows := range []int{0, many} {
		b.Run(fmt.Sprint(rows, " rows"), func(b *testing.B) {
			q, err := Create(b.Context(), filepath.Join(b.TempDir(), "queue.db"))
			check(b, err)
			b.Cleanup(func() { q.Close() })
			fillWith(b, q, rows)
			b.Run("hook adds", func(b *testing.B) { benchHook(b, q) })
			b.Run("watcher adds", func(b *testing.B) { benchAdd(b, q, 1) })
			b.Run("watcher adds 100", func(b *testing.B) { benchAdd(b, q, 100) })
			b.Run("claim", func(b *testing.B) { benchClaim(b, q) })
			b.Run("done", func(b *testing.B) { benchDone(b, q) })
		})
	}
}

// fillWith puts rows into a queue, all of them due, in the order of their paths, which
// is quick. Those that the benchmarks add come between them.
func fillWith(b *testing.B, q *Queue, rows int) {
	_, err := q.db.Exec(`
		with recursive n(i) as (select 0 union all select i + 1 from n where i < ?)
		insert into jobs (path, drv, added, due)
		select printf('/nix/store/%032d-a-package-1.0', i * 1000), printf('/nix/store/%032d-a-package-1.0.drv', i * 1000), i / 10, i / 10
		  from n
		 where i < ?`, rows, rows)
	check(b, err)
	_, err = q.db.Exec("pragma wal_checkpoint(truncate)")
	check(b, err)
}

func benchHook(b *testing.B, q *Queue) {
	measure(b, func() {
		hook, err := OpenForHook(q.File(), workerBusy)
		check(b, err)
		check(b, hook.Add(anyPath()+".drv", anyPath()))
		b.StopTimer() // a hook ends without this
		check(b, hook.Close())
		b.StartTimer()
	})
}

func benchAdd(b *testing.B, q *Queue, n int) {
	measure(b, func() {
		var paths []string
		for range n {
			paths = append(paths, anyPath())
		}
		check(b, q.AddRooted(b.Context(), func() error { return nil }, paths...))
	})
}

func benchClaim(b *testing.B, q *Queue) {
	measure(b, func() {
		b.StopTimer()
		check(b, q.Add(b.Context(), "", anyPath()))
		b.StartTimer()
		_, err := q.Claim(b.Context())
		check(b, err)
	})
	check(b, q.reclaim())
}

func benchDone(b *testing.B, q *Queue) {
	measure(b, func() {
		b.StopTimer()
		check(b, q.Add(b.Context(), "", anyPath()))
		job, err := q.Claim(b.Context())
		check(b, err)
		b.StartTimer()
		check(b, q.Done(b.Context(), job, nil))
	})
}

// measure runs f as often as the benchmark wants, and reports how long it mostly takes,
// and how long at worst but for one in a hundred.
func measure(b *testing.B, f func()) {
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		before := b.Elapsed()
		f()
		took = append(took, b.Elapsed()-before)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// anyPath returns a path somewhere between those that fillWith has made.
func anyPath() string {
	return fmt.Sprintf("/nix/store/%032d-b-package-1.0", rand.IntN(1_000_000_000))
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
