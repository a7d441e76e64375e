package cachecheck

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// benchCache makes a cache with many entries, each of which refers to some before it, and
// whose NARs are links to a few files: file systems allow a file some ten thousand names.
func benchCache(b *testing.B, count int) *bincache.Cache {
	b.Helper()
	const storeDir = "/nix/store"
	c, err := bincache.Create(filepath.Join(b.TempDir(), "cache"), storeDir, bincache.Options{})
	must(b, err)
	b.Cleanup(func() { c.Close() })
	name := func(i int) string { return fmt.Sprintf("%032d-a-package-of-1.2.%d", i, i) }
	var nar string
	for i := range count {
		n := &bincache.NarInfo{
			StorePath: storeDir + "/" + name(i), URL: fmt.Sprintf("nar/%052d.nar", i), Compression: "none",
			FileSize: 3, NarHash: bincache.Hash{1}, NarSize: 3, Deriver: name(i) + ".drv",
			Sigs: []string{"cache.example.org-1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQQ=="},
		}
		for j := 1; j <= 8 && i-j*j*j >= 0; j++ {
			n.References = append(n.References, name(i-j*j*j))
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
	return c
}

// BenchmarkQuickCheck looks at 2,000 entries, with LARDER_LONG=1 at 200,000, which take
// half a minute to make. "entries alone" is what reading them takes.
func BenchmarkQuickCheck(b *testing.B) {
	count := 2000
	if os.Getenv("LARDER_LONG") == "1" {
		count = 200_000
	}
	c := benchCache(b, count)
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
