package cachewriter

import (
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

// onSmallDisk is a fixture whose cache is on a disk of 8 MiB, which grow makes larger.
func onSmallDisk(t *testing.T) (f *fixture, grow func()) {
	t.Helper()
	disk := trouble.Tmpfs(t, "8m")
	f = newFixtureAt(t, nixtest.New(t), filepath.Join(disk, "cache"))
	return f, func() {
		t.Helper()
		must(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	}
}

// random adds a file that can't be compressed.
func (f *fixture) random(t *testing.T, name string, size int) string {
	t.Helper()
	text := make([]byte, size)
	_, _ = rand.Read(text) // (ignored) it never fails
	return f.nix.Add(t, name, string(text))
}

func TestCacheLeavesTheReserveFree(t *testing.T) {
	for _, method := range []string{"none", "zstd"} {
		t.Run(method, func(t *testing.T) {
			f, grow := onSmallDisk(t)
			const reserve = 4 << 20
			var paths []string
			for i := range 8 {
				paths = append(paths, f.random(t, string(rune('a'+i)), 1<<20))
			}
			f.cache.Reserve(reserve)
			w := f.writer(t, Options{Compression: compress.Method{Name: method}})
			must(t, w.CheckRoom())
			for range 3 {
				var result Result
				for _, path := range paths {
					r, err := w.Copy(t.Context(), path)
					result = result.Plus(r)
					if err != nil && !errors.Is(err, bincache.ErrNoRoom) {
						t.Fatal(err)
					}
				}
				free, _, err := bincache.FreeSpace(f.dir)
				must(t, err)
				// Narinfos and directories are not counted before they are there.
				if free < reserve-64<<10 {
					t.Errorf("%d bytes are free, want %d", free, reserve)
				}
				f.check(t)
			}
			if n := len(entryFiles(t, f.dir)) / 2; n < 2 || n > 4 {
				t.Errorf("%d paths of 1 MiB are on a disk of 8 MiB, half of which is to stay free", n)
			}
			_, err := w.Copy(t.Context(), paths...)
			unavailable(t, err, bincache.ErrNoRoom)
			if errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the disk is said to be full: %v", err)
			}
			grow()
			must(t, w.CheckRoom())
			_, err = w.Copy(t.Context(), paths...)
			must(t, err)
			f.has(t, paths...)
			f.check(t)
		})
	}
}

// TestEntryThatDoesNotFitIsNotReadAgainAndAgain has one that a disk without a reserve has no
// room for, and small ones that it has.
func TestEntryThatDoesNotFitIsNotReadAgainAndAgain(t *testing.T) {
	f, grow := onSmallDisk(t)
	large, small := f.random(t, "large", 12<<20), f.random(t, "small", 1<<20)
	w := f.writer(t, Options{Compression: compress.Method{Name: "none"}})
	_, err := w.Copy(t.Context(), large)
	unavailable(t, err, syscall.ENOSPC)
	if errors.Is(err, bincache.ErrNoRoom) {
		t.Errorf("was not tried: %v", err)
	}
	for range 2 {
		_, err = w.Copy(t.Context(), large)
		unavailable(t, err, bincache.ErrNoRoom)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "it takes at least") {
			t.Errorf("error is %v", err)
		}
		f.copy(t, Options{Compression: compress.Method{Name: "none"}}, small)
	}
	grow()
	_, err = w.Copy(t.Context(), large)
	must(t, err)
	f.has(t, large, small)
	f.check(t)
	if len(w.needs) > 0 {
		t.Errorf("remembers %v", w.needs)
	}
}

// What is there needs no room.
func TestCopyOfWhatIsThereNeedsNoRoom(t *testing.T) {
	f, _ := onSmallDisk(t)
	path := f.random(t, "path", 1<<20)
	f.copy(t, Options{}, path)
	f.cache.Reserve(1 << 40)
	w := f.writer(t, Options{})
	if err := w.CheckRoom(); !errors.Is(err, ErrUnavailable) || !errors.Is(err, bincache.ErrNoRoom) {
		t.Errorf("room: %v", err)
	}
	_, err := w.Copy(t.Context(), path)
	must(t, err)
}
