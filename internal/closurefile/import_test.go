package closurefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
)

func TestWhatIsImportedIsInTheCache(t *testing.T) {
	c := newCache(t)
	s := stream(thing{name: "lib", deriver: "lib.drv"}, thing{name: "top", refs: []string{"lib", "top"}})
	r, err := imports(t, c, s)
	must(t, err)
	if r.Paths != 2 || r.Added != 2 || r.NarBytes == 0 || r.FileBytes != r.NarBytes {
		t.Errorf("result is %+v", r)
	}
	has(t, c, "lib", "top")
	n, err := c.Entry(storePath("lib"))
	must(t, err)
	if n.Deriver != baseName("lib.drv") || n.CA != "" || len(n.Sigs) > 0 {
		t.Errorf("entry is %+v", n)
	}
	if r, err := imports(t, c, s); err != nil || r.Paths != 2 || r.Added != 0 {
		t.Errorf("the second time: %+v, %v", r, err)
	}
	out, err := exported(t, Source{Cache: c, Paths: paths("top")})
	if err != nil || out != s {
		t.Errorf("exported is %q, %v, want %q", out, err, s)
	}
}

func TestManyBatchesAreImportedInOrder(t *testing.T) {
	var things []thing
	for i := range 2*atOnceHere + 10 {
		x := thing{name: fmt.Sprint("p", i)}
		if i > 0 {
			x.refs = []string{fmt.Sprint("p", i-1)}
		}
		things = append(things, x)
	}
	c := filled(t, things...)
	s, err := exported(t, Source{Cache: c, Paths: paths(things[len(things)-1].name)})
	if err != nil || s != stream(things...) {
		t.Errorf("exported are %d bytes, want %d: %v", len(s), len(stream(things...)), err)
	}
}

func TestPathWhoseReferencesAreNotThereIsNotImported(t *testing.T) {
	c := newCache(t)
	s := stream(thing{name: "a"}, thing{name: "top", refs: []string{"lib"}}, thing{name: "lib"})
	r, err := imports(t, c, s)
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), storePath("top")+": "+baseName("lib")) || r.Added != 1 {
		t.Errorf("result is %+v, %v", r, err)
	}
	has(t, c, "a")
	r, err = imports(t, c, s, func(x *Target) { x.AllowMissing = true })
	if err != nil || r.Added != 2 || r.Relying != 1 {
		t.Errorf("with permission: %+v, %v", r, err)
	}
	has(t, c, "a", "lib", "top")

	c = filled(t, thing{name: "lib"})
	if _, err := imports(t, c, stream(thing{name: "top", refs: []string{"lib"}})); err != nil {
		t.Errorf("with what the cache has: %v", err)
	}
}

// However many compress, entries are what one alone makes of them.
func TestImportIsCompressedByAnyNumberOfWorkers(t *testing.T) {
	var things []thing
	for i := range 10 {
		things = append(things, thing{name: fmt.Sprint("small", i), text: strings.Repeat("text", 1000*i)})
	}
	things = append(things, thing{name: "large", text: strings.Repeat("large text", 4<<20)}, thing{name: "last"})
	want := make(map[string]string)
	for _, method := range []string{"zstd:3", "xz:0"} {
		for _, workers := range []int{1, 2, 5} {
			c := newCache(t)
			m, err := compress.Parse(method)
			must(t, err)
			_, err = imports(t, c, stream(things...), func(x *Target) { x.Method, x.Workers = m, workers })
			must(t, err)
			for _, i := range things {
				n, err := c.Entry(storePath(i.name))
				must(t, err)
				text := string(n.Format())
				if workers == 1 {
					want[method+i.name] = text
				}
				if text != want[method+i.name] {
					t.Errorf("%s by %d: %s\n%s", method, workers, text, want[method+i.name])
				}
			}
			if method == "zstd:3" {
				if s, err := exported(t, Source{Cache: c, Paths: paths(things[len(things)-1].name, "large")}); err != nil || len(s) < 40<<20 {
					t.Errorf("exported %d bytes: %v", len(s), err)
				}
			}
		}
	}
}

