package cachecheck

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nar"
)

func (r *trial) listingFile(name string) string {
	return filepath.Join(r.dir, bincache.ListingName(r.paths[name]))
}

// list writes the listings of some names, as the NARs have them.
func (r *trial) list(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		f, err := os.Open(r.narFile(t, name)) // not compressed
		must(t, err)
		var text bytes.Buffer
		from := nar.NewReader(f)
		from.Listing = nar.NewListing(&text)
		_, _, err = from.Copy(new(bytes.Buffer))
		must(t, err)
		must(t, from.Listing.Close())
		f.Close()
		must(t, os.WriteFile(r.listingFile(name), text.Bytes(), 0o644))
	}
}

func (r *trial) replace(t testing.TB, file, old, new string) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Contains(text, []byte(old)) {
		t.Fatalf("%s is %s", file, text)
	}
	must(t, os.WriteFile(file, bytes.Replace(text, []byte(old), []byte(new), 1), 0o644))
}

func TestListingsAreLookedAt(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		what string
		do   func(t *testing.T, r *trial)
		of   []string // problems
		full bool     // takes contents to see it
	}{
		{"all is well", func(t *testing.T, r *trial) {}, nil, true},
		{"other order and spaces", func(t *testing.T, r *trial) {
			r.replace(t, r.listingFile("left"), `,"version":1}`, " }\n")
			r.replace(t, r.listingFile("left"), `{"root"`, `{"version": 1, "root" `)
		}, nil, true},
		{"cut off", func(t *testing.T, r *trial) { must(t, os.Truncate(r.listingFile("left"), 20)) }, []string{"listing left"}, false},
		{"no JSON", func(t *testing.T, r *trial) { r.replace(t, r.listingFile("left"), "{", "[") }, []string{"listing left"}, false},
		{"no sizes", func(t *testing.T, r *trial) { r.replace(t, r.listingFile("left"), `"size":`, `"sixe":`) }, []string{"listing left"}, false},
		{"a link out of the cache", func(t *testing.T, r *trial) {
			must(t, os.Remove(r.listingFile("left")))
			must(t, os.Symlink("/etc/hostname", r.listingFile("left")))
		}, []string{"listing left"}, false},
		{"another size", func(t *testing.T, r *trial) { r.replace(t, r.listingFile("left"), `"size":`, `"size":1`) }, []string{"listing left"}, true},
		{"another offset", func(t *testing.T, r *trial) { r.replace(t, r.listingFile("left"), `"narOffset":`, `"narOffset":1`) }, []string{"listing left"}, true},
		{"another's", func(t *testing.T, r *trial) {
			text, err := os.ReadFile(r.listingFile("source"))
			must(t, err)
			must(t, os.WriteFile(r.listingFile("left"), text, 0o644))
		}, []string{"listing left"}, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := s.trial(t)
			r.hide() // no store is needed
			r.list(t, "left", "right", "source", "base", "twin")
			want, err := os.ReadFile(r.listingFile("left"))
			must(t, err)
			c.do(t, r)
			r.checker.Contents = false
			quick := r.check(t)
			if c.full {
				is(t, r, quick.Problems)
				r.checker.Contents = true
				is(t, r, r.check(t).Problems, c.of...)
			} else {
				is(t, r, quick.Problems, c.of...)
			}
			if len(c.of) == 0 {
				return
			}
			is(t, r, r.mend(t), c.of[0]+" rewritten")
			if is, err := os.ReadFile(r.listingFile("left")); err != nil || string(is) != string(want) {
				t.Errorf("it is %s, want %s; %v", is, want, err)
			}
			r.isWell(t)
		})
	}
}

// A listing of nothing does no harm, and one goes with its entry.
func TestListingOfNoEntryIsANote(t *testing.T) {
	r := newSite(t).trial(t)
	r.hide()
	orphan := strings.Repeat("0", 32) + ".ls"
	must(t, os.WriteFile(filepath.Join(r.dir, orphan), []byte("{}"), 0o644))
	report := r.check(t)
	is(t, r, report.Problems)
	is(t, r, report.Notes, "listing "+orphan)
	r.list(t, "left")
	must(t, os.WriteFile(r.narInfoFile("left"), nil, 0o644))
	must(t, os.WriteFile(r.listingFile("left"), nil, 0o644))
	is(t, r, r.mend(t), "narinfo left withdrawn", "reference top withdrawn")
	r.isWell(t, "base", "right", "source", "twin")
}

// realise adds a chain of realisations, of which each depends on the one before.
func (r *trial) realise(t testing.TB, names ...string) (files []string) {
	t.Helper()
	var list []*bincache.Realisation
	for i, name := range names {
		n := &bincache.Realisation{Drv: fmt.Sprintf("sha256:%064x", i), Output: "out", OutPath: filepath.Base(r.paths[name])}
		if i > 0 {
			n.Dependent = map[string]string{list[i-1].ID(): list[i-1].OutPath}
		}
		list, files = append(list, n), append(files, n.File())
	}
	list = append(list, &bincache.Realisation{Drv: filepath.Base(r.paths[names[0]]) + ".drv", Output: "out", OutPath: filepath.Base(r.paths[names[0]])})
	_, err := r.cache.AddRealisations(t.Context(), list, nil)
	must(t, err)
	return append(files, list[len(names)].File())
}

