package bincache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/trouble"
)

// smallCache is a cache on a disk of 8 MiB, and what takes some of it.
func smallCache(t *testing.T) (c *Cache, fill func(bytes int), empty func()) {
	t.Helper()
	disk := trouble.Tmpfs(t, "8m")
	c = create1(t, filepath.Join(disk, "cache"), Options{})
	filler := filepath.Join(disk, "filler")
	return c, func(bytes int) {
			t.Helper()
			must(t, os.WriteFile(filler, make([]byte, bytes), 0o644))
		}, func() {
			t.Helper()
			must(t, os.Remove(filler))
		}
}

// writeInto writes a file of a cache, in pieces, until it can't be.
func writeInto(t *testing.T, c *Cache, bytes int) (*HashedTemp, error) {
	t.Helper()
	f, err := c.CreateTemp()
	must(t, err)
	t.Cleanup(f.Discard)
	h := NewHashedTemp(f, "none")
	for piece := make([]byte, 64<<10); h.Size < int64(bytes) && err == nil; {
		_, err = h.Write(piece)
	}
	if err != h.Err {
		t.Errorf("error is kept as %v, is %v", h.Err, err)
	}
	return h, err
}

func free(t *testing.T, c *Cache) int64 {
	t.Helper()
	n, known, err := FreeSpace(c.Path())
	must(t, err)
	if !known {
		t.Fatal("nobody knows how much is free")
	}
	return n
}

func TestReserveStaysFree(t *testing.T) {
	c, fill, empty := smallCache(t)
	const reserve = 4 << 20
	c.Reserve(reserve)
	must(t, c.CheckRoom(0))
	must(t, c.CheckRoom(3<<20))
	if err := c.CheckRoom(5 << 20); !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), "of which 4.0 MiB are to stay free, and it takes at least 5.0 MiB") {
		t.Errorf("room for 5 MiB: %v", err)
	}
	h, err := writeInto(t, c, 6<<20)
	if !errors.Is(err, ErrNoRoom) || !IsFull(err) || errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if n := free(t, c); n < reserve || n > reserve+128<<10 {
		t.Errorf("%d bytes are free, want little more than %d", n, reserve)
	}
	if h.Needs != h.Size+64<<10 {
		t.Errorf("needs %d, has written %d", h.Needs, h.Size)
	}
	h.Temp.Discard()
	if err := c.CheckRoom(h.Needs); !errors.Is(err, ErrNoRoom) {
		t.Errorf("again without more room: %v", err)
	}
	must(t, c.CheckRoom(0))
	// Somebody else fills the disk, and makes room.
	fill(5 << 20)
	c.room.asked = time.Time{} // a moment ago
	if err := c.CheckRoom(0); !errors.Is(err, ErrNoRoom) || !strings.HasSuffix(err.Error(), "2.9 MiB are left on the cache's disk, of which 4.0 MiB are to stay free") && !strings.HasSuffix(err.Error(), "3.0 MiB are left on the cache's disk, of which 4.0 MiB are to stay free") {
		t.Errorf("on a disk that is fuller: %v", err)
	}
	empty()
	must(t, c.CheckRoom(0))
	_, err = writeInto(t, c, 1<<20)
	must(t, err)
}

func TestWithoutAReserveTheFileSystemDecides(t *testing.T) {
	c, fill, _ := smallCache(t)
	fill(6 << 20)
	h, err := writeInto(t, c, 4<<20)
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrNoRoom) || !IsFull(err) {
		t.Errorf("write: %v", err)
	}
	must(t, c.CheckRoom(0))
	h.Temp.Discard()
	if err := c.CheckRoom(h.Needs); !errors.Is(err, ErrNoRoom) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("room for what could not be written: %v", err)
	}
	must(t, c.CheckRoom(h.Needs/2))
}

func TestFullIsAlsoWhatAQuotaSays(t *testing.T) {
	for err, full := range map[error]bool{
		nil: false, ErrNoRoom: true, ErrDamaged: false, syscall.EIO: false,
		&os.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}: true,
		fmt.Errorf("copy: %w", syscall.ENOSPC):                     true,
	} {
		if IsFull(err) != full {
			t.Errorf("IsFull(%v) is %v", err, !full)
		}
	}
}

// TestRoomAsksSeldom has many small files come, beside plenty of room.
func TestRoomAsksSeldom(t *testing.T) {
	c := newCache(t)
	c.Reserve(1)
	r := &c.room
	must(t, c.takeRoom(1))
	asked := r.asked
	for range 1000 {
		must(t, c.takeRoom(100))
	}
	// It may be a slow machine.
	if r.spent != 1+1000*100 && r.asked.Equal(asked) {
		t.Errorf("%d bytes are counted, want %d", r.spent, 1+1000*100)
	}
	if n := r.asked.Sub(asked) / roomFor; n > 1000/2 {
		t.Errorf("asked at least %d times", n)
	}
	// What is there is soon used up: it asks before.
	r.free, r.reserve = 10<<20, 1<<20
	r.spent = 9 << 20 / 4
	before := r.asked
	must(t, c.takeRoom(1))
	if r.asked.Equal(before) || r.spent != 1 {
		t.Error("did not ask although a quarter of the room was used")
	}
}

func TestFreeSpaceOfNothing(t *testing.T) {
	if _, known, err := FreeSpace(filepath.Join(t.TempDir(), "nothing")); known || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("known: %v, %v", known, err)
	}
	// /proc has no blocks.
	var s unix.Statfs_t
	if unix.Statfs("/proc", &s) != nil || s.Blocks > 0 {
		t.Skip("/proc has blocks")
	}
	if _, known, err := FreeSpace("/proc"); known || err != nil {
		t.Errorf("/proc: known: %v, %v", known, err)
	}
}
