package bincache

import (
	"fmt"
	"os"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/cachetest"
)

func BenchmarkParseNarInfo(b *testing.B) {
	text := []byte(cachetest.NarInfo(100))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseNarInfo(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFormatNarInfo(b *testing.B) {
	n, err := ParseNarInfo([]byte(cachetest.NarInfo(100)))
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		n.Format()
	}
}

// benchCache makes a cache with many entries.
func benchCache(b *testing.B, count int) *Cache {
	b.Helper()
	c := newCache(b)
	must(b, cachetest.Fill(b.Context(), c.Path(), count))
	return c
}

// BenchmarkPresence looks for 1,000 entries, with LARDER_LONG=1 also in a cache that takes
// half a minute to make.
func BenchmarkPresence(b *testing.B) {
	const wanted = 1000
	counts := []int{wanted}
	if os.Getenv("LARDER_LONG") == "1" {
		counts = append(counts, 200_000)
	}
	for _, count := range counts {
		c := benchCache(b, count)
		var some []string
		for i := 0; i < count; i += count / wanted {
			some = append(some, cachetest.Path(i))
		}
		b.Run(fmt.Sprintf("of=%d/one-by-one", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, path := range some {
					if _, err := c.Entry(path); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		b.Run(fmt.Sprintf("of=%d/together", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, f := range c.Find(b.Context(), some) {
					if f.Err != nil {
						b.Fatal(f.Err)
					}
				}
			}
		})
	}
}

// BenchmarkResign has 20,000 entries go from one key to another.
func BenchmarkResign(b *testing.B) {
	c := benchCache(b, 20_000)
	names := [2]string{"a-1", "b-1"}
	keys := [2]signature.SecretKey{newKey(b, names[0]), newKey(b, names[1])}
	i := 0
	for b.Loop() {
		r, err := c.Resign(b.Context(), Resigning{Keys: keys[i%2 : i%2+1], Drop: []string{names[1-i%2]}})
		must(b, err)
		if r.Changed != 20_000 {
			b.Fatalf("%+v", r)
		}
		i++
	}
}
