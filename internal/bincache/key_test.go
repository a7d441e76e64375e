package bincache

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fullCache makes a cache with something of every kind.
func fullCache(t testing.TB) *Cache {
	t.Helper()
	c := newCache(t)
	n := publish(t, c, hello, "hello")
	publish(t, c, libc, "libc")
	n.Sigs = []string{sig}
	if _, err := c.AddSignatures(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	record(t, c, Run{Ended: noon, Used: []string{hello}}, true)
	for name, text := range map[string]string{
		"log/" + refHello + ".drv":            "built",
		"realisations/sha256:00!out.doi":      `{"signatures":["a:QUFB"]}`,
		"build-trace-v2/x.drv/out.doi":        `{"signatures":["a:QUFB"]}`,
		narInfoName(hello)[:32] + ".ls":       `{"version":1}`,
		"debuginfo/0123.debug":                "{}",
		".larder/pins/release":                hello + "\n",
		".larder/trash/" + narInfoName(hello): "old",
	} {
		write(t, c, name, text)
	}
	return c
}

// write writes a file of the cache by hand.
func write(t testing.TB, c *Cache, name, text string) {
	t.Helper()
	file := filepath.Join(c.Path(), name)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

func key(t testing.TB, c *Cache) string {
	t.Helper()
	key, err := c.Key(t.Context())
	must(t, err)
	if len(key) != 32 {
		t.Errorf("key is %q", key)
	}
	return key
}

func TestKeyChangesWithWhatIsWorthSaving(t *testing.T) {
	change := func(name, from, to string) func(*testing.T, *Cache) {
		return func(t *testing.T, c *Cache) { must(t, replace(filepath.Join(c.Path(), name), from, to)) }
	}
	for name, do := range map[string]func(*testing.T, *Cache){
		"an entry comes": func(t *testing.T, c *Cache) { publish(t, c, item(1), "item") },
		"a NAR comes":    func(t *testing.T, c *Cache) { write(t, c, "nar/x.nar", "x") },
		"a NAR is cut off": func(t *testing.T, c *Cache) {
			must(t, os.Truncate(filepath.Join(c.Path(), narInfo(libc, "libc").URL), 1))
		},
		"a signature comes":     change(narInfoName(libc), "References: \n", "References: \nSig: a:QUFB\n"),
		"a signature changes":   change(narInfoName(hello), "X3Gq", "X3Gr"),
		"a log comes":           func(t *testing.T, c *Cache) { write(t, c, "log/x.drv", "") },
		"a realisation comes":   func(t *testing.T, c *Cache) { write(t, c, "realisations/sha256:00!dev.doi", "{}") },
		"a realisation changes": change("realisations/sha256:00!out.doi", "a:QUFB", "b:QUFB"),
		"a new one comes":       func(t *testing.T, c *Cache) { write(t, c, "build-trace-v2/x.drv/dev.doi", "{}") },
		"a new one changes":     change("build-trace-v2/x.drv/out.doi", "a:QUFB", "b:QUFB"),
		"a listing comes":       func(t *testing.T, c *Cache) { write(t, c, narInfoName(libc)[:32]+".ls", "{}") },
		"debug info comes":      func(t *testing.T, c *Cache) { write(t, c, "debuginfo/4567.debug", "{}") },
		"a pin comes":           func(t *testing.T, c *Cache) { write(t, c, ".larder/pins/other", hello) },
		"a pin changes":         change(".larder/pins/release", "hello-2.12", "hello-2.13"),
		"a run ends": func(t *testing.T, c *Cache) {
			record(t, c, Run{Ended: noon.Add(48 * time.Hour), Used: []string{hello}}, true)
		},
		"an entry is renamed": func(t *testing.T, c *Cache) {
			must(t, os.Rename(filepath.Join(c.Path(), narInfoName(libc)), filepath.Join(c.Path(), narInfoName(item(2)))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := fullCache(t)
			before := key(t, c)
			do(t, c)
			if after := key(t, c); after == before {
				t.Errorf("key is %s as before", after)
			}
		})
	}
	// And whatever of it goes.
	c := fullCache(t)
	seen := map[string]string{key(t, c): "nothing"}
	for name, text := range snapshot(t, c.Path()) {
		if base := filepath.Base(name); text[0] == 'd' || whole[name] != "" || strings.Contains(name, "trash") {
			continue
		} else if err := os.Remove(filepath.Join(c.Path(), name)); err != nil {
			t.Error(err)
		} else if other, ok := seen[key(t, c)]; ok {
			t.Errorf("key is the same without %s and without %s", base, other)
		} else {
			seen[key(t, c)] = base
		}
	}
	// Two entries of two files, a run, and what fullCache writes by hand, but for trash.
	if want := 4 + 1 + 6; len(seen)-1 != want {
		t.Errorf("%d files were removed, want %d: %v", len(seen)-1, want, seen)
	}
}

func TestKeyStaysWhateverElseHappens(t *testing.T) {
	for name, do := range map[string]func(*testing.T, *Cache){
		"times": func(t *testing.T, c *Cache) {
			for name := range snapshot(t, c.Path()) {
				must(t, os.Chtimes(filepath.Join(c.Path(), name), noon, noon))
			}
		},
		"modes": func(t *testing.T, c *Cache) {
			for name := range snapshot(t, c.Path()) {
				must(t, os.Chmod(filepath.Join(c.Path(), name), 0o700))
			}
		},
		"an empty directory": func(t *testing.T, c *Cache) {
			must(t, os.MkdirAll(filepath.Join(c.Path(), "build-trace-v2/y.drv"), 0o755))
		},
		"a missing directory": func(t *testing.T, c *Cache) {
			must(t, os.RemoveAll(filepath.Join(c.Path(), ".larder/trash")))
			must(t, os.RemoveAll(filepath.Join(c.Path(), tmpDir)))
		},
		"an unfinished file":          func(t *testing.T, c *Cache) { temp(t, c, "x").Close() },
		"an unfinished file of Nix":   func(t *testing.T, c *Cache) { write(t, c, "nar/x.nar.xz.tmp.123.0", "x") },
		"an unfinished entry of Nix":  func(t *testing.T, c *Cache) { write(t, c, narInfoName(item(1))+".tmp.123.0", "x") },
		"an unfinished file, rsync's": func(t *testing.T, c *Cache) { write(t, c, "nar/.x.nar.xz.aB3dE", "x") },
		"trash":                       func(t *testing.T, c *Cache) { write(t, c, ".larder/trash/x.narinfo", "x") },
		"the lock": func(t *testing.T, c *Cache) {
			unlock, err := c.lock(t.Context())
			must(t, err)
			must(t, unlock())
			must(t, os.Remove(filepath.Join(c.Path(), lockFile)))
		},
		"a README": func(t *testing.T, c *Cache) { write(t, c, "README", "x") },
		"a NAR is written again": func(t *testing.T, c *Cache) {
			n := narInfo(libc, "libc")
			must(t, os.Remove(filepath.Join(c.Path(), n.URL)))
			must(t, c.PublishNar(temp(t, c, "libc"), n.URL))
		},
		"a sweep": func(t *testing.T, c *Cache) { must(t, c.SweepTemp(0)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := fullCache(t)
			before := key(t, c)
			do(t, c)
			if after := key(t, c); after != before {
				t.Errorf("key is %s, want %s as before", after, before)
			}
		})
	}
}

// An archive changes the order of directories, and where the cache is.
func TestKeyIsThatOfACopyToo(t *testing.T) {
	c := fullCache(t)
	for i := range 100 {
		publish(t, c, item(i), "contents")
	}
	dir := t.TempDir()
	tar := exec.Command("sh", "-euc", `tar -C "$0" --sort=name -cf - . | tar -C "$1" -xmf -`, c.Path(), dir)
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	copied, err := OpenReadOnly(dir, storeDir)
	must(t, err)
	defer copied.Close()
	if got, want := key(t, copied), key(t, c); got != want {
		t.Errorf("key is %s, want %s", got, want)
	}
}

func TestKeyOfWhatCanNotBeReadIsAnError(t *testing.T) {
	c := fullCache(t)
	must(t, os.Remove(filepath.Join(c.Path(), narInfoName(hello))))
	must(t, os.Symlink("/etc/passwd", filepath.Join(c.Path(), narInfoName(hello))))
	if key, err := c.Key(t.Context()); err == nil || !strings.Contains(err.Error(), narInfoName(hello)) {
		t.Errorf("key is %q, and error %v", key, err)
	}
}
