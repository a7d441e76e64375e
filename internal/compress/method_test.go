package compress

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/DataDog/zstd"
)

func TestMethodIsRead(t *testing.T) {
	for text, want := range map[string]Method{
		"": Default, "zstd": {"zstd", 3}, "zstd:1": {"zstd", 1}, "zstd:22": {"zstd", 22}, "none": {"none", 0},
		"xz": {"xz", 6}, "xz:0": {"xz", 0}, "xz:9": {"xz", 9},
	} {
		got, err := Parse(text)
		if got != want || err != nil {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
		if back, err := Parse(got.String()); back != got || err != nil {
			t.Errorf("%+v is written %q, which is %+v, %v", got, got, back, err)
		}
	}
	for _, text := range []string{"gzip", "xz:", "xz:10", "xz:-1", "xz:6e", "zstd:", "zstd:0", "zstd:23", "zstd:-1", "zstd:+3", "zstd:03", "zstd:fast", "none:1", "none:", "Zstd", " zstd", "zstd:3:4"} {
		if m, err := Parse(text); err == nil {
			t.Errorf("%q was read as %+v", text, m)
		}
	}
}

// writes keeps every Write apart.
type writes [][]byte

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, bytes.Clone(b))
	return len(b), nil
}

// newTestExchange returns an exchange of two writers.
func newTestExchange() *Exchange { return newMethodExchange(Default) }

func newMethodExchange(m Method) *Exchange {
	return NewExchange(m, sync.NewCond(new(sync.Mutex)), 2)
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
	c := NewFrames(newTestExchange())
	for _, size := range []int{1, 1000, usualFrame - 1, usualFrame, usualFrame + 1, 2*usualFrame + 12345} {
		data := sample(size)
		var out writes
		c.Reset(&out)
		for chunk := range slices.Chunk(data, 77_777) {
			if n, err := c.Write(chunk); n != len(chunk) || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
		}
		must(t, c.Flush())
		if want := (size + usualFrame - 1) / usualFrame; len(out) != want {
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

func TestWriterForgetsAnUnfinishedNar(t *testing.T) {
	for _, m := range []Method{Default, {"xz", 0}, {"none", 0}} {
		w := m.NewWriter()
		w.Reset(&writes{})
		_, err := w.Write([]byte("of another"))
		must(t, err)
		var out bytes.Buffer
		w.Reset(&out)
		_, err = w.Write([]byte("mine"))
		must(t, err)
		must(t, w.Flush())
		if text, err := read(t, m.Name, &out, len("mine")); string(text) != "mine" || err != nil {
			t.Errorf("%s: %q and %v, want mine", m, text, err)
		}
	}
}

// pack returns what a method makes of some data.
func pack(t testing.TB, w Writer, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w.Reset(&out)
	for chunk := range slices.Chunk(data, 77_777) {
		_, err := w.Write(chunk)
		must(t, err)
	}
	must(t, w.Flush())
	return out.Bytes()
}

func TestWhatIsWrittenIsReadAndAlwaysTheSame(t *testing.T) {
	data := sample(1 << 20)
	for _, text := range []string{"zstd:1", "zstd:20", "xz:0", "none"} {
		m, err := Parse(text)
		must(t, err)
		must(t, m.Check())
		w := m.NewWriter()
		for _, size := range []int{len(data), 1, 1000} { // one after the other
			packed := pack(t, w, data[:size])
			got, err := read(t, m.Name, bytes.NewReader(packed), size)
			if err != nil || !bytes.Equal(got, data[:size]) {
				t.Errorf("%s: %d bytes and %v, want %d", m, len(got), err, size)
			}
			if !bytes.Equal(pack(t, m.NewWriter(), data[:size]), packed) {
				t.Errorf("%s: the second time %d bytes become something else", m, size)
			}
		}
	}
}

// The levels from 20 on have windows that are larger than the usual frame.
func TestHighLevelsLookFarBack(t *testing.T) {
	part := sample(300_000)
	data := slices.Concat(part, make([]byte, usualFrame), part)
	once := len(part) / 3 // can't be compressed
	for level, times := range map[int]int{19: 2, 20: 1} {
		packed := pack(t, Method{"zstd", level}.NewWriter(), data)
		if want := times * once; len(packed) < want || len(packed) > want+once/2 {
			t.Errorf("level %d makes %d bytes, want a little more than %d", level, len(packed), want)
		}
	}
}
