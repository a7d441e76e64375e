package bincache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCacheRemembersSettings(t *testing.T) {
	c := create1(t, filepath.Join(t.TempDir(), "cache"), Options{Mode: 0o664, Settings: Settings{Compression: "zstd:19"}})
	expect := func(want string) {
		t.Helper()
		again, err := OpenReadOnly(c.Path(), storeDir)
		must(t, err)
		defer again.Close()
		if s, err := again.Settings(); s.Compression != want || err != nil {
			t.Errorf("%+v and %v, want %s", s, err, want)
		}
	}
	expect("zstd:19")
	create1(t, c.Path(), Options{Settings: Settings{Compression: "none"}}) // is there
	expect("zstd:19")
	must(t, c.Remember(t.Context(), Settings{Compression: "xz:6"}))
	expect("xz:6")
	must(t, c.Remember(t.Context(), Settings{}))
	expect("")
	info, err := os.Stat(filepath.Join(c.Path(), settingsFile))
	must(t, err)
	if info.Mode() != 0o664 {
		t.Errorf("mode %v, want that of the cache's files", info.Mode())
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

func TestWhatIsRememberedAlreadyChangesNothing(t *testing.T) {
	c := newCache(t)
	before := times(t, c.Path())
	if s, err := c.Settings(); s != (Settings{}) || err != nil {
		t.Errorf("a new cache remembers %+v, %v", s, err)
	}
	must(t, c.Remember(t.Context(), Settings{}))
	if diff := cmp.Diff(before, times(t, c.Path())); diff != "" {
		t.Errorf("times (-before +after):\n%s", diff)
	}
	must(t, c.Remember(t.Context(), Settings{Compression: "none"}))
	before = times(t, c.Path())
	must(t, c.Remember(t.Context(), Settings{Compression: "none"}))
	if diff := cmp.Diff(before, times(t, c.Path())); diff != "" {
		t.Errorf("times (-before +after):\n%s", diff)
	}
}

func TestSettingsOfOthersStay(t *testing.T) {
	c := newCache(t)
	file := filepath.Join(c.Path(), settingsFile)
	must(t, os.WriteFile(file, []byte("larder-settings 1\nlistings always\ncompression none\nx"), 0o644))
	must(t, c.Remember(t.Context(), Settings{Compression: "xz:6"}))
	text, err := os.ReadFile(file)
	must(t, err)
	if want := "larder-settings 1\ncompression xz:6\nlistings always\nx\n"; string(text) != want {
		t.Errorf("%q, want %q", text, want)
	}
}

func TestSettingsThatCanNotBeReadAreSaid(t *testing.T) {
	for _, text := range []string{"", "what else\n", "larder-settings 2\ncompression none\n", "larder-settings x\n"} {
		c := newCache(t)
		file := filepath.Join(c.Path(), settingsFile)
		must(t, os.WriteFile(file, []byte(text), 0o644))
		if s, err := c.Settings(); err == nil || !strings.Contains(err.Error(), settingsFile) {
			t.Errorf("%q is %+v, %v; want an error that names the file", text, s, err)
		}
		if err := c.Remember(t.Context(), Settings{Compression: "none"}); err == nil {
			t.Errorf("%q was overwritten", text)
		}
		if now, err := os.ReadFile(file); string(now) != text || err != nil {
			t.Errorf("%q became %q, %v", text, now, err)
		}
	}
}
