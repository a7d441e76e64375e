package closurefile

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// tarred returns an archive, and what a person was told.
func tarred(t testing.TB, s Source) (archive []byte, told string, err error) {
	t.Helper()
	e, err := NewExporter(t.Context(), s)
	if err != nil {
		return nil, "", err
	}
	var out bytes.Buffer
	var log strings.Builder
	r, err := e.Tar(t.Context(), &out, slog.New(slog.NewTextHandler(&log, nil)))
	if r.Bytes != int64(out.Len()) {
		t.Errorf("result says %d bytes, wrote %d", r.Bytes, out.Len())
	}
	return out.Bytes(), log.String(), err
}

// members returns what is in an archive, and unpacks it into a directory. At every
// moment that is whole.
func members(t testing.TB, archive []byte) (names []string, dir string) {
	t.Helper()
	dir = t.TempDir()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names, dir
		}
		must(t, err)
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("header is %+v", h)
		}
		file := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			must(t, os.Mkdir(file, 0o755))
			continue
		}
		text, err := io.ReadAll(r)
		must(t, err)
		if strings.HasSuffix(h.Name, ".narinfo") {
			n, err := bincache.ParseNarInfo(text)
			must(t, err)
			for _, needed := range append(n.References, n.URL) {
				if needed != n.URL {
					needed = bincache.HashPart(needed) + ".narinfo"
				}
				if _, err := os.Stat(filepath.Join(dir, needed)); err != nil && needed != h.Name {
					t.Errorf("%s is there before %s", h.Name, needed)
				}
			}
		}
		must(t, os.WriteFile(file, text, 0o644))
	}
}

func write(t testing.TB, c *bincache.Cache, name, text string) {
	t.Helper()
	file := filepath.Join(c.Path(), name)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

func TestArchiveIsACacheOfTheClosureAlone(t *testing.T) {
	c := filled(t, thing{name: "lib", deriver: "lib.drv"}, thing{name: "other", deriver: "other.drv"},
		thing{name: "doc", text: "lib", deriver: "lib.drv"}, thing{name: "top", refs: []string{"lib", "doc"}})
	hash := func(name string) string { return baseName(name)[:32] }
	want := map[string]string{
		hash("lib") + ".ls": "{}", "log/" + baseName("lib.drv"): "built\n",
		"realisations/sha256:1!out.doi":                `{"id":"sha256:1!out","outPath":"` + baseName("lib") + `"}`,
		"build-trace-v2/" + baseName("d") + "/out.doi": `{"outPath":"` + baseName("top") + `"}`,
	}
	for name, text := range want {
		write(t, c, name, text)
	}
	for _, name := range []string{hash("other") + ".ls", "log/" + baseName("other.drv"), "realisations/unfinished.tmp", ".larder/pins/x"} {
		write(t, c, name, "not of the closure")
	}
	write(t, c, "realisations/sha256:2!out.doi", `{"outPath":"`+baseName("other")+`"}`)

	archive, told, err := tarred(t, Source{Cache: c, Paths: paths("top")})
	if err != nil || told != "" {
		t.Fatalf("%v, %s", err, told)
	}
	names, dir := members(t, archive)
	nars := 2 // lib and doc are the same file
	if len(names) != len(bincache.ReaderDirs)+1+3+nars+len(want)+1 || names[len(names)-1] != "nix-cache-info" {
		t.Errorf("in it are %q", names)
	}
	for name, text := range want {
		if is, err := os.ReadFile(filepath.Join(dir, name)); string(is) != text {
			t.Errorf("%s is %q: %v", name, is, err)
		}
	}
	unpacked, err := bincache.Open(dir, storeDir)
	must(t, err)
	defer unpacked.Close()
	has(t, unpacked, "lib", "doc", "top")
	for _, name := range []string{"lib", "doc", "top"} {
		a, err := os.ReadFile(narInfoFile(c, name))
		must(t, err)
		if b, err := os.ReadFile(narInfoFile(unpacked, name)); !bytes.Equal(a, b) {
			t.Errorf("narinfo of %s is %q, want %q: %v", name, b, a, err)
		}
	}
}

func TestArchiveDependsOnEntriesAlone(t *testing.T) {
	things := []thing{{name: "lib"}, {name: "a", refs: []string{"lib"}}, {name: "b", refs: []string{"lib"}}, {name: "top", refs: []string{"a", "b"}}}
	first, _, err := tarred(t, Source{Cache: filled(t, things...), Paths: paths("top")})
	must(t, err)
	slices.Reverse(things[1:3])
	other := filled(t, append([]thing{{name: "more"}}, things...)...)
	must(t, os.Chmod(filepath.Join(other.Path(), "nix-cache-info"), 0o600))
	second, _, err := tarred(t, Source{Cache: other, Paths: paths("b", "top")})
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("%d bytes, want the same %d: %v", len(second), len(first), err)
	}
}

func TestDamagedNARHasNoNarInfoInTheArchive(t *testing.T) {
	c := filled(t, thing{name: "lib"}, thing{name: "top", refs: []string{"lib"}})
	edit(t, narFile(t, c, "top"), func(s string) string { return strings.Replace(s, "top", "TOP", 1) })
	archive, _, err := tarred(t, Source{Cache: c, Paths: paths("top")})
	if !errors.Is(err, bincache.ErrDamaged) || !strings.Contains(err.Error(), storePath("top")) {
		t.Error(err)
	}
	if bytes.Contains(archive, []byte(baseName("top")[:32]+".narinfo")) {
		t.Error("its narinfo is there")
	}
}

// Whoever may write to a cache has no say in what is read from elsewhere.
func TestArchiveHasNothingFromOutsideTheCache(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("secret text"), 0o644))
	c := filled(t, thing{name: "lib", deriver: "lib.drv"})
	must(t, os.Symlink(secret, filepath.Join(c.Path(), baseName("lib")[:32]+".ls")))
	must(t, os.Symlink("nix-cache-info", filepath.Join(c.Path(), "log", baseName("lib.drv"))))
	must(t, syscall.Mkfifo(filepath.Join(c.Path(), "realisations/sha256:1!out.doi"), 0o644))
	write(t, c, "realisations/sha256:2!out.doi", "nonsense")
	archive, told, err := tarred(t, Source{Cache: c, Paths: paths("lib")})
	must(t, err)
	if bytes.Contains(archive, []byte("secret")) || strings.Count(told, "left out what can't be read") != 4 {
		t.Errorf("told was %s", told)
	}

	for _, url := range []string{"nix-cache-info", "log/x", ".larder/lock", "nar/../nix-cache-info", baseName("x")[:32] + ".narinfo"} {
		c := filled(t, thing{name: "a"})
		n, err := c.Entry(storePath("a"))
		must(t, err)
		write(t, c, url, thing{name: "a"}.nar())
		edit(t, narInfoFile(c, "a"), sizeTo("URL: "+n.URL, "URL: "+url))
		for how, export := range map[string]func() error{
			"tar":    func() error { _, _, err := tarred(t, Source{Cache: c, Paths: paths("a")}); return err },
			"export": func() error { _, err := exported(t, Source{Cache: c, Paths: paths("a")}); return err },
		} {
			if err := export(); !errors.Is(err, bincache.ErrDamaged) {
				t.Errorf("%s of %s: %v", how, url, err)
			}
		}
	}
}
