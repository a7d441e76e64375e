package compress

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/DataDog/zstd"
)

// A helper has nothing to do. It compresses what is left for it
// until it is stopped.
type helper struct {
	exchange *Exchange
	stopped  bool
	helped   int // frames
	ended    sync.WaitGroup
}

func startHelper(x *Exchange) *helper {
	h := &helper{exchange: x}
	x.changed.L.Lock()
	x.helpers++
	x.changed.L.Unlock()
	h.ended.Go(h.run)
	return h
}

func (h *helper) run() {
	own := NewFrames(h.exchange)
	h.exchange.changed.L.Lock()
	defer h.exchange.changed.L.Unlock()
	for !h.stopped {
		one := h.exchange.Take()
		if one == nil {
			h.exchange.changed.Wait()
			continue
		}
		h.helped++
		h.exchange.changed.L.Unlock()
		own.Compress(one)
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
	f := NewFrames(x)
	data := sample(12*usualFrame + 345)
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
	f := NewFrames(x)
	data := sample((leftForEach+1)*usualFrame + 1)
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

// fails fails to write.
type fails struct{ error }

func (f fails) Write([]byte) (int, error) { return 0, f.error }

func TestWhatIsLeftOfAnUnfinishedNarIsWithdrawn(t *testing.T) {
	abandoned := sample(9 * usualFrame)
	data := abandoned[:3*usualFrame+9]
	for range 20 {
		x := newTestExchange()
		h := startHelper(x)
		f := NewFrames(x)
		full := errors.New("disk full")
		f.Reset(fails{full})
		if _, err := f.Write(abandoned); err != full {
			t.Fatalf("Write: %v, want %v", err, full)
		}
		f.Reset(io.Discard)
		if len(x.left) > 0 || len(f.pending) > 0 {
			t.Fatalf("%d frames left for others, %d pending", len(x.left), len(f.pending))
		}
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

func TestManyCompressWithXz(t *testing.T) {
	x := newMethodExchange(Method{"xz", 0})
	h := startHelper(x)
	f := NewFrames(x)
	data := sample(3*usualFrame + 345)
	packed := pack(t, f, data)
	h.stop()
	if h.helped == 0 {
		t.Error("nobody helped")
	}
	cmd := exec.Command("xz", "-dc")
	cmd.Stdin = bytes.NewReader(packed)
	if got, err := cmd.Output(); err != nil || !bytes.Equal(got, data) {
		t.Errorf("xz -dc: %d bytes and %v, want %d", len(got), err, len(data))
	}
	if alone := pack(t, Method{"xz", 0}.NewWriter(), data); !bytes.Equal(alone, packed) {
		t.Error("one alone makes something else")
	}
}

func TestProgramEndsWithItsNar(t *testing.T) {
	f := NewFrames(newMethodExchange(Method{"xz", 0}))
	stop := errors.New("no time")
	var pids []int
	f.Between = func(pid int) error {
		if pids = append(pids, pid); len(pids) == 3 {
			return stop
		}
		return nil
	}
	f.Reset(io.Discard)
	_, err := f.Write(sample(usualFrame))
	if !errors.Is(err, stop) {
		t.Errorf("Write: %v, want %v", err, stop)
	}
	if len(pids) != 4 || pids[0] <= 0 || pids[3] != 0 {
		t.Errorf("told of processes %v", pids)
	}
	f.Reset(nil)
	// Of another Frames whose NAR nobody wants any more.
	one := f.exchange.newFrame()
	one.data = sample(usualFrame)
	one.unwanted.Store(true)
	f.Between = nil
	f.Compress(one)
	if <-one.done; !errors.Is(one.err, errUnwanted) {
		t.Errorf("a frame that nobody wants: %v", one.err)
	}
}

func TestTeamHelpsUntilItEnds(t *testing.T) {
	const members = 3
	team := NewTeam(Default, members)
	var helping sync.WaitGroup
	for range members - 1 {
		helping.Go(func() { team.Help(team.NewFrames()) })
	}
	data := sample(8*usualFrame + 345)
	f := team.NewFrames()
	if packed := pack(t, f, data); !bytes.Equal(packed, pack(t, Default.NewWriter(), data)) {
		t.Error("one alone makes something else")
	}
	team.End()
	helping.Wait() // or the test does not end
	if packed := pack(t, f, data[:usualFrame+1]); len(packed) == 0 {
		t.Error("nothing comes out when it has ended")
	}
	team.Help(f) // nor this
}
