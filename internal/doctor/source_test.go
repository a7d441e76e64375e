package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// inTree puts the cache into a source tree, made by a shell script in its top directory.
func inTree(t *testing.T, script string) (s *site, top string) {
	t.Helper()
	s = newSite(t)
	top = filepath.Join(s.dir, "tree")
	must(t, os.Mkdir(top, 0o755))
	s.Cache = filepath.Join(top, "sub", "cache")
	cache, err := bincache.Create(s.Cache, s.Dirs.Store, bincache.Options{})
	must(t, err)
	must(t, cache.Close())
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = top
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s, top
}

func needGit(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
}

func TestCacheInAFlakeWithoutGitIsFound(t *testing.T) {
	s, top := inTree(t, "touch flake.nix")
	f := s.finds(t, checkSource, Problem, "is in the flake "+top)
	if !strings.Contains(f.Advice, "outside") {
		t.Errorf("advice is %q", f.Advice)
	}
	// A link is copied as a link.
	outside := filepath.Join(s.dir, "outside")
	must(t, os.Rename(s.Cache, outside))
	must(t, os.Symlink(outside, s.Cache))
	s.isFine(t, checkSource)
	// And one that is not there yet will be there.
	s.Cache = filepath.Join(top, "new", "cache")
	s.finds(t, checkSource, Problem, "is in the flake "+top)
	s.Cache = filepath.Join(s.dir, "new", "cache")
	s.isFine(t, checkSource)
}

func TestCacheThatGitTracksIsFound(t *testing.T) {
	needGit(t)
	s, _ := inTree(t, "git init -q; touch flake.nix; git add -f flake.nix sub")
	f := s.finds(t, checkSource, Problem, "git tracks the cache")
	s.do(t, f)
	s.finds(t, checkSource, Warning, "is in the source tree") // for those who use path:
}

// As one that nix copy has made.
func TestCacheThatGitDoesNotIgnoreIsFound(t *testing.T) {
	needGit(t)
	s, _ := inTree(t, "git init -q; rm sub/cache/.gitignore")
	f := s.finds(t, checkSource, Warning, "git does not ignore it")
	s.do(t, f)
	f = s.finds(t, checkSource, Warning, "is in the source tree")
	if strings.Contains(f.What, "ignore") || !strings.Contains(f.Why, "path:") {
		t.Errorf("still found %s", show([]Finding{f}))
	}
}

func TestQueueThatGitTracksIsFound(t *testing.T) {
	needGit(t)
	s, top := inTree(t, "git init -q; git add flake.nix 2>/dev/null || true")
	s.Cache = filepath.Join(s.dir, "cache")
	s.Queue.File = filepath.Join(top, "queue.db")
	must(t, os.WriteFile(s.Queue.File, nil, 0o644))
	f := s.finds(t, checkSource, Warning, "git does not ignore it")
	if out, err := exec.Command("git", "-C", top, "add", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.do(t, s.finds(t, checkSource, Problem, "git tracks the queue"))
	f = s.finds(t, checkSource, Warning, "is in the source tree")
	if strings.Contains(f.What, "ignore") {
		t.Errorf("still found %s", show([]Finding{f}))
	}
}

func TestGitThatCantBeAskedIsToldOf(t *testing.T) {
	s, _ := inTree(t, "mkdir .git") // not a repository
	s.finds(t, checkSource, Warning, "is in the source tree")
	if f := s.of(t, checkSource, "source tree"); !strings.Contains(f.Why, "git can't be asked") {
		t.Errorf("why is %q", f.Why)
	}
}
