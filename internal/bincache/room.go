package bincache

import (
	"errors"
	"fmt"
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

// How long a Room relies on what it has found: others write, too.
const roomFor = 250 * time.Millisecond

// A Room is what may be written to a cache: its file system is to keep a reserve. Its
// methods are safe for use by several goroutines.
//
// The file system is asked now and then, and not for every small file: a few times a
// second at most, as long as there is much more room than was written since.
type Room struct {
	cache   *Cache
	reserve int64

	mu    sync.Mutex // guards what is below
	asked time.Time
	free  int64 // when it was asked
	spent int64 // written since, by those who use this Room
}

// Room returns the room for writing to the cache, so that its file system keeps a reserve
// of free space. Without one (0) there is room until the file system says otherwise.
func (c *Cache) Room(reserve int64) *Room { return &Room{cache: c, reserve: reserve} }

// Check returns an error, which wraps [ErrNoRoom], if what is going to be written, and takes
// need bytes as far as is known, would leave less than the reserve, or if less is left
// already.
func (r *Room) Check(need int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.check(need)
}

// take is Check for what is being written.
func (r *Room) take(need int64) error {
	if r.reserve == 0 {
		return nil // the file system says so itself
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.check(need)
	if err == nil {
		r.spent += need
	}
	return err
}

// check is Check, with the mutex held.
func (r *Room) check(need int64) error {
	if r.reserve == 0 && need == 0 {
		return nil
	}
	if room := r.free - r.reserve; time.Since(r.asked) < roomFor && need+r.spent < room/4 {
		return nil
	}
	dir, err := r.cache.dir(tmpDir)
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
func (r *Room) lacking(need int64) error {
	text := fmt.Sprintf("%s are left on the cache's disk", humanize.IBytes(uint64(r.free)))
	if r.reserve > 0 {
		text += fmt.Sprintf(", of which %s are to stay free", humanize.IBytes(uint64(r.reserve)))
	}
	if r.free > r.reserve {
		text += fmt.Sprintf(", and it takes at least %s", humanize.IBytes(uint64(need)))
	}
	if r.reserve == 0 {
		return fmt.Errorf("%w: %s: %w", ErrNoRoom, text, syscall.ENOSPC)
	}
	return fmt.Errorf("%w: %s", ErrNoRoom, text)
}

// IsFull tells whether an error says that there is no space for what was to be written, be
// it the file system's, the user's, or what is left above the reserve.
func IsFull(err error) bool {
	return errors.Is(err, ErrNoRoom) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
