package cachewriter

import (
	"fmt"
	"io"

	"github.com/DataDog/zstd"
)

// frameSize is how much of a NAR is in one zstd frame. Frames know nothing of
// each other, so several can be compressed at a time, and any decoder takes them one
// after the other (RFC 8878, section 3). Nix 2.35 writes the same with 16 MiB; at
// 8 MiB a NAR is not measurably larger.
const frameSize = 8 << 20

// A frame is a part of a NAR.
type frame struct {
	data []byte        // the part, and after that what it was compressed to
	err  error         // why it was not
	done chan struct{} // gets a token when one of the two is set
}

func newFrame() *frame {
	return &frame{data: newBuffer(), done: make(chan struct{}, 1)}
}

// newBuffer returns a buffer for a frame, whether it can be compressed or not.
func newBuffer() []byte { return make([]byte, 0, zstd.CompressBound(frameSize)) }

// frames compresses with libzstd in independent frames. Those of a large NAR it
// leaves to dumpers that have nothing to dump, as far as they keep up.
type frames struct {
	level    int
	zstd     zstd.Ctx
	exchange *frameExchange

	w       io.Writer
	in      *frame   // not full yet
	out     []byte   // what the next frame is compressed to
	pending []*frame // full and not written yet, in their order
}

func newFrames(level int, exchange *frameExchange) *frames {
	return &frames{level: level, zstd: zstd.NewCtx(), exchange: exchange}
}

// Reset starts a new NAR, which goes to w.
func (f *frames) Reset(w io.Writer) {
	for _, p := range f.pending {
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

func (f *frames) Write(b []byte) (int, error) {
	if f.in == nil {
		f.in = newFrame()
	}
	n := len(b)
	for len(b) > 0 {
		room := min(frameSize-len(f.in.data), len(b))
		f.in.data = append(f.in.data, b[:room]...)
		b = b[room:]
		if len(f.in.data) < frameSize {
			continue
		}
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// next makes room for the next frame after one that is full.
func (f *frames) next() error {
	full := f.in
	if f.in = f.exchange.leave(full); f.in == nil {
		f.compress(full)
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
func (f *frames) Flush() error {
	if f.in != nil && len(f.in.data) > 0 {
		f.compress(f.in)
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
func (f *frames) finishFirst() {
	first := f.pending[0]
	if f.exchange.withdraw(first) {
		f.compress(first)
	}
	<-first.done
}

// writeFirst writes the first pending frame, which is done.
func (f *frames) writeFirst() error {
	first := f.pending[0]
	f.pending = f.pending[1:]
	data, err := first.data, first.err
	if err == nil {
		_, err = f.w.Write(data)
	}
	f.recycle(first)
	return err
}

// recycle empties a frame. Every dumper keeps one, so that each can go on.
func (f *frames) recycle(done *frame) {
	done.data, done.err = done.data[:0], nil
	if f.in == nil {
		f.in = done
		return
	}
	f.exchange.giveBack(done)
}

// compress compresses a frame, this dumper's or another's.
func (f *frames) compress(one *frame) {
	if f.out == nil {
		f.out = newBuffer()
	}
	data, err := f.zstd.CompressLevel(f.out, one.data, f.level)
	if err != nil {
		one.err = fmt.Errorf("compress: %w", err)
	} else {
		one.data, f.out = data, one.data[:0]
	}
	one.done <- struct{}{}
}
