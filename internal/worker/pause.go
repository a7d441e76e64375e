package worker

import (
	"fmt"
	"time"
)

// pauseFor keeps the worker from claiming for a while, each time for longer.
func (w *worker) pauseFor(cause error) {
	if w.pauseUpTo(maxPause, cause) {
		w.Log.Warn("pausing", "for", w.pause, "err", cause)
	}
}

// pauseForRoom is pauseFor while the cache's file system has too little free space. That
// may last for days, and is said once.
func (w *worker) pauseForRoom(cause error) {
	if !w.pauseUpTo(roomPause, cause) {
		return
	}
	if time.Since(w.saidFull) > saidFor {
		w.Log.Warn("pausing until there is room in the cache", "err", cause)
	}
	w.saidFull = time.Now()
}

// pauseUpTo begins a pause, and tells whether there was none.
func (w *worker) pauseUpTo(longest time.Duration, cause error) bool {
	if time.Now().Before(w.paused) {
		return false // of several jobs that failed for one reason only the first counts
	}
	if w.Patience > 0 {
		longest = 2 * w.Patience // whoever waits for the end waits for this
	}
	w.pause = min(max(firstPause, 2*w.pause), longest)
	w.paused = time.Now().Add(w.pause)
	w.cause = cause
	return true
}

// roomy tells whether there is room for another job, and pauses if not: no job is tried in
// vain.
func (w *worker) roomy() bool {
	if w.Room == nil {
		return true
	}
	if err := w.Room(); err != nil {
		w.full = true
		w.pauseForRoom(fmt.Errorf("%w: %w", ErrNoRoom, err))
		return false
	}
	if w.full {
		w.full, w.pause, w.saidFull = false, 0, time.Time{}
		w.Log.Info("there is room in the cache again")
	}
	return true
}
