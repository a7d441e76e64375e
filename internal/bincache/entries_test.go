package bincache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// item returns a store path.
func item(i int) string { return fmt.Sprintf("%s/%032d-item-%d", storeDir, i, i%3) }

func TestEntriesAreAllYieldedOnce(t *testing.T) {
	c := newCache(t)
	var want []*NarInfo
	for i := range 3*readBatch + 1 {
		want = append(want, publish(t, c, item(i), fmt.Sprint("contents ", i)))
	}
	// None of these is an entry.
	for _, name := range []string{"nar/x.narinfo", "x.ls", strings.Repeat("0", 32) + ".narinfo.tmp.1.2", "log/x"} {
		must(t, os.WriteFile(filepath.Join(c.Path(), name), nil, 0o644))
	}
	var got []*NarInfo
	for n, err := range c.Entries(t.Context()) {
		must(t, err)
		got = append(got, n)
	}
	slices.SortFunc(got, func(a, b *NarInfo) int { return strings.Compare(a.StorePath, b.StorePath) })
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	named, err := c.Named(t.Context(), "item-1")
	must(t, err)
	if len(named) != readBatch || !strings.HasSuffix(named[0], "-item-1") {
		t.Errorf("%d are called item-1, want %d", len(named), readBatch)
	}
}

func TestDamagedEntryIsNamedAndTheOthersAreYielded(t *testing.T) {
	more := map[string]func(narInfo, nar string) error{
		"narinfo has another hash": func(narInfo, _ string) error {
			return os.Rename(narInfo, filepath.Join(filepath.Dir(narInfo), strings.Repeat("1", 32)+".narinfo"))
		},
		"narinfo is of another store": func(narInfo, _ string) error { return replace(narInfo, storeDir, "/gnu/store") },
		"narinfo is a directory":      func(narInfo, _ string) error { return errors.Join(os.Remove(narInfo), os.Mkdir(narInfo, 0o755)) },
	}
	maps.Copy(more, damages)
	for name, damage := range more {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			n := publish(t, c, hello, "hello")
			publish(t, c, libc, "libc")
			must(t, damage(filepath.Join(c.Path(), narInfoName(hello)), filepath.Join(c.Path(), n.URL)))
			var good []string
			var bad []error
			for n, err := range c.Entries(t.Context()) {
				if err != nil {
					bad = append(bad, err)
				} else {
					good = append(good, n.StorePath)
				}
			}
			if !slices.Equal(good, []string{libc}) || len(bad) != 1 {
				t.Fatalf("entries are %q, and errors %v", good, bad)
			}
			if !strings.HasPrefix(bad[0].Error(), "read ") || !strings.Contains(bad[0].Error(), ".narinfo: ") {
				t.Errorf("error is %q, and does not name the file", bad[0])
			}
			if name != "narinfo is a directory" && !errors.Is(bad[0], ErrDamaged) {
				t.Errorf("error is %v, want ErrDamaged", bad[0])
			}
		})
	}
}

func TestEntriesEndWhenNobodyWantsMore(t *testing.T) {
	c := newCache(t)
	for i := range 2 * readBatch {
		publish(t, c, item(i), "same contents")
	}
	for range c.Entries(t.Context()) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for n, err := range c.Entries(ctx) {
		cancel()
		if n == nil {
			last = err
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("last error is %v, want context.Canceled", last)
	}
	if _, err := c.Named(ctx, "item-0"); !errors.Is(err, context.Canceled) {
		t.Errorf("Named: %v, want context.Canceled", err)
	}
}

// TestEntriesMayGoMeanwhile removes them as they are read: more than all readers can
// have in hand.
func TestEntriesMayGoMeanwhile(t *testing.T) {
	const count = 2 * readers * readBatch
	c := newCache(t)
	nar := publish(t, c, hello, "contents")
	for i := range count {
		n := *nar
		n.StorePath = item(i)
		must(t, os.WriteFile(filepath.Join(c.Path(), narInfoName(n.StorePath)), n.Format(), 0o644))
	}
	yielded := 0
	for _, err := range c.Entries(t.Context()) {
		must(t, err)
		yielded++
		if yielded > 1 {
			continue
		}
		files, err := filepath.Glob(filepath.Join(c.Path(), "*.narinfo"))
		must(t, err)
		for _, file := range append(files, filepath.Join(c.Path(), nar.URL)) {
			must(t, os.Remove(file))
		}
	}
	if yielded >= count {
		t.Errorf("%d entries were yielded: nothing was tested", yielded)
	}
}

func TestCacheKnowsItsStore(t *testing.T) {
	for text, want := range map[string]string{
		"StoreDir: /gnu/store\n": "/gnu/store",
		"Priority: 30\n":         "/nix/store",
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, infoFile), []byte(text), 0o644))
		c, err := OpenReadOnly(dir, "")
		must(t, err)
		defer c.Close()
		if c.storeDir != want {
			t.Errorf("store of %q is %s, want %s", text, c.storeDir, want)
		}
	}
}
