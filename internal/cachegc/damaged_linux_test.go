package cachegc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestMain(m *testing.M) {
	trouble.Main(m, map[string]func(args []string) error{"collect as nobody": collectAsNobody})
}

// A provider that takes NARs away does not make old what pins and runs need, and nothing
// stays for ever because of it.
func TestEntryWithoutItsNarIsKeptAndGoesAsAnyOther(t *testing.T) {
	c := newCache(t)
	add(t, c, "c", 1000)
	add(t, c, "b", 1000, "c")
	lost := add(t, c, "a", 1000, "b")
	must(t, os.Remove(filepath.Join(c.Path(), lost.URL)))
	must(t, c.Pin(t.Context(), "pin", time.Unix(0, 0), 1, lost.StorePath))
	everything := Options{Policy: Policy{MaxSize: 1}}
	if r := collect(t, c, everything); len(r.Evict) != 0 || r.Entries != 3 || r.Kept[Pinned] != 3 || r.Short == 0 {
		t.Errorf("with the pin: %+v", r.Plan)
	}
	must(t, c.Unpin(t.Context(), "pin"))
	r := collect(t, c, everything)
	var gone []string
	for _, e := range r.Evict {
		gone = append(gone, e.Path)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, namesOf(gone)); diff != "" || r.Reinstated != 0 || len(files(t, c)) != 0 {
		t.Errorf("without it %d entries came back, and %q are left (-want +got):\n%s", r.Reinstated, files(t, c), diff)
	}
}

// Who mends an entry while a collection is under way may name another NAR than it had, and
// one that was about to be removed.
func TestNarOfAnEntryThatIsMendedMeanwhileStays(t *testing.T) {
	steps := 1
	for at := 0; at < steps; at++ {
		c := newCache(t)
		other := addWith(t, c, "other", "mended")
		damaged := add(t, c, "damaged", 1000)
		must(t, os.Remove(filepath.Join(c.Path(), damaged.URL)))
		must(t, os.Remove(filepath.Join(c.Path(), bincache.HashPart(other.StorePath)+".narinfo")))
		must(t, c.Retire(time.Unix(0, 0), other.URL))
		steps = 0
		collect(t, c, Options{step: func() error {
			if steps == at {
				mended := *damaged
				mended.URL, mended.NarHash, mended.NarSize, mended.FileHash, mended.FileSize = other.URL, other.NarHash, other.NarSize, other.FileHash, other.FileSize
				write(t, c, bincache.HashPart(mended.StorePath)+".narinfo", string(mended.Format()))
			}
			steps++
			return nil
		}})
		if !c.Has(other.URL) {
			t.Errorf("mended before step %d of %d, and without its NAR", at+1, steps)
		}
	}
}

// collectAsNobody removes all that nothing keeps.
func collectAsNobody(args []string) error {
	if err := trouble.BecomeNobody(); err != nil {
		return err
	}
	cache, err := bincache.Open(args[0], "")
	if err != nil {
		return err
	}
	defer cache.Close()
	r, err := Collect(context.Background(), cache, Options{Policy: Policy{MaxSize: 1}})
	if !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("it removed %v, %w", r, err)
	}
	return nil
}

// What may not be read may need anything.
func TestNothingGoesWhileANarInfoMayNotBeRead(t *testing.T) {
	trouble.NeedRoot(t)
	c := newCache(t)
	add(t, c, "b", 1000)
	closed := filepath.Join(c.Path(), bincache.HashPart(add(t, c, "a", 1000, "b").StorePath)+".narinfo")
	for dir := filepath.Dir(c.Path()); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, filepath.WalkDir(c.Path(), func(file string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(file, 65534, 65534))
	}))
	must(t, errors.Join(os.Chown(closed, 0, 0), os.Chmod(closed, 0o600)))
	before := files(t, c)
	must(t, trouble.Command(t, "collect as nobody", c.Path()).Run())
	if diff := cmp.Diff(before, files(t, c)); diff != "" {
		t.Errorf("files are others (-before +after):\n%s", diff)
	}
}
