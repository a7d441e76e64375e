package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestFullDiskIsNoFailure(t *testing.T) {
	t.Run("of the queue", func(t *testing.T) {
		s := newSite(t)
		mount(t, filepath.Dir(s.File), "size=256k")
		must(t, s.Open(t).Close())
		free := fill(t, s.File+".filler")
		hooktest.WantSays(t, s.run(t), "no space left on device")
		s.WantRoots(t, s.Path("a"))

		// Nothing is broken, and when there is space again it works.
		free()
		s.WantRows(t)
		hooktest.WantSays(t, s.run(t), "")
		s.WantRows(t, s.Path("a"))
	})
	// The log is there, and has no room to grow.
	t.Run("of the queue in use", func(t *testing.T) {
		s := newSite(t)
		mount(t, filepath.Dir(s.File), "size=256k")
		q := s.Open(t)
		must(t, q.Add(t.Context(), "", s.Path("b")))
		free := fill(t, s.File+".filler")
		for i := range 50 { // a page has room for some
			s.env["OUT_PATHS"] += " " + s.Path(strings.Repeat("x", 150)+string(rune('0'+i)))
		}
		said := s.run(t)
		if !strings.Contains(said, "disk is full") && !strings.Contains(said, "no space left") {
			t.Errorf("hook says %q, want that the disk is full", said)
		}
		free()
		s.WantRows(t, s.Path("b"))
	})
	t.Run("of the roots", func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		mount(t, s.State, "size=16k,nr_inodes=3")
		hooktest.WantSays(t, s.run(t), "no space left on device")
		s.WantRows(t, s.Path("a"))
	})
}

func TestReadOnlyDiskIsNoFailure(t *testing.T) {
	s := newSite(t)
	mount(t, filepath.Dir(s.File), "size=256k")
	must(t, s.Open(t).Close())
	must(t, syscall.Mount("", filepath.Dir(s.File), "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	hooktest.WantSays(t, s.run(t), "open queue ")
	s.WantRoots(t, s.Path("a"))
}

// mount makes a small file system for the time of a test.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	trouble.NeedRoot(t)
	must(t, os.MkdirAll(dir, 0o755))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,"+options); err != nil {
		t.Skipf("can't mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill leaves no space on a file's disk, until free is called.
func fill(t *testing.T, file string) (free func()) {
	t.Helper()
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+file, "bs=4096").CombinedOutput(); err == nil {
		t.Fatalf("the disk takes everything: %s", out)
	}
	return func() { must(t, os.Remove(file)) }
}
