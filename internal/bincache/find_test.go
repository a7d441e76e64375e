package bincache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// oddities are what the entries of a cache may be, beside what they are as larder
// writes them.
var oddities = map[string]func(dir, narInfo, nar string) error{
	"as it was written": func(_, _, _ string) error { return nil },
	"narinfo is gone":   func(_, narInfo, _ string) error { return os.Remove(narInfo) },
	"narinfo is a link in the cache": func(_, narInfo, _ string) error {
		return errors.Join(os.Rename(narInfo, narInfo+"x"), os.Symlink(filepath.Base(narInfo)+"x", narInfo))
	},
	"narinfo is a link out of it": func(dir, narInfo, _ string) error {
		return errors.Join(os.Rename(narInfo, dir+"-outside"), os.Symlink(dir+"-outside", narInfo))
	},
	"narinfo is a directory": func(_, narInfo, _ string) error {
		return errors.Join(os.Remove(narInfo), os.Mkdir(narInfo, 0o755))
	},
	"narinfo is large": func(_, narInfo, _ string) error {
		return replace(narInfo, "References: ", "References: "+strings.Repeat(refHello+" ", 1000))
	},
	"narinfo is as large as the buffer": func(_, narInfo, _ string) error {
		text, err := os.ReadFile(narInfo)
		if err != nil {
			return err
		}
		more := "X: " + strings.Repeat("x", quickNarInfo-len(text)-len("X: \n")) + "\n"
		return os.WriteFile(narInfo, append(text, more...), 0o644)
	},
	"NAR is beside it": func(dir, narInfo, nar string) error {
		return errors.Join(os.Rename(nar, filepath.Join(dir, filepath.Base(nar))), replace(narInfo, "nar/", ""))
	},
	"NAR is further below": func(dir, narInfo, nar string) error {
		below := filepath.Join(dir, "nar", "below")
		return errors.Join(os.Mkdir(below, 0o755), os.Rename(nar, filepath.Join(below, filepath.Base(nar))), replace(narInfo, "nar/", "nar/below/"))
	},
	"NAR is a link in the cache": func(_, _, nar string) error {
		return errors.Join(os.Rename(nar, nar+"x"), os.Symlink(filepath.Base(nar)+"x", nar))
	},
	"NARs are elsewhere in the cache": func(dir, _, _ string) error {
		return errors.Join(os.Rename(dir+"/nar", dir+"/other"), os.Symlink("other", dir+"/nar"))
	},
	"NARs are out of the cache": func(dir, _, _ string) error {
		return errors.Join(os.Rename(dir+"/nar", dir+"-nar"), os.Symlink(dir+"-nar", dir+"/nar"))
	},
	"NARs are gone": func(dir, _, _ string) error { return os.RemoveAll(dir + "/nar") },
}

func TestFindSaysWhatEntrySays(t *testing.T) {
	all := maps.Clone(oddities)
	for name, damage := range damages {
		all[name] = func(_, narInfo, nar string) error { return damage(narInfo, nar) }
	}
	for name, change := range all {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			n := publish(t, c, hello, "hello")
			must(t, change(c.Path(), filepath.Join(c.Path(), narInfoName(hello)), filepath.Join(c.Path(), n.URL)))
			want, wantErr := c.Entry(hello)
			got := c.Find(t.Context(), []string{hello})[0]
			if diff := cmp.Diff(want, got.Entry, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-entry +found):\n%s", diff)
			}
			if errors.Is(wantErr, fs.ErrNotExist) != errors.Is(got.Err, fs.ErrNotExist) || errors.Is(wantErr, ErrDamaged) != errors.Is(got.Err, ErrDamaged) || (wantErr == nil) != (got.Err == nil) {
				t.Errorf("error is %v, want %v", got.Err, wantErr)
			}
			if strings.Contains(name, "out of") && got.Err == nil {
				t.Error("what is not in the cache was taken for an entry of it")
			}
		})
	}
}

// TestFindFindsMany has more than are looked for together, in no order.
func TestFindFindsMany(t *testing.T) {
	c := newCache(t)
	var paths []string
	there := make(map[string]bool)
	for i := range 300 {
		path := fmt.Sprintf("%s/%032d-x", storeDir, i)
		paths = append(paths, path)
		if there[path] = i%3 != 0; there[path] {
			publish(t, c, path, path)
		}
	}
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for i, found := range c.Find(t.Context(), paths) {
		switch {
		case there[paths[i]] && (found.Err != nil || found.Entry.StorePath != paths[i]):
			t.Errorf("%s: %v, %v", paths[i], found.Entry, found.Err)
		case !there[paths[i]] && !errors.Is(found.Err, fs.ErrNotExist):
			t.Errorf("%s: %v, %v; want fs.ErrNotExist", paths[i], found.Entry, found.Err)
		}
	}
	if found := c.Find(t.Context(), nil); len(found) != 0 {
		t.Errorf("found %v, and nothing was looked for", found)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, found := range c.Find(ctx, paths) {
		if !errors.Is(found.Err, context.Canceled) {
			t.Fatalf("canceled: %v", found.Err)
		}
	}
}

// TestHashesAreReadAsByTheLibrary compares with go-nix, whose way takes longer.
func TestHashesAreReadAsByTheLibrary(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var accepted, refused int
	for range 20_000 {
		digits := make([]byte, 52)
		for i := range digits {
			digits[i] = nixbase32.Alphabet[random.IntN(32)]
		}
		switch random.IntN(4) {
		case 0:
			digits[random.IntN(52)] = "eotuA\x00\xff "[random.IntN(8)]
		case 1:
			digits = digits[:random.IntN(52)]
		case 2:
			digits[0] = "01"[random.IntN(2)] // the others of the first digit are too much
		}
		want, err := nixbase32.DecodeString(string(digits))
		got, ok := decodeHash(string(digits))
		if wantOK := err == nil && len(digits) == 52; ok != wantOK || ok && got != Hash(want) {
			t.Fatalf("%q: %x, %v; want %s, %v", digits, got, ok, hex.EncodeToString(want), wantOK)
		}
		if ok {
			accepted++
		} else {
			refused++
		}
	}
	if accepted < 1000 || refused < 1000 {
		t.Errorf("%d were hashes, and %d were not: this shows little", accepted, refused)
	}
}
