package cachegc

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// benchCache makes a cache with many entries, that refer to eight others each and were used
// by a hundred runs. Their NARs are links to a few files: file systems allow a file some
// ten thousand names.
func benchCache(b *testing.B, count int) *bincache.Cache {
	b.Helper()
	c := newCache(b)
	name := func(i int) string { return fmt.Sprintf("%032d-a-package-of-1.2.%d", i, i) }
	var nar string
	for i := range count {
		n := &bincache.NarInfo{
			StorePath: storeDir + "/" + name(i), URL: fmt.Sprintf("nar/%052d.nar", i), Compression: "none",
			FileHash: sum("nar"), FileSize: 3, NarHash: sum("nar"), NarSize: 3, Deriver: name(i) + ".drv",
		}
		for j := range min(8, i) {
			n.References = append(n.References, name(i*(j+1)/9))
		}
		file := filepath.Join(c.Path(), n.URL)
		if i%10_000 == 0 {
			nar = file
			must(b, os.WriteFile(file, []byte("nar"), 0o644))
		} else {
			must(b, os.Link(nar, file))
		}
		must(b, os.WriteFile(filepath.Join(c.Path(), bincache.HashPart(n.StorePath)+".narinfo"), n.Format(), 0o644))
	}
	const runs = 100
	for i := range runs {
		run := bincache.Run{Ended: noon.Add(time.Duration(i-runs) * 24 * time.Hour)}
		for j := i; j < count; j += runs {
			run.Used = append(run.Used, path.Join(storeDir, name(j)))
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
				s, err := Look(b.Context(), c)
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
				s, err := Look(b.Context(), c)
				must(b, err)
				b.StartTimer()
				_, err = Collect(b.Context(), c, Options{Now: noon, Policy: Policy{MaxSize: s.bytes / 2}})
				must(b, err)
			}
		})
	}
}
