package cachewriter

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/compress"
)

// benchWords returns text of words, some of which come often: it shrinks to about a
// third.
func benchWords(size int) string {
	random := rand.New(rand.NewPCG(1, 1))
	words := make([]string, 20_000)
	for i := range words {
		letters := make([]byte, 2+random.IntN(9))
		for j := range letters {
			letters[j] = 'a' + byte(random.IntN(26))
		}
		words[i] = string(letters) + " "
	}
	often := rand.NewZipf(random, 1.1, 1, uint64(len(words)-1))
	var text strings.Builder
	for text.Len() < size {
		text.WriteString(words[often.Uint64()])
	}
	return text.String()[:size]
}

// benchNoise returns what can't be made smaller, as pictures and archives can't.
func benchNoise(size int) string {
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // never fails
	return string(noise)
}

// BenchmarkCopy copies one path with all that belongs to it, by a new Writer each
// time: what is measured is compressing, most of all.
func BenchmarkCopy(b *testing.B) {
	size := 64 << 20
	if testing.Short() {
		size = 2 * (8 << 20)
	}
	f := newFixture(b)
	for _, content := range []struct {
		name string
		text string
	}{
		{"words", benchWords(size)},
		{"noise", benchNoise(size)},
	} {
		path := f.nix.Add(b, content.name, content.text)
		for _, compression := range []string{"none", "zstd:1", "zstd:3", "zstd:9"} {
			b.Run(fmt.Sprintf("%s/%s", content.name, compression), func(b *testing.B) {
				c, err := compress.Parse(compression)
				must(b, err)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var fileSize int64
				for b.Loop() {
					f.copy(b, Options{Compression: c}, path)
					b.StopTimer()
					n, err := f.cache.Entry(path)
					must(b, err)
					fileSize = n.FileSize
					narInfo, nar := f.entry(b, path)
					must(b, os.Remove(narInfo))
					must(b, os.Remove(nar))
					b.StartTimer()
				}
				b.ReportMetric(float64(fileSize)/float64(size), "file/nar")
			})
		}
	}
}

// BenchmarkCopySmall copies a closure of small paths: what is measured is what a path
// costs, however small it is.
func BenchmarkCopySmall(b *testing.B) {
	const count = 200
	f := newFixture(b)
	path := f.nix.AddTexts(b, "small", count)
	b.ReportAllocs()
	for b.Loop() {
		f := newFixtureAt(b, f.nix, b.TempDir()+"/cache")
		f.copy(b, Options{}, path)
	}
	b.ReportMetric(float64(count)*float64(b.N)/b.Elapsed().Seconds(), "paths/s")
}
