package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Nix makes nix-cache-info where it is missing, and so takes the rest for a cache.
func TestCacheThatHasLostItsInfoIsFound(t *testing.T) {
	s := newSite(t)
	s.publish(t, "entry", nil)
	s.isFine(t, checkCache)
	must(t, os.Remove(filepath.Join(s.Cache, "nix-cache-info")))
	s.cures(t, checkCache, s.finds(t, checkCache, Warning, "has no nix-cache-info"))
}

// A directory of larder's that is a link may be anywhere: nothing is tried there.
func TestLinkInPlaceOfADirectoryIsFound(t *testing.T) {
	for _, name := range []string{".larder", ".larder/tmp", ".larder/runs"} {
		s := newSite(t)
		outside := t.TempDir()
		must(t, os.Mkdir(filepath.Join(outside, "tmp"), 0o755))
		must(t, os.RemoveAll(filepath.Join(s.Cache, name)))
		must(t, os.Symlink(outside, filepath.Join(s.Cache, name)))
		before, err := os.Stat(outside)
		must(t, err)
		f := s.finds(t, checkDisks, Problem, name+" is a link")
		after, err := os.Stat(outside)
		must(t, err)
		if !before.ModTime().Equal(after.ModTime()) {
			t.Errorf("%s: something was tried outside the cache", name)
		}
		s.cures(t, checkDisks, f)
	}
}

// What leads out of the cache is not read, and can't be made while it is there.
func TestLinkInPlaceOfWhatReadersNeedIsFound(t *testing.T) {
	s := newSite(t)
	name := filepath.Join(s.Cache, "log")
	must(t, os.RemoveAll(name))
	must(t, os.Symlink(t.TempDir(), name))
	s.cures(t, checkCache, s.finds(t, checkCache, Problem, "lost its log; log is a file, or a link"))
}

// A narinfo can say what does something to a terminal.
func TestControlCharactersAreNotPrinted(t *testing.T) {
	s := newSite(t)
	n := s.publish(t, "entry", nil)
	file := filepath.Join(s.Cache, filepath.Base(n.StorePath)[:32]+".narinfo")
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), "URL: ", "URL: \x1b[31m", 1)), 0o644))
	s.Nix = nil
	if f := s.finds(t, checkCache, Warning, filepath.Base(file)); strings.Contains(f.What, "\x1b") {
		t.Errorf("it says %q", f.What)
	}
}

func TestLockThatIsNoFileIsFound(t *testing.T) {
	s := newSite(t)
	lock := filepath.Join(s.Cache, ".larder/lock")
	must(t, os.Remove(lock))
	must(t, unix.Mkfifo(lock, 0o644))
	s.cures(t, checkDisks, s.finds(t, checkDisks, Problem, lock+" is no file"))
}

func TestWhatIsNoFileIsNamed(t *testing.T) {
	s := newSite(t)
	n := s.publish(t, "entry", nil)
	file := filepath.Join(s.Cache, filepath.Base(n.StorePath)[:32]+".narinfo")
	must(t, os.Remove(file))
	must(t, unix.Mkfifo(file, 0o644))
	s.Nix = nil // or it is a problem
	s.finds(t, checkCache, Warning, filepath.Base(file)+": entry is damaged: it is not a regular file")
	must(t, os.RemoveAll(filepath.Join(s.Cache, "nix-cache-info")))
	must(t, unix.Mkfifo(filepath.Join(s.Cache, "nix-cache-info"), 0o644))
	s.finds(t, checkCache, Problem, "nix-cache-info of "+s.Cache+": it is not a regular file")
}
