package bincache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
)

// ErrNoRoom says that something is not written because the cache's file system has too
// little free space for it.
var ErrNoRoom = errors.New("too little free space")

// unknownSpace is what file systems seem to have that do not tell.
const unknownSpace = 1 << 62

// FreeSpace returns how many bytes a user who is not root may still write to the file
// system of a directory. Some network file systems can't tell.
func FreeSpace(dir string) (free int64, known bool, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, false, fmt.Errorf("look for free space: %w", err)
	}
	defer f.Close()
	free, err = freeSpace(f)
	return free, err == nil && free < unknownSpace, err
}

// How long a room relies on what it has found: others write, too.
const roomFor = 250 * time.Millisecond

// A room is what may be added to a cache: its file system is to keep a reserve.
//
// The file system is asked now and then, and not for every small file: a few times a
// second at most, as long as there is much more room than was written since.
type room struct {
	reserve int64

	mu    sync.Mutex // guards what is below
	asked time.Time
	free  int64 // when it was asked
	spent int64 // written since, through this Cache
}

// Reserve has what is added to the cache from now on leave so many bytes of its file system
// free: NARs, realisations, what is taken from other caches, and signatures. What would leave
// less is not written, with an error that wraps [ErrNoRoom]. Without a reserve (0) there is
// room until the file system says otherwise. It is called before others use the cache.
//
// The rest of an entry whose NAR is written, and what is noted for others, such as records,
// pins, and what goes, is written all the same: or nobody could make room.
func (c *Cache) Reserve(bytes int64) { c.room.reserve = bytes }

// CheckRoom returns an error, which wraps [ErrNoRoom], if what is going to be written, and
// takes need bytes as far as is known, would leave less than the reserve, or if less is left
// already.
func (c *Cache) CheckRoom(need int64) error {
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	return c.checkRoom(need)
}

// takeRoom is CheckRoom for what is being written.
func (c *Cache) takeRoom(need int64) error {
	if c.room.reserve == 0 {
		return nil // the file system says so itself
	}
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	err := c.checkRoom(need)
	if err == nil {
		c.room.spent += need
	}
	return err
}

// checkRoom is CheckRoom, with the mutex held.
func (c *Cache) checkRoom(need int64) error {
	r := &c.room
	if r.reserve == 0 && need == 0 {
		return nil
	}
	if room := r.free - r.reserve; time.Since(r.asked) < roomFor && need+r.spent < room/4 {
		return nil
	}
	dir, err := c.dir(tmpDir)
	if err != nil {
		return err
	}
	if r.free, err = freeSpace(dir); err != nil {
		return err
	}
	r.asked, r.spent = time.Now(), 0
	if r.free-r.reserve >= need {
		return nil
	}
	return r.lacking(need)
}

// lacking says what is wrong when need bytes can't be written.
func (r *room) lacking(need int64) error {
	text := RoomText(r.free, r.reserve)
	if r.free > r.reserve {
		text += fmt.Sprintf(", and it takes at least %s", humanize.IBytes(uint64(need)))
	}
	if r.reserve == 0 {
		return fmt.Errorf("%w: %s: %w", ErrNoRoom, text, syscall.ENOSPC)
	}
	return fmt.Errorf("%w: %s", ErrNoRoom, text)
}

// RoomText tells how much of a cache's disk is free, and is to stay so.
func RoomText(free, reserve int64) string {
	text := fmt.Sprintf("%s are left on the cache's disk", humanize.IBytes(uint64(free)))
	if reserve > 0 {
		text += fmt.Sprintf(", of which %s are to stay free", humanize.IBytes(uint64(reserve)))
	}
	return text
}

// IsFull tells whether an error says that there is no space for what was to be written, be
// it the file system's, the user's, or what is left above the reserve.
func IsFull(err error) bool {
	return errors.Is(err, ErrNoRoom) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// blockSize is what a small file takes, on most file systems.
const blockSize = 4 << 10

// TempAdded is TempText for what is added to the cache, or replaced by more, and heeds its
// reserve.
func (c *Cache) TempAdded(text []byte) (*Temp, error) {
	if err := c.takeRoom(max(int64(len(text)), blockSize)); err != nil {
		return nil, err
	}
	return c.TempText(text)
}

// An added writes into an unfinished file what is added to the cache. It is no [os.File],
// or io.Copy would go around it.
type added struct{ t *Temp }

// Added returns who writes into the file, and heeds the cache's reserve.
func (t *Temp) Added() io.Writer { return added{t} }

func (a added) Write(b []byte) (int, error) {
	if err := a.t.cache.takeRoom(int64(len(b))); err != nil {
		return 0, err
	}
	return a.t.Write(b)
}
