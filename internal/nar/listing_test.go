package nar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// list returns the NAR of a path, and its listing.
func list(t testing.TB, path string) (nar, listing []byte, err error) {
	t.Helper()
	var dumped, listed bytes.Buffer
	d := Dumper{Listing: NewListing(&listed)}
	if _, err := d.Dump(t.Context(), &dumped, path); err != nil {
		t.Fatal(err)
	}
	err = d.Listing.Close()
	return dumped.Bytes(), listed.Bytes(), err
}

// A listedNode is a node of a listing.
type listedNode struct {
	Type       string                `json:"type"`
	Entries    map[string]listedNode `json:"entries"`
	Executable bool                  `json:"executable"`
	NarOffset  int64                 `json:"narOffset"`
	Size       int64                 `json:"size"`
	Target     string                `json:"target"`
}

// tree returns what a listing says, with contents of the NAR.
func (n listedNode) tree(nar []byte) tree {
	switch n.Type {
	case "directory":
		entries := make(map[string]tree)
		for name, entry := range n.Entries {
			entries[name] = entry.tree(nar)
		}
		return directory(entries)
	case "symlink":
		return symlink(n.Target)
	case "regular":
		contents := string(nar[n.NarOffset : n.NarOffset+n.Size])
		if n.Executable {
			return executable(contents)
		}
		return file(contents)
	}
	panic("type is " + n.Type)
}

// isText tells whether all names and targets are UTF-8.
func (tr tree) isText() bool {
	for name, entry := range tr.entries {
		if !utf8.ValidString(name) || !entry.isText() {
			return false
		}
	}
	return !tr.is(os.ModeSymlink) || utf8.ValidString(tr.data)
}

// text returns tr with names and targets that are.
func (tr tree) text() tree {
	if tr.is(os.ModeSymlink) {
		return symlink(strings.ToValidUTF8(tr.data, "é"))
	}
	if !tr.is(os.ModeDir) {
		return tr
	}
	entries := make(map[string]tree)
	for name, entry := range tr.entries {
		entries[strings.ToValidUTF8(name, "é")] = entry.text()
	}
	return directory(entries)
}

// checkListing checks that a tree's listing leads to all that is in its NAR.
func checkListing(t testing.TB, tr tree) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x")
	tr.create(t, path)
	nar, listing, err := list(t, path)
	diff(t, "nar beside a listing", nar, []byte(tr.nar()))
	if !tr.isText() {
		if !errors.Is(err, ErrNotText) {
			t.Errorf("error is %v, want ErrNotText", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var l struct {
		Version int
		Root    listedNode
	}
	if err := json.Unmarshal(listing, &l); err != nil || l.Version != 1 {
		t.Fatalf("version %d, %v: %s", l.Version, err, listing)
	}
	if got, want := l.Root.tree(nar).lines("/"), tr.lines("/"); !slices.Equal(got, want) {
		t.Errorf("listing says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestListingLeadsToContents(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 10 {
		tr := randomTree(r, 2)
		checkListing(t, tr)
		checkListing(t, tr.text())
	}
	for _, tr := range []tree{file(""), file("contents"), executable("#!"), symlink("target"), directory(nil)} {
		checkListing(t, tr)
	}
}

// listedTree is what Nix 2.34 lists in testdata/listing.ls.
var listedTree = directory(map[string]tree{
	"a":         file("contents\n"),
	"empty":     file(""),
	"run":       executable("#!/bin/sh\n"),
	"link":      symlink("a \"quoted\" \\ target"),
	"directory": directory(map[string]tree{"empty": directory(nil), "grüße": file("1\n"), "日本語": symlink("../a")}),
	"tab\tline\nquote\"backslash\\bell\adelete\x7f<&>\u2028": file("x"),
})

func TestListingIsWhatNixWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	listedTree.create(t, path)
	_, listing, err := list(t, path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/listing.ls")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(listing)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestListingIsWrittenAsItGrows fails if a long one is kept in memory.
func TestListingIsWrittenAsItGrows(t *testing.T) {
	entries := make(map[string]tree)
	for i := range 5000 {
		entries[fmt.Sprintf("%0200d", i)] = file("")
	}
	path := filepath.Join(t.TempDir(), "x")
	directory(entries).create(t, path)
	largest := 0
	d := Dumper{Listing: NewListing(writerFunc(func(p []byte) (int, error) {
		largest = max(largest, len(p))
		return len(p), nil
	}))}
	if _, err := d.Dump(t.Context(), &bytes.Buffer{}, path); err != nil {
		t.Fatal(err)
	}
	if err := d.Listing.Close(); err != nil || largest == 0 || largest > 2*listingBlock {
		t.Errorf("%d bytes at once, %v", largest, err)
	}
}

// A listing that can't be written is no reason for a NAR not to be.
func TestListingsErrorIsNotDumps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	listedTree.create(t, path)
	full := errors.New("full")
	var nar bytes.Buffer
	d := Dumper{Listing: NewListing(writerFunc(func(p []byte) (int, error) { return 0, full }))}
	if _, err := d.Dump(t.Context(), &nar, path); err != nil {
		t.Error(err)
	}
	diff(t, "nar", nar.Bytes(), []byte(listedTree.nar()))
	if err := d.Listing.Close(); err != full {
		t.Errorf("error is %v", err)
	}
}

func FuzzListing(f *testing.F) {
	f.Add("name", "target", "contents", true)
	f.Add("\x00\x1f\"\\/\x7f", "\u2028\ufffd", "", false)
	f.Add("\xff", "\xed\xa0\x80", "", false)
	f.Fuzz(func(t *testing.T, name, target, contents string, exec bool) {
		tr := file(contents)
		if exec {
			tr = executable(contents)
		}
		name = strings.NewReplacer("\x00", "", "/", "").Replace(name)
		target = strings.ReplaceAll(target, "\x00", "")
		if len(name) > 200 || len(target) > 4000 {
			t.Skip("no file has that")
		}
		checkListing(t, directory(map[string]tree{"f" + name: tr, "l" + name: symlink("t" + target)}))
	})
}
