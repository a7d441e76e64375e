package cachecheck

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachetest"
)

// BenchmarkQuickCheck looks at 2,000 entries, with LARDER_LONG=1 at 200,000, which take
// half a minute to make. "entries alone" is what reading them takes.
func BenchmarkQuickCheck(b *testing.B) {
	count := 2000
	if os.Getenv("LARDER_LONG") == "1" {
		count = 200_000
	}
	c, err := bincache.Create(filepath.Join(b.TempDir(), "cache"), "/nix/store", bincache.Options{})
	must(b, err)
	b.Cleanup(func() { c.Close() })
	must(b, cachetest.Fill(b.Context(), c.Path(), count))
	b.Run(fmt.Sprintf("of=%d/entries-alone", count), func(b *testing.B) {
		for b.Loop() {
			for _, err := range c.Entries(b.Context()) {
				must(b, err)
			}
		}
	})
	b.Run(fmt.Sprintf("of=%d/check", count), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k := Checker{Cache: c}
			report, err := k.Check(b.Context())
			must(b, err)
			if report.Entries != count || len(report.Problems) > 0 {
				b.Fatalf("%d entries%s", report.Entries, show(report.Problems))
			}
		}
	})
}
