package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shell runs a script in the machine, with arguments.
func (m *machine) shell(t *testing.T, script string, args ...string) string {
	t.Helper()
	return m.run(t, append([]string{"sh", "-euc", script, "-"}, args...)...)
}

// export exports what is in a cache into a file.
func (l *larder) export(t *testing.T, args ...string) (file string) {
	t.Helper()
	file = filepath.Join(tempDir(t), "exported")
	l.shell(t, `file=$1; cache=$2; shift 2; exec larder export --quiet --cache "$cache" "$@" > "$file"`, append([]string{file, l.cache}, args...)...)
	return file
}

// imports imports a file into a cache.
func (m *machine) imports(t *testing.T, cache, file string, args ...string) map[string]any {
	t.Helper()
	out := m.shell(t, `file=$1; cache=$2; shift 2; exec larder import --json --quiet --cache "$cache" "$@" < "$file"`, append([]string{file, cache}, args...)...)
	return object(t, out, "cache", "paths", "added", "signatures", "relying_on_others", "nar_bytes", "file_bytes")
}

// nixExport has Nix export the closure of a path into a file.
func (m *machine) nixExport(t *testing.T, path string) (file string) {
	t.Helper()
	file = filepath.Join(tempDir(t), "exported-by-nix")
	m.shell(t, `nix-store --export $(nix-store --query --requisites "$2") > "$1"`, file, path)
	return file
}

// withoutStore is a machine on which larder finds no Nix store.
func withoutStore(t *testing.T, n nix) *machine {
	t.Helper()
	return newMachine(t, n).with("NIX_STATE_DIR=/nowhere", "NIX_STORE_DIR=/nix/store", "NIX_LOG_DIR=/nowhere")
}

// What Nix exports and what larder exports of the same closure are the same bytes, and
// each reads the other's.
func TestExportsOfLarderAndNixAreTheSameAndReadByEachOther(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		drv := l.query(t, "--deriver", top)[0] // whose closure has texts and sources
		l.push(t, top, drv)
		var byLarder []string
		for _, path := range []string{top, drv} {
			byNix := l.nixExport(t, path)
			byLarder = append(byLarder, (&larder{machine: withoutStore(t, n), cache: l.cache}).export(t, path))
			sameFiles(t, byLarder[len(byLarder)-1], byNix)
			ofNix := filepath.Join(tempDir(t), "of-nix") // compressed by xz
			copy := []string{"nix", "copy", "--to", "file://" + ofNix, path}
			if path == drv {
				copy = append(copy, "--derivation") // or it would be what is built from it
			}
			l.run(t, copy...)
			sameFiles(t, (&larder{machine: withoutStore(t, n), cache: ofNix}).export(t, path), byNix)
		}
		all := l.closure(t, top, drv)
		outs := l.closure(t, top)
		dumps := l.dumps(t, all)
		for _, to := range nixes {
			t.Run("to "+to.name, func(t *testing.T) {
				t.Parallel()
				fresh := newMachine(t, to)
				for _, file := range byLarder {
					fresh.shell(t, `exec nix-store --import < "$1"`, file)
				}
				fresh.hasDumps(t, all, dumps)
			})
		}
		t.Run("imported", func(t *testing.T) {
			t.Parallel()
			file := l.nixExport(t, drv)
			into := &larder{machine: withoutStore(t, n), cache: filepath.Join(tempDir(t), "new")}
			if r := into.imports(t, into.cache, file); r["added"] != json.Number(fmt.Sprint(len(l.closure(t, drv)))) {
				t.Errorf("import says %v", r)
			}
			into.imports(t, into.cache, l.nixExport(t, top), "--compression", "none")
			equalPaths(t, "cache", into.cached(t), all)
			checkWhole(t, into.cache)
			describedAs(t, into.cache, l.cache, all)
			sameFiles(t, into.export(t, drv), file)
			for _, n := range nixes {
				t.Run("to "+n.name, func(t *testing.T) {
					t.Parallel()
					fresh := newMachine(t, n)
					// Texts and sources prove themselves, and need no signature.
					fresh.run(t, "nix", "copy", "--derivation", "--from", "file://"+into.cache, drv)
					fresh.substitute(t, into.cache, outs...)
					fresh.hasDumps(t, all, dumps)
				})
			}
		})
	})
}

