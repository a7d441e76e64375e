package bincache

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// damages are what may happen to an entry of which clients have no use any more.
var damages = map[string]func(narInfo, nar string) error{
	"narinfo is empty":         func(narInfo, _ string) error { return os.Truncate(narInfo, 0) },
	"narinfo is cut off":       func(narInfo, _ string) error { return os.Truncate(narInfo, 100) },
	"narinfo is another one's": func(narInfo, _ string) error { return replace(narInfo, refHello, refLibc) },
	"narinfo has nonsense":     func(narInfo, _ string) error { return replace(narInfo, "NarSize: ", "NarSize: x") },
	"URL can't be":             func(narInfo, _ string) error { return replace(narInfo, "nar/", "nar/.keep/") },
	"URL is too long": func(narInfo, _ string) error {
		return replace(narInfo, "nar/", "nar/"+strings.Repeat("x", 300))
	},
	"NAR is missing":  func(_, nar string) error { return os.Remove(nar) },
	"NAR is empty":    func(_, nar string) error { return os.Truncate(nar, 0) },
	"NAR is cut off":  func(_, nar string) error { return os.Truncate(nar, 3) },
	"NAR is too long": func(_, nar string) error { return os.Truncate(nar, 300) },
	"NAR is elsewhere": func(_, nar string) error {
		return errors.Join(os.Remove(nar), os.Symlink("/etc/hostname", nar))
	},
	"NAR is a directory": func(_, nar string) error { return errors.Join(os.Remove(nar), os.Mkdir(nar, 0o755)) },
}

func replace(file, from, to string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed := bytes.ReplaceAll(text, []byte(from), []byte(to))
	if bytes.Equal(changed, text) {
		return errors.New("nothing to replace")
	}
	return os.WriteFile(file, changed, 0o644)
}

func TestDamagedEntryIsFoundAndReplaced(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			n := publish(t, c, hello, "hello")
			if _, err := c.Entry(hello); err != nil {
				t.Fatalf("before: %v", err)
			}
			nar := filepath.Join(c.Path(), n.URL)
			must(t, damage(filepath.Join(c.Path(), narInfoName(hello)), nar))
			if _, err := c.Entry(hello); !errors.Is(err, ErrDamaged) {
				t.Fatalf("error is %v, want ErrDamaged", err)
			}
			if info, err := os.Lstat(nar); err == nil && !info.Mode().IsRegular() {
				must(t, os.Remove(nar)) // a person's mistake, and a person's to mend
			}
			publish(t, c, hello, "hello")
			got, err := c.Entry(hello)
			must(t, err)
			if diff := cmp.Diff(n, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if left := unfinished(t, c); len(left) > 0 {
				t.Errorf("unfinished files were left: %q", left)
			}
		})
	}
}

func TestEntryThatIsNotThereDoesNotExist(t *testing.T) {
	c := newCache(t)
	publish(t, c, hello, "hello")
	if _, err := c.Entry(libc); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
		t.Errorf("error is %v, want fs.ErrNotExist", err)
	}
}

func TestEntryOfAnyNixIsAnEntry(t *testing.T) {
	c := newCache(t)
	must(t, os.WriteFile(filepath.Join(c.Path(), "nar", "x.nar.xz"), []byte("x"), 0o644))
	text := "StorePath: " + hello + "\nURL: nar/x.nar.xz\nCompression: xz\nNarHash: " + sum("x").String() + "\nNarSize: 1\nReferences: \n"
	must(t, os.WriteFile(filepath.Join(c.Path(), narInfoName(hello)), []byte(text), 0o644))
	n, err := c.Entry(hello)
	must(t, err)
	if n.NarHash != sum("x") || n.Compression != "xz" {
		t.Errorf("read as %+v", n)
	}
	// Without its size, all that can be seen is that there is something.
	must(t, os.Truncate(filepath.Join(c.Path(), "nar", "x.nar.xz"), 0))
	if _, err := c.Entry(hello); !errors.Is(err, ErrDamaged) {
		t.Errorf("error is %v, want ErrDamaged", err)
	}
}

func TestGoodNarInfoIsKept(t *testing.T) {
	c := newCache(t)
	publish(t, c, hello, "hello")
	file := filepath.Join(c.Path(), narInfoName(hello))
	before, err := os.Stat(file)
	must(t, err)
	other := publish(t, c, hello, "another build")
	after, err := os.Stat(file)
	must(t, err)
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("an entry was replaced by another one")
	}
	// Its NAR is there without a narinfo, which harms nobody.
	if _, err := os.Stat(filepath.Join(c.Path(), other.URL)); err != nil {
		t.Error(err)
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

func TestGoodNarIsKept(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "same contents")
	file := filepath.Join(c.Path(), n.URL)
	before, err := os.Stat(file)
	must(t, err)
	publish(t, c, libc, "same contents")
	after, err := os.Stat(file)
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("a NAR was replaced by the same one")
	}
}

func TestNarIsNamedAsNixNamesIt(t *testing.T) {
	hash := sum("nar")
	for compression, want := range map[string]string{
		"zstd": "nar/" + hash.Digits() + ".nar.zst", "xz": "nar/" + hash.Digits() + ".nar.xz", "none": "nar/" + hash.Digits() + ".nar",
	} {
		if got := NarName(hash, compression); got != want {
			t.Errorf("%s: %s, want %s", compression, got, want)
		}
	}
}