func TestRealisationsAreLookedAt(t *testing.T) {
	s := newSite(t)
	trial := func(t *testing.T) (*trial, []string) {
		r := s.trial(t)
		r.hide()
		return r, r.realise(t, "base", "left", "top")
	}
	t.Run("cut off", func(t *testing.T) {
		r, files := trial(t)
		must(t, os.Truncate(filepath.Join(r.dir, files[0]), 9))
		must(t, os.Truncate(filepath.Join(r.dir, files[3]), 0))
		// What depends on it can't be found by those who look.
		is(t, r, r.check(t).Problems, "realisation "+files[0], "realisation left", "realisation "+files[3])
		is(t, r, r.mend(t), "realisation "+files[0]+" withdrawn", "realisation left withdrawn", "realisation top withdrawn", "realisation "+files[3]+" withdrawn")
		r.isWell(t)
	})
	t.Run("depends on another path", func(t *testing.T) {
		r, files := trial(t)
		r.replace(t, filepath.Join(r.dir, files[1]), filepath.Base(r.paths["base"]), filepath.Base(r.paths["twin"]))
		is(t, r, r.check(t).Problems, "realisation left")
		is(t, r, r.mend(t), "realisation left withdrawn", "realisation top withdrawn")
		r.isWell(t)
	})
	t.Run("a pipe", func(t *testing.T) {
		r, files := trial(t)
		must(t, os.Remove(filepath.Join(r.dir, files[2])))
		must(t, os.Symlink("/dev/zero", filepath.Join(r.dir, files[2])))
		is(t, r, r.check(t).Problems, "realisation "+files[2])
		is(t, r, r.mend(t), "realisation "+files[2]+" withdrawn")
		r.isWell(t)
	})
	t.Run("promises what is not there", func(t *testing.T) {
		r, _ := trial(t)
		must(t, os.Remove(r.narInfoFile("top")))
		r.checker.Upstream = true
		is(t, r, r.check(t).Problems)
		r.checker.Upstream = false
		is(t, r, r.check(t).Problems, "realisation top")
		r.mender.Closed = false
		is(t, r, r.mend(t), "realisation top left")
		r.mender.Closed = true
		is(t, r, r.mend(t), "realisation top withdrawn")
		r.isWell(t, "base", "left", "right", "source", "twin")
	})
	t.Run("the store has what it promises", func(t *testing.T) {
		r := s.trial(t)
		r.realise(t, "base", "left", "top")
		must(t, os.Remove(r.narInfoFile("top")))
		is(t, r, r.mend(t), "realisation top rewritten")
		r.isWell(t)
	})
	t.Run("goes with what was collected", func(t *testing.T) {
		r := s.trial(t)
		files := r.realise(t, "base", "left", "top")
		must(t, r.cache.Retire(time.Now().Add(time.Hour), files[2], files[1]))
		must(t, os.Remove(r.narInfoFile("top")))
		report := r.check(t)
		is(t, r, report.Problems)
		is(t, r, report.Notes, "realisation top") // of left there is all
		is(t, r, r.mend(t))
		if _, err := os.Stat(r.narInfoFile("top")); err == nil {
			t.Error("what was collected is back")
		}
	})
	t.Run("goes with its entry", func(t *testing.T) {
		r, _ := trial(t)
		must(t, os.WriteFile(r.narInfoFile("top"), nil, 0o644))
		is(t, r, r.mend(t), "narinfo top withdrawn")
	})
	t.Run("signatures", func(t *testing.T) {
		r, files := trial(t)
		secret, public, err := signature.GenerateKeypair("key-1", rand.Reader)
		must(t, err)
		_, err = r.cache.Resign(t.Context(), bincache.Resigning{Keys: []signature.SecretKey{secret}})
		must(t, err)
		r.checker.Keys = []signature.PublicKey{public}
		if report := r.check(t); len(report.Problems)+len(report.Notes) > 0 {
			t.Errorf("signed: %s%s", show(report.Problems), show(report.Notes))
		}
		r.replace(t, filepath.Join(r.dir, files[0]), `"key-1:`, `"other-1:`)
		on, err := r.cache.Realisation(files[1])
		must(t, err)
		text := string(on.Format())
		for _, sig := range on.Sigs {
			value := []byte(strings.TrimPrefix(sig, "key-1:"))
			slices.Reverse(value[:40])
			text = strings.ReplaceAll(text, sig, "key-1:"+string(value))
		}
		must(t, os.WriteFile(filepath.Join(r.dir, files[1]), []byte(text), 0o644))
		report := r.check(t)
		is(t, r, report.Problems, "signature left")
		is(t, r, report.Notes, "signature base")
		is(t, r, r.mend(t), "signature left left")
	})
}

func TestLogsAreUnpacked(t *testing.T) {
	r := newSite(t).trial(t)
	r.hide()
	write := func(name, text string) string {
		must(t, os.WriteFile(filepath.Join(r.dir, "log", name), []byte(text), 0o644))
		return "log/" + name
	}
	write("a-text.drv", "BZh is how bzip2 begins\n")
	write("b-empty.drv", "")
	cut := write("c-cut.drv", "\x28\xb5\x2f\xfd\x24")
	pipe := "log/d-link.drv"
	must(t, os.Symlink("/dev/zero", filepath.Join(r.dir, pipe)))
	r.checker.Contents = false
	is(t, r, r.check(t).Problems, "log "+pipe)
	r.checker.Contents = true
	is(t, r, r.check(t).Problems, "log "+cut, "log "+pipe)
	is(t, r, r.mend(t), "log "+cut+" removed", "log "+pipe+" removed")
	r.isWell(t)
}
