// Package bell tells that a database may have changed: SQLite's files are watched
// for it, ours and Nix's.
//
// It is a reason to look and nothing more. Events may be late, merged, or lost,
// and where the system has none to give, the bell never rings: whoever listens
// looks from time to time without being woken.
//
// Only on Linux does it ring. Elsewhere fsnotify has to open the files of a directory
// that it watches, and closes them again: then the system drops all locks that this
// process has on them, SQLite's too (sqlite.org/howtocorrupt.html, 2.2).
package bell

import (
	"log/slog"
	"path/filepath"
	"runtime"

	"github.com/fsnotify/fsnotify"
)

// Listen returns a channel that has something in it after the SQLite database in
// file was written to. Any number of changes are one. stop must be called.
func Listen(file string, log *slog.Logger) (rings <-chan struct{}, stop func()) {
	bell := make(chan struct{}, 1)
	if runtime.GOOS != "linux" {
		return bell, func() {}
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		// The directory, since a database's log comes and goes.
		err = w.Add(filepath.Dir(file))
	}
	if err != nil {
		// Many programs share a user's inotify instances; without one the clock has
		// to do.
		log.Warn("not woken by changes, only by the clock", "file", file, "err", err)
		if w != nil {
			w.Close()
		}
		return bell, func() {}
	}
	ring := func() {
		select {
		case bell <- struct{}{}:
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
				// What is new is in the log first, or in the file where there is no log.
				if e.Has(fsnotify.Write) && (e.Name == file || e.Name == file+"-wal") {
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
	return bell, func() { w.Close() }
}
