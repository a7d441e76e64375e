package closurefile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nar"
)

func narFile(t testing.TB, c *bincache.Cache, name string) string {
	t.Helper()
	n, err := c.Entry(storePath(name))
	must(t, err)
	return filepath.Join(c.Path(), n.URL)
}

func narInfoFile(c *bincache.Cache, name string) string {
	return filepath.Join(c.Path(), baseName(name)[:32]+".narinfo")
}

func TestExportHasTheClosureOnceAndNothingElse(t *testing.T) {
	lib, a, b := thing{name: "lib"}, thing{name: "a", refs: []string{"lib"}}, thing{name: "b", refs: []string{"lib", "a", "b"}}
	c := filled(t, lib, thing{name: "other"}, a, b)
	for _, named := range [][]string{{"b"}, {"b", "b"}, {"a", "b"}, {"b", "lib"}} {
		if s, err := exported(t, Source{Cache: c, Paths: paths(named...)}); err != nil || s != stream(lib, a, b) {
			t.Errorf("of %q: %q, %v", named, s, err)
		}
	}
	if s, err := exported(t, Source{Cache: c, Paths: paths("b", "lib"), NoClosure: true, AllowMissing: true}); err != nil || s != stream(lib, b) {
		t.Errorf("without the closure: %q, %v", s, err)
	}
	if s, err := exported(t, Source{Cache: c}); err != nil || s != nums(0) {
		t.Errorf("of nothing: %q, %v", s, err)
	}
}

func TestExportOfWhatIsNotThereWritesNothing(t *testing.T) {
	c := newCache(t)
	_, err := imports(t, c, stream(thing{name: "top", refs: []string{"lib"}}), func(x *Target) { x.AllowMissing = true })
	must(t, err)
	for _, s := range []Source{{Paths: paths("nothing")}, {Paths: paths("top")}, {Paths: paths("nothing"), AllowMissing: true}} {
		s.Cache = c
		if out, err := exported(t, s); !errors.Is(err, ErrMissing) || out != "" {
			t.Errorf("%+v: %q, %v", s, out, err)
		}
	}
	if s, err := exported(t, Source{Cache: c, Paths: paths("top"), AllowMissing: true}); err != nil || s != stream(thing{name: "top", refs: []string{"lib"}}) {
		t.Errorf("with permission: %q, %v", s, err)
	}
	if _, err := NewExporter(t.Context(), Source{Cache: c, Paths: []string{"/etc/passwd"}}); err == nil {
		t.Error("no error for what is not in the store")
	}
}

func TestDamagedEntryIsNotExported(t *testing.T) {
	first, second := thing{name: "a"}, thing{name: "b", refs: []string{"a"}, text: "some text of b"}
	flip := func(s string) string { return strings.Replace(s, "text", "TEXT", 1) }
	for name, damage := range map[string]func(c *bincache.Cache){
		"contents": func(c *bincache.Cache) { edit(t, narFile(t, c, "b"), flip) },
		"nar hash": func(c *bincache.Cache) { edit(t, narInfoFile(c, "b"), hashTo(second.nar(), "else")) },
		"nar size": func(c *bincache.Cache) { edit(t, narInfoFile(c, "b"), sizeTo("NarSize: ", "NarSize: 1")) },
		"compression": func(c *bincache.Cache) {
			edit(t, narInfoFile(c, "b"), sizeTo("Compression: none", "Compression: zstd"))
		},
	} {
		c := filled(t, first, second)
		damage(c)
		out, err := exported(t, Source{Cache: c, Paths: paths("b")})
		want := first.stream()
		if name == "nar size" {
			want = "" // that is seen before anything is written
		}
		if !errors.Is(err, bincache.ErrDamaged) || !strings.Contains(err.Error(), storePath("b")) || out != want {
			t.Errorf("%s: %v, and %d bytes, want %d", name, err, len(out), len(want))
		}
		if e, err := NewExporter(t.Context(), Source{Cache: c, Paths: paths("a")}); err != nil || len(e.order) != 1 {
			t.Errorf("%s: it concerns another one: %v", name, err)
		}
	}
}

func hashTo(from, to string) func(string) string {
	return func(s string) string {
		return strings.Replace(s, "NarHash: "+hashOf(from).String(), "NarHash: "+hashOf(to).String(), 1)
	}
}

func sizeTo(from, to string) func(string) string {
	return func(s string) string { return strings.Replace(s, from, to, 1) }
}

