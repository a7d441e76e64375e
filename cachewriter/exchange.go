package cachewriter

import (
	"slices"
	"sync"
)

// A helper has one frame in hand and up to leftForEach before it: who leaves them may be
// compressing one itself when the helper wants the next. There are as many spare frames as
// that takes, and some more, since what is done has to wait for what is before it. But
// a dumper reads and hashes no faster than three others compress.
const (
	leftForEach = 2
	spareEach   = 5
	maxSpare    = 16
)

// A frameExchange is where dumpers leave frames for those that have nothing to dump:
// the helpers.
type frameExchange struct {
	changed *sync.Cond // its Locker guards what is below
	helpers int        // who wait for something to do, or compress a frame
	left    []*frame   // for them: at most leftForEach, beside those that they have
	spare   []*frame   // empty
	unmade  int        // how many spare frames there may still be
}

func newFrameExchange(changed *sync.Cond, dumpers int) *frameExchange {
	return &frameExchange{changed: changed, unmade: min(spareEach*(dumpers-1), maxSpare)}
}

// leave leaves a frame for a helper, and returns an empty one for it. It returns nil
// if helpers have enough to do.
func (x *frameExchange) leave(f *frame) *frame {
	x.changed.L.Lock()
	defer x.changed.L.Unlock()
	if len(x.left) >= leftForEach*x.helpers {
		return nil
	}
	next := x.takeSpare()
	if next != nil {
		x.left = append(x.left, f)
		x.changed.Broadcast()
	}
	return next
}

// take returns the frame that was left first, or nil. The lock is held.
func (x *frameExchange) take() *frame {
	if len(x.left) == 0 {
		return nil
	}
	f := x.left[0]
	x.left = x.left[1:]
	return f
}

// withdraw tells whether a frame is not left for anybody any more, and nobody has it.
func (x *frameExchange) withdraw(f *frame) bool {
	x.changed.L.Lock()
	defer x.changed.L.Unlock()
	i := slices.Index(x.left, f)
	if i < 0 {
		return false
	}
	x.left = slices.Delete(x.left, i, i+1)
	return true
}

// spareFrame returns an empty frame, or nil.
func (x *frameExchange) spareFrame() *frame {
	x.changed.L.Lock()
	defer x.changed.L.Unlock()
	return x.takeSpare()
}

// takeSpare is spareFrame with the lock held.
func (x *frameExchange) takeSpare() *frame {
	if n := len(x.spare); n > 0 {
		f := x.spare[n-1]
		x.spare = x.spare[:n-1]
		return f
	}
	if x.unmade == 0 {
		return nil
	}
	x.unmade--
	return newFrame()
}

// giveBack takes an empty frame.
func (x *frameExchange) giveBack(f *frame) {
	x.changed.L.Lock()
	defer x.changed.L.Unlock()
	x.spare = append(x.spare, f)
}
