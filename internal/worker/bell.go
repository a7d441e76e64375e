package worker

import (
	"log/slog"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// listen returns a channel that has something in it after the queue has changed.
// Any number of changes are one.
func listen(queueFile string, log *slog.Logger) (bell <-chan struct{}, stop func()) {
	rings := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(filepath.Dir(queueFile))
	}
	if err != nil {
		// Many programs share a user's inotify instances; without one the ticker
		// has to do.
		log.Warn("not woken by changes, only by the clock", "err", err)
		if w != nil {
			w.Close()
		}
		return rings, func() {}
	}
	ring := func() {
		select {
		case rings <- struct{}{}:
		default:
		}
	}
	go func() {
		for {
			select {
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				// What is added is first in SQLite's log.
				if e.Has(fsnotify.Write) && e.Name == queueFile+"-wal" {
					ring()
				}
			case _, ok := <-w.Errors:
				if !ok {
					return
				}
				ring() // events were lost: look
			}
		}
	}()
	return rings, func() { w.Close() }
}
