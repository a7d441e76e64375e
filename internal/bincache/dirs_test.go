package bincache

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNothingGetsIntoADirectoryThatWasReplaced has somebody put other directories into
// a cache that is open, and has been written to.
func TestNothingGetsIntoADirectoryThatWasReplaced(t *testing.T) {
	for _, name := range []string{"nar", tmpDir} {
		for how, replace := range map[string]func(dir, away string) error{
			"renamed": func(dir, away string) error { return os.Rename(dir, away) },
			"deleted": func(dir, _ string) error { return os.RemoveAll(dir) },
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				c := newCache(t)
				must(t, temp(t, c, "first").Publish("nar/first"))
				dir, away := filepath.Join(c.Path(), name), filepath.Join(t.TempDir(), "away")
				must(t, replace(dir, away))
				must(t, os.Mkdir(dir, 0o755))
				before := len(snapshot(t, filepath.Dir(away)))

				second := temp(t, c, "second")
				if left := unfinished(t, c); len(left) != 1 {
					t.Errorf("unfinished files are %q, want one", left)
				}
				must(t, second.Publish("nar/second"))
				must(t, c.SyncDir("nar"))
				if _, err := os.Stat(filepath.Join(c.Path(), "nar/second")); err != nil {
					t.Error(err)
				}
				if n := len(snapshot(t, filepath.Dir(away))); n != before {
					t.Errorf("%d files are where the directory was moved to, want %d", n, before)
				}
			})
		}
	}
}

// TestDirectoryThatIsMovedOutIsNotFollowed leaves a link to it where it was.
func TestDirectoryThatIsMovedOutIsNotFollowed(t *testing.T) {
	c := newCache(t)
	must(t, temp(t, c, "first").Publish("nar/first"))
	away := filepath.Join(t.TempDir(), "away")
	must(t, os.Rename(filepath.Join(c.Path(), "nar"), away))
	must(t, os.Symlink(away, filepath.Join(c.Path(), "nar")))
	second := temp(t, c, "second")
	defer second.Discard()
	if err := second.Publish("nar/second"); err == nil {
		t.Error("published through a link that leads out of the cache")
	}
	if _, err := os.Stat(filepath.Join(away, "second")); err == nil {
		t.Error("a file was written outside")
	}
}

// TestLinkInsideTheCacheWillDo publishes through one, which os.Root follows.
func TestLinkInsideTheCacheWillDo(t *testing.T) {
	c := newCache(t)
	must(t, os.Rename(filepath.Join(c.Path(), "nar"), filepath.Join(c.Path(), "nars")))
	must(t, os.Symlink("nars", filepath.Join(c.Path(), "nar")))
	for _, name := range []string{"first", "second", "third"} {
		must(t, temp(t, c, name).Publish("nar/"+name))
		if _, err := os.Stat(filepath.Join(c.Path(), "nars", name)); err != nil {
			t.Error(err)
		}
	}
	if n := len(c.held.old); n != 0 {
		t.Errorf("%d directories are held for no use", n)
	}
}
