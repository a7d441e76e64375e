package cachewriter

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/DataDog/zstd"
)

// A helper is a dumper that has nothing to dump. It compresses what is left for it
// until it is stopped.
type helper struct {
	exchange *frameExchange
	stopped  bool
	helped   int // frames
	ended    sync.WaitGroup
}

func startHelper(x *frameExchange) *helper {
	h := &helper{exchange: x}
	x.changed.L.Lock()
	x.helpers++
	x.changed.L.Unlock()
	h.ended.Go(h.run)
	return h
}

func (h *helper) run() {
	own := newFrames(3, h.exchange)
	h.exchange.changed.L.Lock()
	defer h.exchange.changed.L.Unlock()
	for !h.stopped {
		one := h.exchange.take()
		if one == nil {
			h.exchange.changed.Wait()
			continue
		}
		h.helped++
		h.exchange.changed.L.Unlock()
		own.compress(one)
		h.exchange.changed.L.Lock()
	}
}

// stop ends the helper at once. What it has in hand it finishes, but what is left
// for it nobody takes any more.
func (h *helper) stop() {
	h.exchange.changed.L.Lock()
	h.stopped = true
	h.exchange.helpers--
	h.exchange.changed.Broadcast()
	h.exchange.changed.L.Unlock()
	h.ended.Wait()
}

// mustUncompress returns what all frames together hold.
func mustUncompress(t *testing.T, frames writes) []byte {
	t.Helper()
	var whole []byte
	for _, one := range frames {
		part, err := zstd.Decompress(nil, one)
		must(t, err)
		whole = append(whole, part...)
	}
	return whole
}

func TestFramesThatOthersCompressStayInOrder(t *testing.T) {
	x := newTestExchange()
	h := startHelper(x)
	f := newFrames(3, x)
	data := sample(12*frameSize + 345)
	for range 3 {
		var out writes
		f.Reset(&out)
		for chunk := range slices.Chunk(data, 777_777) {
			_, err := f.Write(chunk)
			must(t, err)
		}
		must(t, f.Flush())
		if len(out) != 13 || !bytes.Equal(mustUncompress(t, out), data) {
			t.Fatalf("%d frames with something else in them, want 13 with what was written", len(out))
		}
	}
	h.stop()
	if h.helped == 0 {
		t.Error("nobody helped")
	}
	if x.unmade+len(x.spare) != spareEach {
		t.Errorf("%d spare frames and %d not made, want %d of both", len(x.spare), x.unmade, spareEach)
	}
}

// TestNobodyWaitsForHelp has a helper that counts as one and does nothing.
func TestNobodyWaitsForHelp(t *testing.T) {
	x := newTestExchange()
	x.helpers = 1
	f := newFrames(3, x)
	data := sample((leftForEach+1)*frameSize + 1)
	var out writes
	f.Reset(&out)
	_, err := f.Write(data)
	must(t, err)
	if len(x.left) != leftForEach {
		t.Errorf("%d frames left for the helper, want %d", len(x.left), leftForEach)
	}
	must(t, f.Flush())
	if !bytes.Equal(mustUncompress(t, out), data) {
		t.Error("the frames hold something else")
	}
}

func TestDumpersHelpWithALargePath(t *testing.T) {
	f := newFixture(t)
	path := f.nix.Add(t, "large", string(sample(6*frameSize)))
	w := f.writer(t, Options{Workers: 2})
	_, err := w.Copy(t.Context(), path)
	must(t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.exchange.spare) == 0 {
		t.Error("no frame was left for the other dumper")
	}
}

// fails fails to write.
type fails struct{ error }

func (f fails) Write([]byte) (int, error) { return 0, f.error }

func TestWhatIsLeftOfAnUnfinishedNarIsWithdrawn(t *testing.T) {
	for range 20 {
		x := newTestExchange()
		h := startHelper(x)
		f := newFrames(3, x)
		full := errors.New("disk full")
		f.Reset(fails{full})
		if _, err := f.Write(sample(9 * frameSize)); err != full {
			t.Fatalf("Write: %v, want %v", err, full)
		}
		f.Reset(io.Discard)
		if len(x.left) > 0 || len(f.pending) > 0 {
			t.Fatalf("%d frames left for others, %d pending", len(x.left), len(f.pending))
		}
		data := sample(3*frameSize + 9)
		var out writes
		f.Reset(&out)
		_, err := f.Write(data)
		must(t, err)
		must(t, f.Flush())
		h.stop()
		if !bytes.Equal(mustUncompress(t, out), data) {
			t.Fatal("the frames hold something of another NAR")
		}
	}
}
