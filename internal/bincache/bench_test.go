package bincache

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// benchNarInfo returns a narinfo as most are: with some references, and a signature.
func benchNarInfo(i int) *NarInfo {
	n := narInfo(benchPath(i), fmt.Sprint(i))
	for j := range 8 {
		n.References = append(n.References, filepath.Base(benchPath(j)))
	}
	n.Deriver = filepath.Base(benchPath(i)) + ".drv"
	n.Sigs = []string{sig}
	return n
}

func benchPath(i int) string { return fmt.Sprintf("%s/%032d-a-package-of-1.2.%d", storeDir, i, i) }

func BenchmarkParseNarInfo(b *testing.B) {
	text := benchNarInfo(1).Format()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseNarInfo(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFormatNarInfo(b *testing.B) {
	n := benchNarInfo(1)
	b.ReportAllocs()
	for b.Loop() {
		n.Format()
	}
}

// benchCache makes a cache with many entries, whose NARs are links to a few files: file
// systems allow a file some ten thousand names. It returns their store paths.
func benchCache(b *testing.B, count int) (*Cache, []string) {
	b.Helper()
	c := newCache(b)
	paths := make([]string, count)
	var nar string
	for i := range count {
		n := benchNarInfo(i)
		n.FileSize, n.NarSize, n.URL = 3, 3, fmt.Sprintf("nar/%052d.nar", i)
		file := filepath.Join(c.Path(), n.URL)
		if i%10_000 == 0 {
			nar = file
			must(b, os.WriteFile(file, []byte("nar"), 0o644))
		} else {
			must(b, os.Link(nar, file))
		}
		must(b, os.WriteFile(filepath.Join(c.Path(), narInfoName(n.StorePath)), n.Format(), 0o644))
		paths[i] = n.StorePath
	}
	return c, paths
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
		c, paths := benchCache(b, count)
		var some []string
		for i := 0; i < count; i += count / wanted {
			some = append(some, paths[i])
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
	c, _ := benchCache(b, 20_000)
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