// hasDumps fails the test if the store has others than these paths, or they are not as
// their dumps say.
func (m *machine) hasDumps(t *testing.T, paths []string, dumps map[string]string) {
	t.Helper()
	equalPaths(t, "store", m.validPaths(t), paths)
	for path, dump := range m.dumps(t, paths) {
		if dump != dumps[path] {
			t.Errorf("dump of %s is %s, want %s", path, dump, dumps[path])
		}
	}
	m.run(t, "nix-store", "--verify", "--check-contents")
}

func sameFiles(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	must(t, err)
	b, err := os.ReadFile(want)
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Errorf("%s has %d bytes, and is not the same as %s with %d", got, len(a), want, len(b))
	}
}

// describedAs fails the test if entries of two caches differ in what Nix knows of a path.
func describedAs(t *testing.T, cache, other string, paths []string) {
	t.Helper()
	for _, path := range paths {
		name := filepath.Base(path)[:32] + ".narinfo"
		a, err := os.ReadFile(filepath.Join(cache, name))
		must(t, err)
		b, err := os.ReadFile(filepath.Join(other, name))
		must(t, err)
		if got, want := aboutPath(string(a)), aboutPath(string(b)); !slices.Equal(got, want) {
			t.Errorf("entry is\n%q, want\n%q", got, want)
		}
	}
}

// aboutPath returns those lines of a narinfo that are about the path itself.
func aboutPath(narInfo string) (lines []string) {
	for line := range strings.Lines(narInfo) {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "StorePath", "NarHash", "NarSize", "References", "Deriver", "CA":
			lines = append(lines, line)
		}
	}
	return lines
}

func TestImportedPathsAreTakenFromWhoeverHasSignedThem(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		secret, public := l.newKey(t, "importer-1")
		cache := filepath.Join(tempDir(t), "signed")
		l.imports(t, cache, l.nixExport(t, top), "--signing-key-file", secret)
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				if stderr, ok := substitutes(t, n, top, []string{public}, "file://"+cache); !ok {
					t.Errorf("with the key: %s", stderr)
				}
				if _, ok := substitutes(t, n, top, nil, "file://"+cache); ok {
					t.Error("it needs no key")
				}
			})
		}
	})
}

// An archive is unpacked by tar, and is a cache for Nix and for larder.
func TestArchiveOfClosuresIsACacheOnEveryNix(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		other := l.buildOne(t, "other")
		l.push(t, top, other)
		l.run(t, "nix", "store", "copy-log", "--to", "file://"+l.cache, top)
		want := l.closure(t, top)
		dumps := l.dumps(t, want)
		m := withoutStore(t, n)
		archive := (&larder{machine: m, cache: l.cache}).export(t, "--tar", top)
		sameFiles(t, (&larder{machine: m, cache: l.cache}).export(t, "--tar", top, top), archive)
		dir := tempDir(t)
		unpacked := filepath.Join(dir, "unpacked")
		must(t, os.Mkdir(unpacked, 0o755))
		if out, err := exec.Command("tar", "-C", unpacked, "-xf", archive).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("tar: %v, %s", err, out)
		}
		equalPaths(t, "unpacked", (&larder{cache: unpacked}).cached(t), want)
		checkWhole(t, unpacked)
		describedAs(t, unpacked, l.cache, want)
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				fresh := newMachine(t, n)
				fresh.substitute(t, unpacked, want...)
				fresh.hasDumps(t, want, dumps)
				if got, want := fresh.run(t, "nix", "log", "--store", "file://"+unpacked, top), l.run(t, "nix", "log", top); got != want {
					t.Errorf("log is %q, want %q", got, want)
				}
			})
		}
		t.Run("merged", func(t *testing.T) {
			t.Parallel()
			merged := &larder{machine: m, cache: filepath.Join(dir, "merged")}
			if r := merged.merge(t, merged.cache, unpacked); r.Added != len(want) || r.Relying+len(r.Damaged)+len(r.LeftOut) > 0 {
				t.Errorf("merge says %+v, want %d added", r, len(want))
			}
			equalPaths(t, "merged", merged.cached(t), want)
		})
	})
}

