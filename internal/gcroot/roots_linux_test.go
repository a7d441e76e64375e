package gcroot

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/trouble"
)

// TestRootsAreLinksBesideAnotherUsersFiles has a directory that the user may not write.
func TestRootsAreLinksBesideAnotherUsersFiles(t *testing.T) {
	trouble.NeedRoot(t)
	state := trouble.PublicDir(t)
	d, err := Make(state, us())
	must(t, err)
	must(t, os.Chmod(state, 0o777))
	links := OpenLinks(filepath.Join(state, "links"))

	// This thread does to files what nobody may do, until it is root's again.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, err = unix.SetfsuidRetUid(nobody)
	must(t, err)
	// Nix has no such store, and what it says is no matter here.
	_ = Join(d, links).Protect(t.Context(), path("x"))
	_, err = unix.SetfsuidRetUid(0)
	must(t, err)

	if _, err := os.Stat(links.dir); err != nil {
		t.Errorf("links were not tried: %v", err)
	}
	wantRoots(t, d)
}
