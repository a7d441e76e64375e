package queue

import (
	"database/sql"
	"os"
	"sync"
)

const (
	// The WAL is copied back into the database when it has this many bytes, so that
	// hooks need not.
	enoughWAL = 64 << 10

	// With this many pages of the WAL a transaction does that itself: if many follow each
	// other without a pause, the WAL never is all copied, and only then can it begin anew.
	muchWAL = 2000
)

// A checkpointer copies the WAL back into the database, beside transactions: they do
// not wait for the disk, it does. It has a connection of its own for that.
type checkpointer struct {
	file string
	look chan struct{} // has room for one: to look once more is to look
	quit chan struct{}
	stop func() // returns when nothing goes on any more
}

func startCheckpointer(file string) *checkpointer {
	c := &checkpointer{file: file, look: make(chan struct{}, 1), quit: make(chan struct{})}
	var running sync.WaitGroup
	running.Go(c.run)
	c.stop = sync.OnceFunc(func() {
		close(c.quit)
		running.Wait()
	})
	return c
}

// written tells that a transaction has written to the WAL.
func (c *checkpointer) written() {
	select {
	case c.look <- struct{}{}:
	default:
	}
}

func (c *checkpointer) run() {
	var db *sql.DB
	defer func() {
		if db != nil {
			db.Close()
		}
	}()
	for {
		select {
		case <-c.quit:
			return
		case <-c.look:
		}
		info, err := os.Stat(c.file + "-wal")
		if err != nil || info.Size() < enoughWAL {
			continue // (ignored) no file is no large file
		}
		if db == nil {
			if db, err = connect(c.file, "rw", 0); err != nil {
				db = nil
				continue // (ignored) transactions do it then, when there is much
			}
		}
		// What it can't do now it does the next time (ignored). It waits for nobody.
		_, _ = db.Exec("pragma wal_checkpoint(passive)")
	}
}
