package nar

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestMemoryDoesNotDependOnFileSize(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 5 GiB")
	}
	const size = 5<<30 + 1
	path := filepath.Join(t.TempDir(), "x")
	file("").create(t, path)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}

	var first []byte
	w := writerFunc(func(p []byte) (int, error) {
		if first == nil {
			first = bytes.Clone(p[:128])
		}
		return len(p), nil
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var d Dumper
	n, err := d.Dump(t.Context(), w, path)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("Dump allocated %d bytes", grown)
	}
	head := str("nix-archive-1") + str("(") + str("type") + str("regular") + str("contents") +
		"\x01\x00\x00\x40\x01\x00\x00\x00"
	if !strings.HasPrefix(string(first), head) {
		t.Errorf("nar starts with %q, want %q", first, head)
	}
	if want := int64(len(head)) + size + 7 + 16; n != want {
		t.Errorf("nar has %d bytes, want %d", n, want)
	}
}

// TestWritesAreLarge fails when a nar of small files leaves in small pieces.
func TestWritesAreLarge(t *testing.T) {
	entries := make(map[string]tree)
	for i := range 1000 {
		entries[fmt.Sprint(i)] = file(strings.Repeat("x", 3000))
	}
	path := filepath.Join(t.TempDir(), "x")
	directory(entries).create(t, path)

	var sizes []int
	var d Dumper
	if _, err := d.Dump(t.Context(), writerFunc(func(p []byte) (int, error) {
		sizes = append(sizes, len(p))
		return len(p), nil
	}), path); err != nil {
		t.Fatal(err)
	}
	for _, size := range sizes[:len(sizes)-1] {
		if size < blockSize || size > blockSize+slack {
			t.Errorf("write of %d bytes, want %d to %d", size, blockSize, blockSize+slack)
		}
	}
	if cap(d.buf) != blockSize+slack {
		t.Errorf("buffer has grown to %d bytes, want %d", cap(d.buf), blockSize+slack)
	}
}

func BenchmarkDump(b *testing.B) {
	// Sizes and names like those in a share/doc: most below a page, a few large.
	r := rand.New(rand.NewSource(1))
	small := make(map[string]tree)
	for i := range 400 {
		entries := make(map[string]tree)
		for range 10 {
			entries[randomString(r, 4+r.Intn(20), "abcdefghijklmnop-.")] = file(strings.Repeat("x", int(r.ExpFloat64()*8000)))
		}
		small[fmt.Sprint("package-", i)] = directory(entries)
	}
	large := 256 << 20
	if testing.Short() {
		large = 16 << 20
	}
	for _, bench := range []struct {
		name string
		tree tree
	}{
		{"small-files", directory(small)},
		{"large-file", file(strings.Repeat("x", large))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "x")
			bench.tree.create(b, path)
			// A Dumper is used for many paths: its buffers are not what one costs.
			var d Dumper
			size, err := d.Dump(b.Context(), io.Discard, path)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Dump(b.Context(), io.Discard, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
