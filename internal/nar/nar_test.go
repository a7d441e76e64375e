package nar

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dump returns the NAR of path and checks that Dump counts its bytes.
func dump(t testing.TB, path string) []byte {
	t.Helper()
	var d Dumper
	var buf bytes.Buffer
	n, err := d.Dump(t.Context(), &buf, path)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(buf.Len()) {
		t.Errorf("Dump returned %d, wrote %d bytes", n, buf.Len())
	}
	return buf.Bytes()
}

// nixDump returns what Nix makes of path.
func nixDump(t testing.TB, path string, options ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		if os.Getenv("LARDER_REQUIRE_NIX") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), "nix-store", append(options, "--dump", path)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	nar, err := cmd.Output()
	if err != nil {
		t.Fatalf("nix-store --dump %q: %v: %s", path, err, stderr.String())
	}
	return nar
}

// diff says where two NARs differ; whole ones are too long to print.
func diff(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-64)
	t.Errorf("%s: differs at byte %d of %d, want %d:\n got %q\nwant %q", what, i, len(got), len(want),
		got[from:min(len(got), i+64)], want[from:min(len(want), i+64)])
}

// TestDumpIsWhatTheManualSays compares with bytes that no code of ours made.
func TestDumpIsWhatTheManualSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	directory(map[string]tree{
		"run":  executable("#!"),
		"link": symlink("run"),
	}).create(t, path)
	want := "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00type\x00\x00\x00\x00" +
		"\x09\x00\x00\x00\x00\x00\x00\x00directory\x00\x00\x00\x00\x00\x00\x00" +

		"\x05\x00\x00\x00\x00\x00\x00\x00entry\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00name\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00link\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00node\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00type\x00\x00\x00\x00" +
		"\x07\x00\x00\x00\x00\x00\x00\x00symlink\x00" +
		"\x06\x00\x00\x00\x00\x00\x00\x00target\x00\x00" +
		"\x03\x00\x00\x00\x00\x00\x00\x00run\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00" +

		"\x05\x00\x00\x00\x00\x00\x00\x00entry\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00name\x00\x00\x00\x00" +
		"\x03\x00\x00\x00\x00\x00\x00\x00run\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00node\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00type\x00\x00\x00\x00" +
		"\x07\x00\x00\x00\x00\x00\x00\x00regular\x00" +
		"\x0a\x00\x00\x00\x00\x00\x00\x00executable\x00\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x08\x00\x00\x00\x00\x00\x00\x00contents" +
		"\x02\x00\x00\x00\x00\x00\x00\x00#!\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00" +

		"\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00"
	diff(t, "Dump", dump(t, path), []byte(want))
}

