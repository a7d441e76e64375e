package nar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gonix "github.com/nix-community/go-nix/pkg/nar"
)

// A tree is a file, a symlink or a directory, as a test wants it on disk.
type tree struct {
	mode    fs.FileMode
	data    string // contents of a file, target of a symlink
	entries map[string]tree
}

func file(data string) tree             { return tree{mode: 0o444, data: data} }
func executable(data string) tree       { return tree{mode: 0o555, data: data} }
func symlink(target string) tree        { return tree{mode: fs.ModeSymlink, data: target} }
func directory(e map[string]tree) tree  { return tree{mode: fs.ModeDir, entries: e} }
func (tr tree) is(typ fs.FileMode) bool { return tr.mode.Type() == typ }

// create makes tr at path.
func (tr tree) create(t testing.TB, path string) {
	t.Helper()
	var err error
	switch {
	case tr.is(fs.ModeDir):
		err = os.Mkdir(path, 0o755)
		for name, entry := range tr.entries {
			entry.create(t, filepath.Join(path, name))
		}
	case tr.is(fs.ModeSymlink):
		err = os.Symlink(tr.data, path)
	default:
		if err = os.WriteFile(path, []byte(tr.data), 0o644); err == nil {
			err = os.Chmod(path, tr.mode) // despite the umask
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// nar returns the NAR of tr. It follows the grammar in the Nix manual word for
// word, and knows nothing of file systems or buffers.
func (tr tree) nar() string { return str("nix-archive-1") + tr.node() }

func (tr tree) node() string {
	s := str("(") + str("type")
	switch {
	case tr.is(fs.ModeDir):
		s += str("directory")
		var entries strings.Builder
		for _, name := range slices.Sorted(maps.Keys(tr.entries)) {
			entries.WriteString(str("entry") + str("(") + str("name") + str(name) +
				str("node") + tr.entries[name].node() + str(")"))
		}
		s += entries.String()
	case tr.is(fs.ModeSymlink):
		s += str("symlink") + str("target") + str(tr.data)
	default:
		s += str("regular")
		if tr.mode&0o100 != 0 {
			s += str("executable") + str("")
		}
		s += str("contents") + str(tr.data)
	}
	return s + str(")")
}

func str(s string) string {
	var length [8]byte
	binary.LittleEndian.PutUint64(length[:], uint64(len(s)))
	for s = string(length[:]) + s; len(s)%8 != 0; {
		s += "\x00"
	}
	return s
}

// lines describes tr, one line for each file, in the order of a NAR.
func (tr tree) lines(name string) []string {
	switch {
	case tr.is(fs.ModeDir):
		lines := []string{fmt.Sprintf("%q directory", name)}
		for _, entry := range slices.Sorted(maps.Keys(tr.entries)) {
			lines = append(lines, tr.entries[entry].lines(path.Join(name, entry))...)
		}
		return lines
	case tr.is(fs.ModeSymlink):
		return []string{fmt.Sprintf("%q symlink %q", name, tr.data)}
	default:
		return []string{fmt.Sprintf("%q regular %t %q", name, tr.mode&0o100 != 0, tr.data)}
	}
}

// checkReadBack checks that go-nix reads tr from nar.
func checkReadBack(t testing.TB, nar []byte, tr tree) {
	t.Helper()
	if bytes.Contains(nar, []byte(str("name")+str(")"))) {
		return // go-nix takes a file called ")" for the end of its directory
	}
	got, want := readLines(t, bytes.NewReader(nar)), tr.lines("/")
	if !slices.Equal(got, want) {
		t.Errorf("go-nix reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// readLines is lines for what go-nix reads from a NAR.
func readLines(t testing.TB, nar io.Reader) []string {
	t.Helper()
	r, err := gonix.NewReader(nar)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var lines []string
	for {
		h, err := r.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Type {
		case gonix.TypeDirectory:
			lines = append(lines, fmt.Sprintf("%q directory", h.Path))
		case gonix.TypeSymlink:
			lines = append(lines, fmt.Sprintf("%q symlink %q", h.Path, h.LinkTarget))
		case gonix.TypeRegular:
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fmt.Sprintf("%q regular %t %q", h.Path, h.Executable, data))
		}
	}
}

// randomTree returns a directory full of what tends to go wrong: names that
// sort by bytes but not by letters or runes, sizes around multiples of 8 and of
// blockSize.
func randomTree(r *rand.Rand, depth int) tree {
	entries := make(map[string]tree)
	for range r.Intn(12) {
		name := randomString(r, 1+r.Intn(12), "ab.-_+?=A~ \n\x01\x80\xff\xc3\xa9")
		if name == "." || name == ".." {
			continue
		}
		switch k := r.Intn(10); {
		case k < 3 && depth > 0:
			entries[name] = randomTree(r, depth-1)
		case k < 5:
			entries[name] = symlink(randomString(r, 1+r.Intn(200), "ab./\xff"))
		case k < 6:
			entries[name] = executable(randomString(r, r.Intn(40), "xyz\x00"))
		case k < 7:
			entries[name] = file(strings.Repeat("block", (blockSize+r.Intn(64)-32)/5))
		default:
			entries[name] = file(randomString(r, r.Intn(5000), "xyz\x00"))
		}
	}
	return directory(entries)
}

func randomString(r *rand.Rand, length int, alphabet string) string {
	b := make([]byte, length)
	for i := range b {
		b[i] = alphabet[r.Intn(len(alphabet))]
	}
	return string(b)
}
