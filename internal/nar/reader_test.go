package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// copied returns what a Reader makes of some input.
func copied(input io.Reader) (out []byte, flat []byte, isFlat bool, err error) {
	r := NewReader(input)
	var flatBuf, buf bytes.Buffer
	r.Flat = &flatBuf
	size, isFlat, err := r.Copy(&buf)
	if err == nil && size != int64(buf.Len()) {
		err = errors.New("size is not what was written")
	}
	return buf.Bytes(), flatBuf.Bytes(), isFlat, err
}

// wellFormed are trees that every Nix can unpack, by what is odd about them.
func wellFormed() map[string]tree {
	return map[string]tree{
		"file":       file("text"),
		"empty":      file(""),
		"executable": executable("#!/bin/sh"),
		"symlink":    symlink("/nix/store"),
		"directory":  directory(nil),
		"tree": directory(map[string]tree{
			")": file("go-nix takes it for an end"), "A": executable("A"), "a": symlink(strings.Repeat("x", maxTarget)),
			strings.Repeat("n", maxName): directory(map[string]tree{"\xff": file("1234567")}), "entry": file("12345678"),
		}),
		"deep": deep(60), // Nix since 2.34.7 takes 63
	}
}

func TestReaderPassesOnWhatIsANARAndStopsAtItsEnd(t *testing.T) {
	long := strings.Repeat("long contents ", 100_000)
	trees := wellFormed()
	trees["long"] = file(long)
	trees["longer"] = directory(map[string]tree{"a": executable(long), "b": file(long)})
	trees["deepest"] = deep(maxDepth)
	for name, tr := range trees {
		want := tr.nar()
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "by the byte": iotest.OneByteReader, "with its end": iotest.DataErrReader,
		} {
			if how == "by the byte" && len(want) > 1<<20 {
				continue
			}
			r := NewReader(wrap(strings.NewReader(want + want + str("behind"))))
			var flat, out bytes.Buffer
			r.Flat = &flat
			for range 2 {
				out.Reset()
				flat.Reset()
				size, isFlat, err := r.Copy(&out)
				if err != nil || size != int64(len(want)) || out.String() != want {
					t.Errorf("%s, %s: %d of %d bytes, %v", name, how, size, len(want), err)
				}
				if isFlat != (tr.mode == 0o444) || isFlat && flat.String() != tr.data {
					t.Errorf("%s, %s: it is flat: %t, with %d bytes", name, how, isFlat, flat.Len())
				}
			}
			if s, err := r.String(6); s != "behind" || err != nil {
				t.Errorf("%s, %s: behind it is %q, %v", name, how, s, err)
			}
			if end, err := r.AtEnd(); !end || err != nil {
				t.Errorf("%s, %s: it is not at the end: %v", name, how, err)
			}
		}
	}
}

func deep(levels int) tree {
	tr := directory(nil)
	for range levels - 1 {
		tr = directory(map[string]tree{"d": tr})
	}
	return tr
}

