package compress

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// golden returns what Nix has made of one NAR with every method that it writes, by
// method: testdata/README.md says how.
func golden(t testing.TB) (nar []byte, packed map[string][]byte) {
	t.Helper()
	files, err := filepath.Glob("testdata/sample.nar.*")
	must(t, err)
	packed = make(map[string][]byte)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		packed[strings.TrimPrefix(filepath.Ext(file), ".")] = text
	}
	if len(packed) < 8 {
		t.Fatalf("testdata has %d samples", len(packed))
	}
	return packed["none"], packed
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// read reads all that comes out.
func read(t testing.TB, method string, packed io.Reader, size int) ([]byte, error) {
	t.Helper()
	r, err := NewReader(method, packed, int64(size))
	must(t, err)
	defer func() { must(t, r.Close()) }()
	return io.ReadAll(r)
}

func TestWhatNixWroteIsRead(t *testing.T) {
	nar, packed := golden(t)
	packed[""] = packed["bzip2"]
	for method, text := range packed {
		for how, from := range map[string]io.Reader{
			"whole":      bytes.NewReader(text),
			"by byte":    iotest.OneByteReader(bytes.NewReader(text)),
			"with error": iotest.DataErrReader(bytes.NewReader(text)),
		} {
			got, err := read(t, method, from, len(nar))
			if err != nil || !bytes.Equal(got, nar) {
				t.Errorf("%s, %s: %d bytes, %v; want %d", method, how, len(got), err, len(nar))
			}
		}
	}
}

func TestMethodsWithoutDecoderAreNamed(t *testing.T) {
	for _, method := range []string{"grzip", "lrzip", "lzop", "rot13"} {
		if _, err := NewReader(method, strings.NewReader(""), 1); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), method) {
			t.Errorf("%s: %v, want ErrUnsupported and the method's name", method, err)
		}
	}
}

// Whoever writes frames in parallel puts one stream behind the other.
func TestSeveralStreamsAreOne(t *testing.T) {
	nar, packed := golden(t)
	for method, text := range packed {
		if method == "none" || method == "br" || method == "lzma" || method == "compress" {
			continue // those have no such thing
		}
		got, err := read(t, method, bytes.NewReader(slices.Concat(text, text)), 2*len(nar))
		if err != nil || !bytes.Equal(got, slices.Concat(nar, nar)) {
			t.Errorf("%s: %d bytes, %v; want %d", method, len(got), err, 2*len(nar))
		}
	}
}

func TestNoMoreComesOutThanWasSaid(t *testing.T) {
	nar, packed := golden(t)
	for method, text := range packed {
		for _, size := range []int{0, 1, len(nar) - 1, len(nar) + 1} {
			got, err := read(t, method, bytes.NewReader(text), size)
			if !errors.Is(err, ErrCorrupt) || len(got) > size {
				t.Errorf("%s: %d bytes and %v, want %d at most, and ErrCorrupt", method, len(got), err, size)
			}
		}
	}
}

func TestDamageIsFound(t *testing.T) {
	nar, packed := golden(t)
	for method, text := range packed {
		for name, damaged := range map[string][]byte{
			"cut":      text[:len(text)*2/3],
			"empty":    nil,
			"no end":   text[:len(text)-1],
			"not this": []byte("something else altogether, and longer than any header is"),
		} {
			if name == "no end" && (method == "lzma" || method == "compress") {
				continue // whose ends say nothing
			}
			if got, err := read(t, method, bytes.NewReader(damaged), len(nar)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: %d bytes and %v, want ErrCorrupt", method, name, len(got), err)
			}
		}
	}
}

func TestErrorsOfTheSourceAreNotDamage(t *testing.T) {
	nar, packed := golden(t)
	gone := errors.New("stale file handle")
	for method, text := range packed {
		from := io.MultiReader(bytes.NewReader(text[:len(text)/2]), iotest.ErrReader(gone))
		if _, err := read(t, method, from, len(nar)); !errors.Is(err, gone) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want %v", method, err, gone)
		}
	}
}

// A window that is larger than MaxWindow is refused before there is memory for it.
func TestLargeWindowsAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		// Made with zstd --ultra --long=28, xz --lzma2=dict=256MiB, xz --lzma1=dict=256MiB.
		"zstd": "\x28\xb5\x2f\xfd\x00\x90\x09\x00\x00x",
		"lzip": "LZIP\x01\x1d" + strings.Repeat("\x00", 100),
		"lzma": "\x5d\x00\x00\x00\x10" + strings.Repeat("\xff", 8) + strings.Repeat("\x00", 100),
	} {
		if got, err := read(t, name, strings.NewReader(text), 1); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %q and %v, want ErrCorrupt", name, got, err)
		}
	}
	large, err := os.ReadFile("testdata/window.xz")
	must(t, err)
	if got, err := read(t, "xz", bytes.NewReader(large), 6); !errors.Is(err, ErrCorrupt) {
		t.Errorf("xz: %q and %v, want ErrCorrupt", got, err)
	}
}

func TestClosedReaderReadsNothing(t *testing.T) {
	nar, packed := golden(t)
	for _, method := range []string{"none", "zstd"} {
		r, err := NewReader(method, bytes.NewReader(packed[method]), int64(len(nar)))
		must(t, err)
		_, err = r.Read(make([]byte, 10))
		must(t, err)
		must(t, r.Close())
		must(t, r.Close())
		if n, err := r.Read(make([]byte, 10)); n > 0 || err == nil || err == io.EOF {
			t.Errorf("%s: read %d bytes, %v", method, n, err)
		}
	}
}

// FuzzReader has every decoder read anything: none may crash, hang, or give more than
// it was to.
func FuzzReader(f *testing.F) {
	nar, packed := golden(f)
	for method, text := range packed {
		f.Add(method, text, len(nar))
	}
	f.Fuzz(func(t *testing.T, method string, text []byte, size int) {
		size &= 1<<20 - 1
		r, err := NewReader(method, bytes.NewReader(text), int64(size))
		if err != nil {
			return
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if len(got) > size || err == nil && len(got) < size {
			t.Errorf("%s: %d bytes and %v, want %d", method, len(got), err, size)
		}
	})
}
