package watcher

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

// A benchRig is a store into which registrations come by SQL, so that what is
// measured is the watcher and not Nix.
type benchRig struct {
	Config
	nix  *sql.DB
	next int
}

func newBenchRig(b *testing.B) *benchRig {
	b.Helper()
	nix := nixtest.New(b)
	store, err := nixstore.Open(nixstore.Dirs{Store: nix.Dir, State: nix.State}, 10*time.Second)
	check(b, err)
	b.Cleanup(func() { store.Close() })
	q, err := queue.Create(b.Context(), filepath.Join(b.TempDir(), "queue.db"))
	check(b, err)
	b.Cleanup(func() { q.Close() })
	id := q.Identity()
	dir, err := gcroot.Make(nix.State, gcroot.Owner{Queue: q.File(), ID: id.ID, UID: id.UID, GID: id.GID})
	check(b, err)
	db, err := sql.Open("sqlite3", "file:"+store.DatabaseFile()+"?_synchronous=normal&_busy_timeout=10000")
	check(b, err)
	b.Cleanup(func() { db.Close() })
	check(b, Begin(b.Context(), q, store))
	return &benchRig{nix: db, Config: Config{
		Queue: q, Store: store, Roots: gcroot.Join(dir, gcroot.OpenLinks(q.File()+"-roots")), Rules: rules.Default(),
		Present: absent, Epoch: "one", Poll: time.Hour, Log: slog.New(slog.DiscardHandler),
	}}
}

// register commits n registrations, as Nix does those of one derivation, import or
// download.
func (r *benchRig) register(b *testing.B, n int) {
	b.Helper()
	tx, err := r.nix.Begin()
	check(b, err)
	defer tx.Rollback()
	for range n {
		r.next++
		path := fmt.Sprintf("%s/%032d-registered", r.Store.Dirs().Store, r.next)
		_, err := tx.Exec("insert into ValidPaths (path, hash, registrationTime, deriver, narSize) values (?, ?, 1, ?, 1000)",
			path, fmt.Sprintf("sha256:%064d", r.next), path+".drv")
		check(b, err)
	}
	check(b, tx.Commit())
}

// BenchmarkLook measures what was registered while nothing ran: rows and roots.
func BenchmarkLook(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newBenchRig(b)
			for b.Loop() {
				b.StopTimer()
				r.register(b, n)
				b.StartTimer()
				got, err := Look(b.Context(), r.Config)
				check(b, err)
				if got.Queued != n {
					b.Fatalf("queued %d, want %d", got.Queued, n)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
		})
	}
}

// BenchmarkIdleLook measures what the ticker costs when nothing is new.
func BenchmarkIdleLook(b *testing.B) {
	r := newBenchRig(b)
	r.register(b, 1000)
	for b.Loop() {
		_, err := Look(b.Context(), r.Config)
		check(b, err)
	}
}

// BenchmarkWake measures the time from a commit of Nix to the row in the queue,
// while the watcher sleeps.
func BenchmarkWake(b *testing.B) {
	r := newBenchRig(b)
	ctx, stop := context.WithCancel(b.Context())
	stopped := make(chan struct{})
	go func() {
		_ = Run(ctx, r.Config)
		close(stopped)
	}()
	b.Cleanup(func() { // before the files go that it writes
		stop()
		<-stopped
	})
	for b.Loop() {
		r.register(b, 1)
		want := fmt.Sprintf("%s/%032d-registered", r.Store.Dirs().Store, r.next)
		for {
			row, err := r.Queue.Find(b.Context(), want)
			check(b, err)
			if row != nil {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// BenchmarkPlan measures how long it takes to compare a store with a cache.
func BenchmarkPlan(b *testing.B) {
	const n = 100_000
	r := newBenchRig(b)
	r.register(b, n)
	for b.Loop() {
		got, err := Plan(b.Context(), r.Config, func(string) error { return nil })
		check(b, err)
		if got.Queued != n {
			b.Fatalf("%d, want %d", got.Queued, n)
		}
	}
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