// malformed are NARs that nobody may take, by what is wrong with them.
func malformed() map[string]string {
	begin := str("nix-archive-1") + str("(") + str("type")
	dir := func(entries string) string { return begin + str("directory") + entries + str(")") }
	entry := func(name, node string) string {
		return str("entry") + str("(") + str("name") + str(name) + str("node") + node + str(")")
	}
	empty := str("(") + str("type") + str("regular") + str("contents") + str("") + str(")")
	size := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
	return map[string]string{
		"nothing":           "",
		"other-magic":       str("nix-archive-2") + empty,
		"no-node":           str("nix-archive-1"),
		"other-type":        begin + str("fifo") + str(")"),
		"no-contents":       begin + str("regular") + str(")"),
		"no-target":         begin + str("symlink") + str(")"),
		"empty-target":      begin + str("symlink") + str("target") + str("") + str(")"),
		"nul-in-target":     begin + str("symlink") + str("target") + str("a\x00b") + str(")"),
		"long-target":       begin + str("symlink") + str("target") + str(strings.Repeat("x", maxTarget+1)) + str(")"),
		"executable-twice":  begin + str("regular") + str("executable") + str("") + str("executable") + str("") + str("contents") + str("") + str(")"),
		"executable-with":   begin + str("regular") + str("executable") + str("x") + str("contents") + str("") + str(")"),
		"executable-behind": begin + str("regular") + str("contents") + str("") + str("executable") + str("") + str(")"),
		"contents-twice":    begin + str("regular") + str("contents") + str("a") + str("contents") + str("b") + str(")"),
		"type-twice":        begin + str("regular") + str("type") + str("regular") + str("contents") + str("") + str(")"),
		"not-closed":        begin + str("regular") + str("contents") + str(""),
		"padding":           begin + str("regular") + str("contents") + size(1) + "a\x00\x00\x00\x00\x00\x00\x01" + str(")"),
		"padding-of-a-tag":  str("nix-archive-1")[:23] + "\x01" + empty,
		"huge-file":         begin + str("regular") + str("contents") + size(1<<63) + "data",
		"huge-file-cut-off": begin + str("regular") + str("contents") + size(1<<62) + "data",
		"huge-tag":          str("nix-archive-1") + size(1<<62),
		"huge-name":         begin + str("directory") + str("entry") + str("(") + str("name") + size(1<<40),
		"long-name":         dir(entry(strings.Repeat("n", maxName+1), empty)),
		"no-name":           dir(entry("", empty)),
		"dot":               dir(entry(".", empty)),
		"dot-dot":           dir(entry("..", empty)),
		"slash":             dir(entry("a/b", empty)),
		"absolute":          dir(entry("/etc", empty)),
		"nul-in-name":       dir(entry("a\x00", empty)),
		"not-sorted":        dir(entry("b", empty) + entry("a", empty)),
		"same-name":         dir(entry("a", empty) + entry("a", empty)),
		"name-twice":        dir(str("entry") + str("(") + str("name") + str("a") + str("name") + str("b") + str("node") + empty + str(")")),
		"no-node-in-entry":  dir(str("entry") + str("(") + str("name") + str("a") + str(")")),
		"node-before-name":  dir(str("entry") + str("(") + str("node") + empty + str("name") + str("a") + str(")")),
		"entry-not-closed":  dir(str("entry") + str("(") + str("name") + str("a") + str("node") + empty),
		"something-else":    dir(str("other")),
		"too-deep":          deep(maxDepth + 1).nar(),
	}
}

var update = flag.Bool("update", false, "write the NARs in testdata")

// golden returns NARs of testdata, by name. integration has every Nix unpack them.
func golden(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.nar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	nars := make(map[string]string)
	for _, file := range files {
		nar, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		nars[strings.TrimSuffix(filepath.Base(file), ".nar")] = string(nar)
	}
	return nars
}

