package compress

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
	maxSpare    = 16 * usualFrame // bytes: larger frames are fewer
)

// An Exchange is where those who compress by the same method leave frames for those that
// have nothing to do: the helpers.
type Exchange struct {
	method  Method
	size    int        // of a frame
	changed *sync.Cond // its Locker guards what is below
	helpers int        // who wait for something to do, or compress a frame
	left    []*Frame   // for them: at most leftForEach, beside those that they have
	spare   []*Frame   // empty
	unmade  int        // how many spare frames there may still be
}

// NewExchange returns an exchange of so many writers. changed is told when a frame is
// left.
func NewExchange(m Method, changed *sync.Cond, writers int) *Exchange {
	size := m.frameSize()
	return &Exchange{method: m, size: size, changed: changed, unmade: min(spareEach*(writers-1), maxSpare/size)}
}

// Help says that somebody waits for something to do. The lock is held.
func (x *Exchange) Help() { x.helpers++ }

// StopHelping takes back Help. The lock is held.
func (x *Exchange) StopHelping() { x.helpers-- }

// Spare returns how many frames were made for helpers, and are empty. The lock is held.
func (x *Exchange) Spare() int { return len(x.spare) }

// leave leaves a frame for a helper, and returns an empty one for it. It returns nil
// if helpers have enough to do.
func (x *Exchange) leave(f *Frame) *Frame {
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

// Take returns the frame that was left first, or nil. The lock is held.
func (x *Exchange) Take() *Frame {
	if len(x.left) == 0 {
		return nil
	}
	f := x.left[0]
	x.left = x.left[1:]
	return f
}

// withdraw tells whether a frame is not left for anybody any more, and nobody has it.
func (x *Exchange) withdraw(f *Frame) bool {
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
func (x *Exchange) spareFrame() *Frame {
	x.changed.L.Lock()
	defer x.changed.L.Unlock()
	return x.takeSpare()
}

// takeSpare is spareFrame with the lock held.
func (x *Exchange) takeSpare() *Frame {
	if n := len(x.spare); n > 0 {
		f := x.spare[n-1]
		x.spare = x.spare[:n-1]
		return f
	}
	if x.unmade == 0 {
		return nil
	}
	x.unmade--
	return x.newFrame()
}

// giveBack takes an empty frame.
func (x *Exchange) giveBack(f *Frame) {
	x.changed.L.Lock()
	defer x.changed.L.Unlock()
	x.spare = append(x.spare, f)
}