func TestExportRefusesWhatItCannotExport(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	items := l.build(t, chain("2")...)
	l.drain(t)
	const nothing = "/nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-nothing"
	for _, c := range []struct {
		refusal
		args []string
	}{
		{refusal{2, "no path is named", "> closure.nar"}, nil},
		{refusal{2, "--no-closure leaves them out", "leave out one"}, []string{"--tar", "--no-closure", items[0]}},
		{refusal{1, nothing + ": not in the cache", "larder list"}, []string{nothing}},
		{refusal{1, `"/etc/passwd" is not a store path`, "a path looks like"}, []string{"/etc/passwd"}},
	} {
		c.changesNothing(t, l.machine, append([]string{"larder", "export", "--quiet"}, c.args...)...)
	}
	must(t, os.Remove(filepath.Join(l.cache, filepath.Base(items[0])[:32]+".narinfo")))
	refusal{1, items[0] + ", to which " + items[1] + " refers: not in the cache", "--allow-missing"}.of(t, l.machine, "larder", "export", items[1])
	l.export(t, "--allow-missing", items[1])
	l.export(t, "--no-closure", items[1])
}

func TestDamagedEntryEndsTheExport(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--compression", "none")
	items := l.build(t, chain("2")...)
	l.drain(t)
	nar := filepath.Join(l.cache, entries(t, l.cache)[items[1]].nar)
	text, err := os.ReadFile(nar)
	must(t, err)
	text[len(text)/2] ^= 1
	must(t, os.WriteFile(nar, text, 0o644))
	file := filepath.Join(tempDir(t), "cut")
	for _, format := range []string{"--quiet", "--tar"} {
		_, stderr, exit := l.tryRun(t, "sh", "-euc", `larder export "$1" "$2" > "$3"`, "-", format, items[1], file)
		if exit != 1 || !strings.Contains(stderr, items[1]+": entry is damaged: ") || !strings.Contains(stderr, "throw it away") {
			t.Errorf("exit %d, stderr %s", exit, stderr)
		}
	}
	l.tryRun(t, "sh", "-euc", `larder export --quiet "$1" > "$2"`, "-", items[1], file)
	fresh := newMachine(t, nixes[0])
	if _, stderr, exit := fresh.tryRun(t, "sh", "-euc", `exec nix-store --import < "$1"`, "-", file); exit == 0 {
		t.Errorf("Nix takes it for whole: %s", stderr)
	}
	hasPaths(t, "what may be imported", items[:1], fresh.validPaths(t))
}