func TestOtherContentsOfAPathAreNotImported(t *testing.T) {
	c := filled(t, thing{name: "a"})
	before, err := c.Entry(storePath("a"))
	must(t, err)
	_, err = imports(t, c, stream(thing{name: "a", text: "other"}, thing{name: "b", refs: []string{"a"}}, thing{name: "b", text: "other"}))
	must(t, err)
	has(t, c, "a", "b")
	if after, err := c.Entry(storePath("a")); err != nil || after.NarHash != before.NarHash {
		t.Errorf("nar hash is %v now, was %v: %v", after.NarHash, before.NarHash, err)
	}
}

func TestImportSignsWhatIsThereToo(t *testing.T) {
	key, public, err := signature.GenerateKeypair("test-1", nil)
	must(t, err)
	c := filled(t, thing{name: "a"})
	sign := func(x *Target) { x.Keys = []signature.SecretKey{key} }
	r, err := imports(t, c, stream(thing{name: "a"}, thing{name: "b"}), sign)
	if err != nil || r.Added != 1 || r.Signatures != 1 {
		t.Errorf("result is %+v, %v", r, err)
	}
	for _, name := range []string{"a", "b"} {
		n, err := c.Entry(storePath(name))
		must(t, err)
		if state := n.SignatureState([]signature.PublicKey{public}); state != bincache.Valid {
			t.Errorf("signature of %s is %s", name, state)
		}
	}
}

// hostile are streams of which nothing may be imported but "before", by what is wrong.
func hostile() map[string]string {
	bad := func(path, refs, rest string) string {
		return nums(1) + thing{name: "x"}.nar() + nums(pathMagic) + strs(path) + refs + rest
	}
	none := nums(0)
	end := strs("") + nums(0, 0)
	return map[string]string{
		"neither path nor end": nums(2),
		"a NAR alone":          thing{name: "x"}.nar(),
		"other magic":          nums(1) + thing{name: "x"}.nar() + nums(0x4558494f) + strs(storePath("x")) + none + end,
		"no NAR":               nums(1) + strs("nix-archive-0"),
		"path with a slash":    bad(storePath("x")+"/y", none, end),
		"path above":           bad(storeDir+"/../"+baseName("x"), none, end),
		"path elsewhere":       bad("/etc/"+baseName("x"), none, end),
		"path of another dir":  bad(storeDir+"/x/"+baseName("x"), none, end),
		"path without dir":     bad(baseName("x"), none, end),
		"path without hash":    bad(storeDir+"/x", none, end),
		"path with line feed":  bad(storePath("x")+"\nSig: a", none, end),
		"path with NUL":        bad(storePath("x")+"\x00", none, end),
		"path is empty":        bad("", none, end),
		"path is dots":         bad(storeDir+"/..", none, end),
		"path is huge":         bad(storeDir+"/"+strings.Repeat("x", 1<<20), none, end),
		"path is longer":       nums(1) + thing{name: "x"}.nar() + nums(pathMagic) + nums(1<<62),
		"reference elsewhere":  bad(storePath("x"), nums(1)+strs("/etc/passwd"), end),
		"reference above":      bad(storePath("x"), nums(1)+strs(storeDir+"/.."), end),
		"many references":      bad(storePath("x"), nums(1<<62), ""),
		"references cut off":   bad(storePath("x"), nums(2)+strs(storePath("before")), ""),
		"deriver elsewhere":    bad(storePath("x"), none, strs("/etc/passwd")+nums(0, 0)),
		"deriver with spaces":  bad(storePath("x"), none, strs(storeDir+"/a b")+nums(0, 0)),
		"something behind":     bad(storePath("x"), none, strs("")+nums(2)),
		"huge old signature":   bad(storePath("x"), none, strs("")+nums(1, 1<<62)),
		"padding":              nums(1) + thing{name: "x"}.nar() + nums(pathMagic, 3) + "abc\x00\x00\x00\x00\x01",
	}
}

