package compress

import (
	"cmp"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/DataDog/zstd"
)

// usualFrame is how much of a NAR is in one frame. Frames know nothing of each other, so
// several can be compressed at a time, and any decoder takes them one after the other
// (RFC 8878, section 3; xz calls them streams). Nix 2.35 writes the same with 16 MiB; at
// 8 MiB a NAR is not measurably larger.
const usualFrame = 8 << 20

// largeFrames has the levels that look further back than that. Those of zstd are about
// windows, up to what every Nix reads: see [MaxWindow]. A frame of xz is twice as large as
// its window, with which a large NAR is 1 % larger than in one piece.
var largeFrames = map[Method]int{
	{"zstd", 20}: 32 << 20, {"zstd", 21}: 64 << 20, {"zstd", 22}: MaxWindow,
	{"xz", 5}: 16 << 20, {"xz", 6}: 16 << 20, {"xz", 7}: 32 << 20, {"xz", 8}: 64 << 20, {"xz", 9}: 128 << 20,
}

// frameSize returns how much of a NAR is in one frame.
func (m Method) frameSize() int { return cmp.Or(largeFrames[m], usualFrame) }

// A Frame is a part of a NAR.
type Frame struct {
	data []byte        // the part, and after that what it was compressed to
	err  error         // why it was not
	done chan struct{} // gets a token when one of the two is set

	unwanted atomic.Bool // nobody waits for what it becomes
}

func (x *Exchange) newFrame() *Frame {
	return &Frame{data: x.newBuffer(), done: make(chan struct{}, 1)}
}

// newBuffer returns a buffer for a frame, whether it can be compressed or not.
func (x *Exchange) newBuffer() []byte { return make([]byte, 0, zstd.CompressBound(x.size)) }

// Frames is a Writer that compresses in independent frames. Those of a large NAR it leaves
// to helpers, as far as they keep up.
type Frames struct {
	// Between, if it is not nil, is called between two pieces of what takes long, with the
	// process that compresses for the caller, and with 0 when that has ended. After an
	// error it does not go on.
	Between func(pid int) error

	zstd     zstd.Ctx
	exchange *Exchange

	w       io.Writer
	in      *Frame   // not full yet
	out     []byte   // what the next frame is compressed to
	pending []*Frame // full and not written yet, in their order
}

// NewFrames returns a Writer for the exchange's method.
func NewFrames(x *Exchange) *Frames {
	return &Frames{zstd: zstd.NewCtx(), exchange: x}
}

// Reset starts a new NAR, which goes to w.
func (f *Frames) Reset(w io.Writer) {
	for _, p := range f.pending {
		p.unwanted.Store(true)
		if !f.exchange.withdraw(p) {
			<-p.done
		}
		f.recycle(p)
	}
	f.pending = f.pending[:0]
	if f.in != nil {
		f.in.data = f.in.data[:0]
	}
	f.w = w
}

func (f *Frames) Write(b []byte) (int, error) {
	if f.in == nil {
		f.in = f.exchange.newFrame()
	}
	n := len(b)
	for len(b) > 0 {
		room := min(f.exchange.size-len(f.in.data), len(b))
		f.in.data = append(f.in.data, b[:room]...)
		b = b[room:]
		if len(f.in.data) < f.exchange.size {
			continue
		}
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// next makes room for the next frame after one that is full.
func (f *Frames) next() error {
	full := f.in
	if f.in = f.exchange.leave(full); f.in == nil {
		f.Compress(full)
	}
	f.pending = append(f.pending, full)
	for len(f.pending) > 0 {
		select {
		case <-f.pending[0].done:
			if err := f.writeFirst(); err != nil {
				return err
			}
			continue
		default:
		}
		break
	}
	if f.in == nil {
		f.in = f.exchange.spareFrame()
	}
	if f.in == nil {
		f.finishFirst()
		return f.writeFirst()
	}
	return nil
}

// Flush writes what is left of the NAR.
func (f *Frames) Flush() error {
	if f.in != nil && len(f.in.data) > 0 {
		f.Compress(f.in)
		f.pending = append(f.pending, f.in)
		f.in = nil
	}
	for len(f.pending) > 0 {
		f.finishFirst()
		if err := f.writeFirst(); err != nil {
			return err
		}
	}
	return nil
}

// finishFirst waits for the first pending frame. Nobody waits for a helper who has
// not begun.
func (f *Frames) finishFirst() {
	first := f.pending[0]
	if f.exchange.withdraw(first) {
		f.Compress(first)
	}
	<-first.done
}

// writeFirst writes the first pending frame, which is done.
func (f *Frames) writeFirst() error {
	first := f.pending[0]
	f.pending = f.pending[1:]
	data, err := first.data, first.err
	if err == nil {
		_, err = f.w.Write(data)
	}
	f.recycle(first)
	return err
}

// recycle empties a frame. Every Frames keeps one, so that each can go on.
func (f *Frames) recycle(done *Frame) {
	done.data, done.err = done.data[:0], nil
	done.unwanted.Store(false)
	if f.in == nil {
		f.in = done
		return
	}
	f.exchange.giveBack(done)
}

// Compress compresses a frame, its own or another's.
func (f *Frames) Compress(one *Frame) {
	if f.out == nil {
		f.out = f.exchange.newBuffer()
	}
	var data []byte
	var err error
	if m := f.exchange.method; m.Name == "xz" {
		data, err = f.xz(m.Level, one)
	} else {
		data, err = f.zstd.CompressLevel(f.out, one.data, m.Level)
	}
	if err != nil {
		one.err = fmt.Errorf("compress: %w", err)
	} else {
		one.data, f.out = data, one.data[:0]
	}
	one.done <- struct{}{}
}
