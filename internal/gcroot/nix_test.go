package gcroot

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestNixKeepsWhatHasARoot(t *testing.T) {
	store := nixtest.New(t)
	kept, lost := store.Add(t, "kept", "one"), store.Add(t, "lost", "two")
	d, err := Make(store.State, us())
	must(t, err)
	must(t, d.Add(kept))

	store.Run(t, "nix-store", "--gc")
	wantInStore(t, kept, true)
	wantInStore(t, lost, false)

	must(t, d.Remove(kept))
	store.Run(t, "nix-store", "--gc")
	wantInStore(t, kept, false)
	wantInStore(t, d.path, true) // Nix leaves what is ours alone
}

func TestNixIsNotDisturbedByWhatLiesBesideRoots(t *testing.T) {
	store := nixtest.New(t)
	kept := store.Add(t, "kept", "one")
	d, err := Make(store.State, us())
	must(t, err)
	must(t, d.Add(kept))
	must(t, d.Add(filepath.Join(store.Dir, "00000000000000000000000000000000-never-was")))
	// What a hook leaves that is killed while it makes the directory.
	must(t, os.Mkdir(filepath.Join(base(store.State), "new-1234"), 0o700))
	must(t, os.WriteFile(filepath.Join(base(store.State), "new-1234", nameFile), []byte("/que"), 0o600))
	must(t, os.Symlink("/nowhere", filepath.Join(d.path, "link")))

	store.Run(t, "nix-store", "--gc")
	wantInStore(t, kept, true)
	roots := store.Lines(t, "nix-store", "--query", "--roots", kept)
	if len(roots) == 0 || roots[0] != d.file(kept) {
		t.Errorf("Nix says that %q keep the path, want %s", roots, d.file(kept))
	}
}

// A user's directory below root's gcroots has valid roots, though its owner may
// close it to others.
func TestNixKeepsWhatAUserRoots(t *testing.T) {
	trouble.NeedRoot(t)
	store := nixtest.New(t)
	kept := store.Add(t, "kept", "one")
	owner := us()
	owner.UID, owner.GID = nobody, nobody
	d, err := Make(store.State, owner)
	must(t, err)
	must(t, d.Add(kept))
	must(t, os.Chmod(d.path, 0o700))
	store.Run(t, "nix-store", "--gc")
	wantInStore(t, kept, true)
}

func wantInStore(t *testing.T, path string, want bool) {
	t.Helper()
	if _, err := os.Lstat(path); (err == nil) != want {
		t.Errorf("%s is there: %v, want %v", path, err == nil, want)
	}
}
