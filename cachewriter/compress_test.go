package cachewriter

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/DataDog/zstd"
)

func TestCompressionIsRead(t *testing.T) {
	for text, want := range map[string]Compression{
		"": DefaultCompression, "zstd": {"zstd", 3}, "zstd:1": {"zstd", 1}, "zstd:22": {"zstd", 22}, "none": {"none", 0},
	} {
		got, err := ParseCompression(text)
		if got != want || err != nil {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
		if back, err := ParseCompression(got.String()); back != got || err != nil {
			t.Errorf("%+v is written %q, which is %+v, %v", got, got, back, err)
		}
	}
	for _, text := range []string{"xz", "zstd:", "zstd:0", "zstd:23", "zstd:-1", "zstd:fast", "none:1", "none:", "Zstd", " zstd", "zstd:3:4"} {
		if c, err := ParseCompression(text); err == nil {
			t.Errorf("%q was read as %+v", text, c)
		}
	}
}

// writes keeps every Write apart.
type writes [][]byte

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, bytes.Clone(b))
	return len(b), nil
}

// newTestExchange returns an exchange of two dumpers.
func newTestExchange() *frameExchange {
	return newFrameExchange(sync.NewCond(new(sync.Mutex)), 2)
}

// sample returns data of which some can be compressed and some can't.
func sample(size int) []byte {
	random := rand.NewChaCha8([32]byte{})
	b := make([]byte, size)
	for part := range slices.Chunk(b, 100_000) {
		_, _ = random.Read(part[:len(part)/3])
	}
	return b
}

func TestEachFrameIsIndependent(t *testing.T) {
	c := newFrames(3, newTestExchange())
	for _, size := range []int{1, 1000, frameSize - 1, frameSize, frameSize + 1, 2*frameSize + 12345} {
		data := sample(size)
		var out writes
		c.Reset(&out)
		for chunk := range slices.Chunk(data, 77_777) {
			if n, err := c.Write(chunk); n != len(chunk) || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
		}
		must(t, c.Flush())
		if want := (size + frameSize - 1) / frameSize; len(out) != want {
			t.Errorf("%d bytes are %d frames, want %d", size, len(out), want)
		}
		// Each alone, the last one first.
		whole := make([]byte, 0, size)
		for i := len(out) - 1; i >= 0; i-- {
			part, err := zstd.Decompress(nil, out[i])
			must(t, err)
			whole = append(part, whole...)
		}
		if !bytes.Equal(whole, data) {
			t.Errorf("%d bytes: the frames hold something else", size)
		}
		// And one after the other, for a decoder that knows nothing of them.
		cmd := exec.Command("zstd", "-dc")
		cmd.Stdin = bytes.NewReader(bytes.Join(out, nil))
		whole, err := cmd.Output()
		if err != nil || !bytes.Equal(whole, data) {
			t.Errorf("%d bytes: zstd -dc: %d bytes, %v", size, len(whole), err)
		}
	}
}

func TestCompressorForgetsAnUnfinishedNar(t *testing.T) {
	for name, c := range map[string]compressor{"zstd": newFrames(3, newTestExchange()), "none": &plain{}} {
		c.Reset(&writes{})
		_, err := c.Write([]byte("of another"))
		must(t, err)
		var out writes
		c.Reset(&out)
		_, err = c.Write([]byte("mine"))
		must(t, err)
		must(t, c.Flush())
		text := bytes.Join(out, nil)
		if name == "zstd" {
			text, err = zstd.Decompress(nil, text)
			must(t, err)
		}
		if string(text) != "mine" {
			t.Errorf("%s: %q, want mine", name, text)
		}
	}
}
