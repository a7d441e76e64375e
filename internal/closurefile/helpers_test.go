package closurefile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
)

const storeDir = "/nix/store"

// A thing is a path of a stream.
type thing struct {
	name    string
	text    string // what is in it, by default its name
	refs    []string
	deriver string
}

func baseName(name string) string { return hashOf(name).Digits()[:32] + "-" + name }

func storePath(name string) string { return storeDir + "/" + baseName(name) }

func hashOf(text string) bincache.Hash { return sha256.Sum256([]byte(text)) }

// nar returns the NAR of a file.
func (i thing) nar() string {
	if i.text == "" {
		i.text = i.name
	}
	return strs("nix-archive-1", "(", "type", "regular", "contents", i.text, ")")
}

func strs(strings ...string) string {
	var b []byte
	for _, s := range strings {
		b = nar.AppendString(b, s)
	}
	return string(b)
}

func nums(numbers ...uint64) string { return string(appendNumbers(nil, numbers...)) }

// stream returns what nix-store --export writes of some items, in their order.
func stream(items ...thing) string {
	var s strings.Builder
	for _, i := range items {
		s.WriteString(i.stream())
	}
	return s.String() + nums(0)
}

func (i thing) stream() string {
	refs := make([]string, len(i.refs))
	for n, ref := range i.refs {
		refs[n] = storePath(ref)
	}
	slices.Sort(refs)
	deriver := ""
	if i.deriver != "" {
		deriver = storePath(i.deriver)
	}
	return nums(1) + i.nar() + nums(0x4558494e) + strs(storePath(i.name)) + nums(uint64(len(refs))) + strs(refs...) + strs(deriver) + nums(0)
}

var plain = compress.Method{Name: "none"}

// TestMain makes an empty cache: to copy it takes less time than to make one durably.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "larder-empty-")
	if err == nil {
		template = filepath.Join(dir, "cache")
		var c *bincache.Cache
		if c, err = bincache.Create(template, storeDir, bincache.Options{}); err == nil {
			err = c.Close()
		}
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var template string

func newCache(t testing.TB) *bincache.Cache {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	must(t, os.CopyFS(dir, os.DirFS(template)))
	c, err := bincache.Open(dir, storeDir)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// atOnceHere is publishAtOnce in these tests.
const atOnceHere = 20

// imports imports a stream without compression.
func imports(t testing.TB, c *bincache.Cache, stream string, change ...func(*Target)) (Imported, error) {
	t.Helper()
	target := Target{Cache: c, Method: plain}
	for _, f := range change {
		f(&target)
	}
	m := NewImporter(target, nar.NewReader(strings.NewReader(stream)))
	m.atOnce = atOnceHere
	r, err := m.Run(t.Context())
	nothingUnfinished(t, c)
	return r, err
}

// filled returns a cache with some items.
func filled(t testing.TB, items ...thing) *bincache.Cache {
	t.Helper()
	c := newCache(t)
	_, err := imports(t, c, stream(items...))
	must(t, err)
	return c
}

// smallHere is small in these tests.
const smallHere = 1 << 20

// exported exports what Source says.
func exported(t testing.TB, s Source) (string, error) {
	t.Helper()
	e, err := NewExporter(t.Context(), s)
	if err != nil {
		return "", err
	}
	e.small = smallHere
	var out bytes.Buffer
	r, err := e.Export(t.Context(), &out)
	if r.Bytes != int64(out.Len()) {
		t.Errorf("result says %d bytes, wrote %d", r.Bytes, out.Len())
	}
	return out.String(), err
}

func paths(names ...string) (paths []string) {
	for _, name := range names {
		paths = append(paths, storePath(name))
	}
	return paths
}

// has fails the test if a cache has others than these entries, or not whole.
func has(t testing.TB, c *bincache.Cache, names ...string) {
	t.Helper()
	var got []string
	for n, err := range c.Entries(context.Background()) {
		if err != nil {
			t.Error(err)
			continue
		}
		got = append(got, filepath.Base(n.StorePath)[33:])
		text, err := os.ReadFile(filepath.Join(c.Path(), n.URL))
		if err != nil || hashOf(string(text)) != n.FileHash {
			t.Errorf("NAR of %s is not right: %v", n.StorePath, err)
		}
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		t.Errorf("cache has %q, want %q", got, want)
	}
}

func nothingUnfinished(t testing.TB, c *bincache.Cache) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Path(), ".larder/tmp/*"))
	must(t, err)
	files = slices.DeleteFunc(files, func(file string) bool { return filepath.Base(file) == ".keep" })
	if len(files) > 0 {
		t.Errorf("unfinished files are left: %q", files)
	}
}

// edit changes a file in place.
func edit(t testing.TB, file string, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(change(string(text))), 0o644))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
