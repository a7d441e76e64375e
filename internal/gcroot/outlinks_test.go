package gcroot

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/nixtest"
)

func TestOutLinksAreThoseThatWereMadeSince(t *testing.T) {
	store := nixtest.New(t)
	dir := t.TempDir()
	build := func(name, link string) string {
		t.Helper()
		path := store.Build(t, `build "`+name+`" "echo `+name+` > $out" { }`)[0]
		store.Run(t, "nix-store", "--realise", "--add-root", filepath.Join(dir, link), "--indirect", path)
		return path
	}
	since := func(at time.Time, want ...string) {
		t.Helper()
		got, err := OutLinks(store.State, store.Dir, at)
		if err != nil || !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("links are %q, %v, want %q", got, err, want)
		}
	}
	since(time.Time{})
	one, two := build("one", "result"), build("two", "result-2")
	since(time.Time{}, one, two)
	for _, link := range []string{"result", "result-2"} { // a while ago
		must(t, lutimes(filepath.Join(dir, link), time.Now().Add(-time.Hour)))
	}
	begin := time.Now().Add(-time.Minute)
	since(begin)
	build("one", "result") // the same again
	since(begin, one)

	drv := store.Run(t, "nix-store", "--query", "--deriver", one)
	store.Run(t, "nix-store", "--add-root", filepath.Join(dir, "drv"), "--indirect", "--realise", two)
	must(t, os.Remove(filepath.Join(dir, "drv")))
	must(t, os.Symlink(drv, filepath.Join(dir, "drv")))
	since(begin, one)
	must(t, os.Remove(filepath.Join(dir, "drv")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "drv")))
	since(begin, one)
	must(t, os.WriteFile(filepath.Join(dir, "queue.db"), nil, 0o644))
	must(t, os.Mkdir(LinksOf(filepath.Join(dir, "queue.db")), 0o755))
	build("two", "queue.db-roots/root")
	since(begin, one)
	must(t, os.Remove(filepath.Join(dir, "result")))
	since(begin)
}