func TestHostileStreamIsRefusedAndWhatCameBeforeIsKept(t *testing.T) {
	before := thing{name: "before"}
	for name, s := range hostile() {
		c := newCache(t)
		r, err := imports(t, c, before.stream()+s)
		if !errors.Is(err, ErrStream) || r.Paths != 1 || r.Added != 1 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
		has(t, c, "before")
	}
}

func TestStreamThatIsCutOffIsImportedAsFarAsItIsWhole(t *testing.T) {
	first, second := thing{name: "a"}, thing{name: "b", refs: []string{"a"}, deriver: "b.drv"}
	whole := stream(first, second)
	for length := range len(whole) {
		if length%24 != 0 && length%37 != 0 && length < len(whole)-9 {
			continue // not at each, since syncs take time
		}
		c := newCache(t)
		_, err := imports(t, c, whole[:length])
		if !errors.Is(err, ErrStream) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("at %d of %d: %v", length, len(whole), err)
		}
		switch {
		case length >= len(whole)-8:
			has(t, c, "a", "b")
		case length >= len(first.stream()):
			has(t, c, "a")
		default:
			has(t, c)
		}
	}
}

func TestOldSignatureInAStreamIsIgnored(t *testing.T) {
	s := strings.TrimSuffix(thing{name: "a"}.stream(), nums(0)) + nums(1) + strs("signature") + nums(0)
	c := newCache(t)
	if _, err := imports(t, c, s); err != nil {
		t.Error(err)
	}
	has(t, c, "a")
}

func TestImportThatIsStoppedLeavesAWholeCache(t *testing.T) {
	c := newCache(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := stream(thing{name: "a"}, thing{name: "b", text: strings.Repeat("long", 1<<20)})
	in := &stopping{Reader: strings.NewReader(s), after: 2 << 20, stop: cancel}
	_, err := NewImporter(Target{Cache: c, Method: plain}, nar.NewReader(in)).Run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	nothingUnfinished(t, c)
	has(t, c)
}

type stopping struct {
	io.Reader
	after int
	stop  func()
}

func (s *stopping) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if s.after -= n; s.after < 0 {
		s.stop()
	}
	return n, err
}

func TestErrorOfTheInputIsNotTakenForABadStream(t *testing.T) {
	broken := errors.New("broken")
	s := stream(thing{name: "a"})
	in := io.MultiReader(strings.NewReader(s[:100]), iotest.ErrReader(broken))
	_, err := NewImporter(Target{Cache: newCache(t), Method: plain}, nar.NewReader(in)).Run(t.Context())
	if !errors.Is(err, broken) || errors.Is(err, ErrStream) {
		t.Error(err)
	}
}

// FuzzImport: whatever the stream is, the cache is whole, and what is in it comes out as
// it came in.
func FuzzImport(f *testing.F) {
	for _, s := range hostile() {
		f.Add([]byte(s))
	}
	f.Add([]byte(stream(thing{name: "a"}, thing{name: "b", refs: []string{"a"}, deriver: "b.drv"})))
	f.Fuzz(func(t *testing.T, input []byte) {
		c := newCache(t)
		r, err := imports(t, c, string(input))
		if err != nil && !errors.Is(err, ErrStream) && !errors.Is(err, ErrMissing) {
			t.Fatal(err)
		}
		var all []string
		for n, err := range c.Entries(t.Context()) {
			must(t, err)
			all = append(all, n.StorePath)
		}
		if len(all) != r.Added {
			t.Fatalf("%d entries are there, %d were added", len(all), r.Added)
		}
		slices.Sort(all)
		s, err := exported(t, Source{Cache: c, Paths: all})
		must(t, err)
		again := newCache(t)
		if r2, err := imports(t, again, s); err != nil || r2.Added != r.Added {
			t.Fatalf("imported again: %+v, %v", r2, err)
		}
		if len(all) == 0 {
			return
		}
		names, err := filepath.Glob(filepath.Join(again.Path(), "*.narinfo"))
		must(t, err)
		if len(names) != len(all) {
			t.Fatalf("%d narinfos, want %d", len(names), len(all))
		}
	})
}