// rewrite makes what narinfo and NAR of an entry say the text, whatever it is.
func rewrite(t testing.TB, c *bincache.Cache, name, text string) {
	t.Helper()
	n, err := c.Entry(storePath(name))
	must(t, err)
	old := narFile(t, c, name)
	n.NarHash, n.NarSize, n.FileHash, n.FileSize = hashOf(text), int64(len(text)), hashOf(text), int64(len(text))
	edit(t, old, func(string) string { return text })
	edit(t, narInfoFile(c, name), func(string) string { return string(n.Format()) })
}

// Its hash is right: but who reads the stream would see another path in it.
func TestNARThatIsMoreThanANARIsNotExported(t *testing.T) {
	smuggled := thing{name: "smuggled"}
	for name, text := range map[string]string{
		"another path": thing{name: "b"}.nar() + nums(pathMagic) + strs(storePath("b")) + nums(0) + strs("") + nums(0) + nums(1) + smuggled.nar(),
		"a byte":       thing{name: "b"}.nar() + "x",
		"no NAR":       "something else",
		"large":        thing{name: "b", text: strings.Repeat("long", smallHere)}.nar() + strings.Repeat("x", 8),
	} {
		c := filled(t, thing{name: "b"})
		rewrite(t, c, "b", text)
		out, err := exported(t, Source{Cache: c, Paths: paths("b")})
		if !errors.Is(err, bincache.ErrDamaged) || strings.Contains(out, nums(pathMagic)) || len(text) < smallHere && out != "" {
			t.Errorf("%s: %v, and %d bytes", name, err, len(out))
		}
	}
}

// What is large is written as it is read, but is no path without what comes behind it.
func TestLargeNARWithAWrongHashHasNoPathBehindIt(t *testing.T) {
	large := thing{name: "large", text: strings.Repeat("long text ", smallHere/5)}
	c := filled(t, large)
	s, err := exported(t, Source{Cache: c, Paths: paths("large")})
	if err != nil || s != stream(large) {
		t.Errorf("whole: %d bytes, want %d: %v", len(s), len(stream(large)), err)
	}
	edit(t, narFile(t, c, "large"), func(s string) string { return s[:1000] + "X" + s[1001:] })
	s, err = exported(t, Source{Cache: c, Paths: paths("large")})
	if !errors.Is(err, bincache.ErrDamaged) || len(s) > len(large.nar())+8 {
		t.Errorf("damaged: %d bytes, %v", len(s), err)
	}
}

func TestReferencesInACircleAreNotExported(t *testing.T) {
	c := filled(t, thing{name: "a"}, thing{name: "b", refs: []string{"a"}})
	edit(t, narInfoFile(c, "a"), sizeTo("References: ", "References: "+baseName("b")))
	if out, err := exported(t, Source{Cache: c, Paths: paths("b")}); !errors.Is(err, bincache.ErrDamaged) || out != "" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestExportNoticesThatAnEntryIsAnotherOneNow(t *testing.T) {
	c := filled(t, thing{name: "a"}, thing{name: "b", refs: []string{"a"}}, thing{name: "c"})
	e, err := NewExporter(t.Context(), Source{Cache: c, Paths: paths("b")})
	must(t, err)
	edit(t, narInfoFile(c, "b"), sizeTo("References: ", "References: "+baseName("c")+" "))
	var out bytes.Buffer
	if _, err := e.Export(t.Context(), &out); !errors.Is(err, ErrChanged) || out.String() != (thing{name: "a"}).stream() {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

// A writer that recompresses puts the new NAR in place, and then the narinfo.
func TestExportFollowsAnEntryThatIsRecompressed(t *testing.T) {
	c := filled(t, thing{name: "a"})
	e, err := NewExporter(t.Context(), Source{Cache: c, Paths: paths("a")})
	must(t, err)
	e.reader = nar.NewReader(nil)
	n, err := c.Entry(storePath("a"))
	must(t, err)
	if err := e.each(t.Context(), func(now *bincache.NarInfo, _ []byte) error {
		if now.URL == n.URL {
			other := strings.Replace(n.URL, "nar/", "nar/x", 1)
			must(t, os.Rename(filepath.Join(c.Path(), n.URL), filepath.Join(c.Path(), other)))
			edit(t, narInfoFile(c, "a"), sizeTo(n.URL, other))
		}
		return e.exportPath(t.Context(), &counter{to: &bytes.Buffer{}}, now)
	}); err != nil {
		t.Error(err)
	}
}