func TestDumpIsWhatNixWrites(t *testing.T) {
	nested := file("at the bottom")
	for range 63 {
		nested = directory(map[string]tree{"d": nested})
	}
	many := make(map[string]tree)
	for i := range 3000 {
		many[fmt.Sprintf("%x-%s", i, strings.Repeat("n", i%200))] = file(strings.Repeat("x", i%300))
	}
	sizes := make(map[string]tree)
	for i := range 18 {
		sizes[fmt.Sprint(i)] = file(strings.Repeat("x", i))
		sizes[fmt.Sprint(i, "around a block")] = file(strings.Repeat("x", blockSize+i-9))
	}
	modes := make(map[string]tree)
	for _, mode := range []fs.FileMode{0o400, 0o410, 0o401, 0o411, 0o444, 0o500, 0o555, 0o644, 0o755, 0o777} {
		modes[mode.String()] = tree{mode: mode, data: "x"}
	}

	for name, tr := range map[string]tree{
		"file":            file("hello\n"),
		"empty file":      file(""),
		"executable":      executable("#!/bin/sh\n"),
		"symlink":         symlink("/nowhere"),
		"empty directory": directory(nil),
		"modes":           directory(modes),
		"sizes":           directory(sizes),
		"large file":      file(strings.Repeat("0123456789", 300_000)),
		"nested":          nested,
		"many entries":    directory(many),
		"symlinks": directory(map[string]tree{
			"self":      symlink("self"),
			"dangling":  symlink("../../../nowhere"),
			"directory": symlink("."),
			"longest":   symlink(strings.Repeat("t", maxTarget)),
			"bytes":     symlink("\xff\xfe\n"),
		}),
		"names": directory(map[string]tree{
			"..data":                 directory(map[string]tree{"...": file("dots")}),
			"...":                    file("dots"),
			".hidden":                file(""),
			"-n":                     file(""),
			"a":                      directory(map[string]tree{"b": file("")}),
			"a-b":                    file("sorts before a/b as a path, after a as a name"),
			"a.b":                    file(""),
			"A":                      file(""),
			"B":                      file(""),
			"b":                      file(""),
			"new\nline":              file(""),
			"\x01":                   file(""),
			"\x80\xff not utf-8":     file(""),
			"\u00e9":                 file("composed"),
			"e\u0301":                file("decomposed"),
			"\uffff":                 file("before the next in bytes, after it in utf-16"),
			"\U00010000":             file(""),
			"x~nix~case~hack~1":      file("an ordinary name on linux"),
			strings.Repeat("n", 255): file("the longest name"),
		}),
		"names like tokens": directory(map[string]tree{
			"(":             directory(map[string]tree{"type": file("regular")}),
			")":             file(")"),
			"entry":         symlink("node"),
			"nix-archive-1": directory(nil),
		}),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			tr.create(t, path)
			got := dump(t, path)
			diff(t, "Dump", got, []byte(tr.nar()))
			checkReadBack(t, got, tr)
			diff(t, "nix-store", got, nixDump(t, path))
		})
	}
}

func TestDumpOfRandomTreesIsWhatNixWrites(t *testing.T) {
	seed := time.Now().UnixNano()
	for i := range int64(20) {
		t.Run(fmt.Sprint("seed ", seed+i), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			tr := randomTree(rand.New(rand.NewSource(seed+i)), 4)
			tr.create(t, path)
			got := dump(t, path)
			diff(t, "Dump", got, []byte(tr.nar()))
			diff(t, "nix-store", got, nixDump(t, path))
		})
	}
}

func TestHardLinksAreFilesOfTheirOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	directory(map[string]tree{"a": file("same")}).create(t, path)
	if err := os.Link(filepath.Join(path, "a"), filepath.Join(path, "b")); err != nil {
		t.Fatal(err)
	}
	got := dump(t, path)
	diff(t, "Dump", got, []byte(directory(map[string]tree{"a": file("same"), "b": file("same")}).nar()))
	diff(t, "nix-store", got, nixDump(t, path))
}

func TestHugeDirectoryIsWhatNixWrites(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 100,000 files")
	}
	path := t.TempDir()
	for i := range 100_000 {
		// Hard links would be faster to make, but ext4 allows 65,000 of a file.
		if err := os.Symlink("t", filepath.Join(path, fmt.Sprint("entry-", i))); err != nil {
			t.Fatal(err)
		}
	}
	diff(t, "nix-store", dump(t, path), nixDump(t, path))
}

// FuzzNames makes files with the names in data, which a slash or a zero ends.
func FuzzNames(f *testing.F) {
	f.Add([]byte("a\x00a-b\x00a.b\x00A\x00..data\x00...\x00\xff"))
	f.Add([]byte("x~nix~case~hack~1/x/y~nix~case~hack~"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries := make(map[string]tree)
		for _, name := range strings.FieldsFunc(string(data), func(r rune) bool { return r == 0 || r == '/' }) {
			if name != "." && name != ".." && len(name) <= 255 {
				entries[name] = file(name)
			}
		}
		tr := directory(entries)
		path := filepath.Join(t.TempDir(), "x")
		tr.create(t, path)
		got := dump(t, path)
		diff(t, "Dump", got, []byte(tr.nar()))
		checkReadBack(t, got, tr)
	})
}