func TestImportRefusesWhatIsNoExport(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	file := l.nixExport(t, top)
	for script, want := range map[string]refusal{
		`larder import --cache /root/new < /dev/null`:                        {1, "not an export of nix-store --export", "nix-store --export"},
		`nix-store --dump "$2" | larder import --cache /root/new`:            {1, "a NAR alone", "nix-store --export"},
		`gzip < "$1" | larder import --cache /root/new`:                      {1, "compressed", "gzip -d"},
		`echo nonsense | larder import --cache /root/new`:                    {1, "it begins with", "nix-store --export"},
		`larder import --cache /root/new "$1"`:                               {2, "unexpected argument", "< closure.nar"},
		`larder import --cache /root/new --compression fast < "$1"`:          {2, "compression", "zstd:3"},
		`larder import < "$1"`:                                               {1, "queue", "larder init"},
		`larder import --cache /root/new --signing-key-file /none < "$1"`:    {1, "signing key", "--signing-key-file"},
		`nix-store --export "$2" | larder import --quiet --cache /root/new2`: {1, "is not in the cache, nor before it", "--allow-missing"},
	} {
		if strings.Contains(script, "new2") {
			want.of(t, l.machine, "sh", "-euc", script, "-", file, top)
			continue
		}
		want.changesNothing(t, l.machine, "sh", "-euc", script, "-", file, top)
	}
	half := filepath.Join(tempDir(t), "half")
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(half, text[:len(text)-20], 0o644))
	_, stderr, exit := l.tryRun(t, "sh", "-euc", `larder import --quiet --cache "$1" < "$2"`, "-", l.cache, half)
	if exit != 1 || !strings.Contains(stderr, "paths before it are imported") {
		t.Errorf("exit %d, stderr %s", exit, stderr)
	}
	checkWhole(t, l.cache)
	l.imports(t, l.cache, file)
	equalPaths(t, "cache", l.cached(t), l.closure(t, top))
	l.verify(t)
}

func TestExportsAreNothingForATerminal(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	l.drain(t)
	tty := l.startOnTerminal(t, "larder", "export", path)
	tty.shows(t, "is nothing for a terminal")
	tty = l.startOnTerminal(t, "larder", "import")
	tty.shows(t, "is a terminal")
}

// Nix and larder have to agree on what is a NAR, and where it ends.
func TestWhatIsANARForLarderIsOneForNix(t *testing.T) {
	t.Parallel()
	nars, err := filepath.Abs("../internal/nar/testdata")
	must(t, err)
	dir := tempDir(t)
	must(t, os.CopyFS(dir, os.DirFS(nars)))
	for _, n := range nixes {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, n)
			for _, kind := range []string{"good", "bad"} {
				files, err := filepath.Glob(filepath.Join(dir, kind, "*.nar"))
				must(t, err)
				if len(files) == 0 {
					t.Fatalf("no NARs in %s", kind)
				}
				for i, line := range m.lines(t, append([]string{"sh", "-euc", tryNARs, "-"}, files...)...) {
					name, what, _ := strings.Cut(line, ": ")
					if name != files[i] {
						t.Fatalf("line is %q, want one of %s", line, files[i])
					}
					if want := map[string]string{"good": "the same", "bad": "refused"}[kind]; what != want && lenient[filepath.Base(name)][m.version[:4]] != what {
						t.Errorf("%s %s: %s, want %s", kind, filepath.Base(name), what, want)
					}
				}
			}
		})
	}
}

// tryNARs says what Nix makes of NARs: it refuses one, or another one comes out when
// what was unpacked is packed again, or the same.
const tryNARs = `for nar; do
	rm -rf out
	if ! nix-store --restore out < "$nar" 2> /dev/null; then echo "$nar: refused"; continue; fi
	if [ "$(nix-store --dump out | sha256sum)" = "$(sha256sum < "$nar")" ]; then echo "$nar: the same"; else echo "$nar: another"; fi
done`

// lenient are versions of Nix that take what is wrong with a NAR, and what they make of
// it: no NAR of a path is as bad, and other versions refuse them.
var lenient = map[string]map[string]string{
	"too-deep.nar":          {"2.8.": "the same", "2.26": "the same"},
	"nul-in-target.nar":     {"2.8.": "another", "2.26": "another"},
	"contents-twice.nar":    {"2.8.": "another"},
	"executable-behind.nar": {"2.8.": "another"},
	"executable-twice.nar":  {"2.8.": "another"},
	"name-twice.nar":        {"2.8.": "another"},
	"no-contents.nar":       {"2.8.": "another"},
	"no-node-in-entry.nar":  {"2.8.": "another"},
	"no-target.nar":         {"2.8.": "another"},
	"not-sorted.nar":        {"2.8.": "another"},
}