func TestNARsOfTestdataAreTheOnesThatAreMeant(t *testing.T) {
	good := make(map[string]string)
	for name, tr := range wellFormed() {
		good[name] = tr.nar()
	}
	for dir, want := range map[string]map[string]string{"good": good, "bad": malformed()} {
		if *update {
			for name, nar := range want {
				if err := os.WriteFile(filepath.Join("testdata", dir, name+".nar"), []byte(nar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !maps.Equal(golden(t, dir), want) {
			t.Errorf("testdata/%s is not what the tests make; go test -update writes it", dir)
		}
	}
}

func TestReaderRefusesWhatIsNoNAR(t *testing.T) {
	for name, nar := range malformed() {
		_, _, _, err := copied(strings.NewReader(nar))
		if !errors.Is(err, ErrFormat) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := directory(map[string]tree{"a": file("abc"), "b": executable(strings.Repeat("long", 100)), "c": symlink("a")}).nar()
	for length := range len(whole) {
		if _, _, _, err := copied(strings.NewReader(whole[:length])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off at %d of %d: %v", length, len(whole), err)
		}
	}
}

func TestReaderTellsTheErrorsOfOthers(t *testing.T) {
	broken := errors.New("broken")
	nar := file(strings.Repeat("x", 1<<20)).nar()
	if _, _, _, err := copied(io.MultiReader(strings.NewReader(nar[:1000]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("reading: %v", err)
	}
	if _, _, err := NewReader(strings.NewReader(nar)).Copy(failing{broken}); !errors.Is(err, broken) {
		t.Errorf("writing: %v", err)
	}
	if _, _, _, err := copied(stuck{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("waiting: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestReaderTakesNoMoreMemoryForLargeFiles(t *testing.T) {
	const size = 1 << 30
	head := str("nix-archive-1") + str("(") + str("type") + str("regular") + str("contents") + string(binary.LittleEndian.AppendUint64(nil, size))
	r := NewReader(io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, size), strings.NewReader(str(")"))))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, _, err := r.Copy(io.Discard)
	runtime.ReadMemStats(&after)
	if err != nil || n != int64(len(head))+size+16 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<16 {
		t.Errorf("it took %d bytes of memory", grown)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// parse reads a NAR without looking much at it, and returns what is behind it.
func parse(s string) (tr tree, rest string, ok bool) {
	ok = true
	next := func() string {
		if !ok || len(s) < 8 {
			ok = false
			return ""
		}
		size := binary.LittleEndian.Uint64([]byte(s))
		padded := (size + 7) &^ 7
		if size > 1<<32 || padded > uint64(len(s)-8) {
			ok = false
			return ""
		}
		text := s[8 : 8+size]
		s = s[8+padded:]
		return text
	}
	var node func(depth int) tree
	node = func(depth int) tree {
		next()
		next()
		switch next() {
		case "regular":
			tr := file("")
			if next() == "executable" {
				tr = executable("")
				next()
				next()
			}
			tr.data = next()
			next()
			return tr
		case "symlink":
			next()
			tr := symlink(next())
			ok = ok && tr.data != "" && len(tr.data) <= maxTarget && !strings.Contains(tr.data, "\x00")
			next()
			return tr
		case "directory":
			ok = ok && depth < maxDepth
			tr := directory(make(map[string]tree))
			for ok && next() == "entry" {
				next()
				next()
				name := next()
				ok = ok && fs.ValidPath(strings.ToValidUTF8(name, "x")) && name != "." && !strings.ContainsAny(name, "/\x00") && len(name) <= maxName
				next()
				tr.entries[name] = node(depth + 1)
				next()
			}
			return tr
		}
		ok = false
		return tree{}
	}
	next()
	tr = node(0)
	return tr, s, ok
}

// FuzzReader compares with a reader that is as simple as can be: what is read is a NAR if
// it is what comes out when it is written again.
func FuzzReader(f *testing.F) {
	for _, nar := range malformed() {
		f.Add([]byte(nar))
	}
	random := rand.New(rand.NewSource(1))
	for range 20 {
		tr := randomTree(random, 3)
		f.Add([]byte(tr.nar()))
		f.Add([]byte(tr.nar() + "behind"))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		out, flat, isFlat, err := copied(bytes.NewReader(input))
		tr, rest, ok := parse(string(input))
		length := len(input) - len(rest)
		ok = ok && tr.nar() == string(input[:length])
		switch {
		case ok != (err == nil):
			t.Fatalf("error is %v, want one: %t", err, !ok)
		case ok && !bytes.Equal(out, input[:length]):
			t.Fatalf("%d bytes were passed on, want %d", len(out), length)
		case ok && isFlat != (tr.mode == 0o444), isFlat && string(flat) != tr.data:
			t.Fatalf("it is flat: %t, with %q", isFlat, flat)
		case !bytes.HasPrefix(input, out):
			t.Fatal("something else was passed on than was read")
		}
	})
}
