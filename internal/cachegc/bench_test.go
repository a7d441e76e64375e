package cachegc

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachetest"
)

// benchCache makes a cache with many entries, that were used by a hundred runs.
func benchCache(b *testing.B, count int) *bincache.Cache {
	b.Helper()
	c := newCache(b)
	must(b, cachetest.Fill(b.Context(), c.Path(), count))
	const runs = 100
	for i := range runs {
		run := bincache.Run{Ended: noon.Add(time.Duration(i-runs) * 24 * time.Hour)}
		for j := i; j < count; j += runs {
			run.Used = append(run.Used, cachetest.Path(j))
		}
		_, err := c.RecordRun(run, 0)
		must(b, err)
	}
	return c
}

// BenchmarkPlan surveys a cache, and decides what goes.
func BenchmarkPlan(b *testing.B) {
	for _, count := range []int{2_000, 200_000} {
		if count > 2_000 && (testing.Short() || os.Getenv("LARDER_LONG") == "") {
			continue
		}
		b.Run(fmt.Sprintf("of=%d", count), func(b *testing.B) {
			c := benchCache(b, count)
			b.ReportAllocs()
			for b.Loop() {
				s, err := Look(b.Context(), c, noon)
				must(b, err)
				if p := s.Plan(Policy{MaxSize: s.bytes / 2}); len(p.Evict) == 0 {
					b.Fatal("nothing goes")
				}
			}
		})
	}
}

// BenchmarkCollect removes half of a cache.
func BenchmarkCollect(b *testing.B) {
	for _, count := range []int{2_000, 200_000} {
		if count > 2_000 && (testing.Short() || os.Getenv("LARDER_LONG") == "") {
			continue
		}
		b.Run(fmt.Sprintf("of=%d", count), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				c := benchCache(b, count)
				s, err := Look(b.Context(), c, noon)
				must(b, err)
				b.StartTimer()
				_, err = Collect(b.Context(), c, Options{Now: noon, Policy: Policy{MaxSize: s.bytes / 2}})
				must(b, err)
			}
		})
	}
}
