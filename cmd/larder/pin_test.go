package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

func pinNames(t *testing.T, c *bincache.Cache) (names []string) {
	t.Helper()
	all, err := c.Pins()
	must(t, err)
	for _, p := range all {
		names = append(names, p.Name)
	}
	return names
}

func TestPinKeepsNoClosureThatIsNotWhole(t *testing.T) {
	c, _ := listedCache(t)
	base, _ := listedCache(t)
	t.Setenv("NIX_STORE_DIR", "/gnu/store")
	must(t, os.Remove(narInfoFile(c, lib)))
	pin := func(name string, args ...string) (stderr string, code int) {
		_, stderr, code = larder(t, append([]string{"pin", name, app, "--cache", c.Path()}, args...)...)
		return stderr, code
	}
	refused := func(name, want, hint string, args ...string) {
		t.Helper()
		stderr, code := pin(name, args...)
		if code != exitError || !strings.Contains(stderr, want) || !strings.Contains(stderr, hint) {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
	refused("absent", lib+", which "+app+" needs, is not in the cache, and can't be copied", "--upstream")
	refused("closed", lib+", which "+app+" needs, is not in the cache", "--repair", "--upstream=false")
	if _, stderr, code := larder(t, "pin", "alone", otherApp, "--cache", c.Path()); code != 0 {
		t.Errorf("what needs nothing: exit %d: %s", code, stderr)
	}
	if stderr, code := pin("upstream", "--upstream"); code != 0 {
		t.Errorf("with an upstream: exit %d: %s", code, stderr)
	}
	if stderr, code := pin("based", "--base", base.Path()); code != 0 {
		t.Errorf("with a base: exit %d: %s", code, stderr)
	}
	if want := []string{"alone", "based", "upstream"}; !slices.Equal(pinNames(t, c), want) {
		t.Errorf("pins are %q, want %q", pinNames(t, c), want)
	}

	// What is damaged, clients don't look for elsewhere.
	n, _, err := base.Read(filepath.Base(lib)[:32])
	must(t, err)
	must(t, os.WriteFile(narInfoFile(c, lib), n.Format(), 0o644))
	must(t, os.Truncate(filepath.Join(c.Path(), n.URL), 1))
	refused("damaged", lib+", which "+app+" needs, is damaged in the cache", "larder verify", "--upstream", "--base", base.Path())
}

func TestPathThatIsNamedTwiceIsPinnedOnce(t *testing.T) {
	c, _ := listedCache(t)
	t.Setenv("NIX_STORE_DIR", "/gnu/store")
	for _, args := range [][]string{{app, lib, app}, {lib, app}} {
		stdout, stderr, code := larder(t, append([]string{"pin", "--cache", c.Path(), "--keep", "3", "a"}, args...)...)
		if code != 0 || !strings.Contains(stdout, "a keeps 2 paths") {
			t.Errorf("exit %d: %s%s", code, stdout, stderr)
		}
	}
	pins, err := c.Pins()
	must(t, err)
	if len(pins) != 1 || len(pins[0].History) != 1 || len(pins[0].History[0].Paths) != 2 {
		t.Errorf("pins are %v, want the two paths once", pins)
	}
}

// A collection has the lock when the pin is made, and has not seen it.
func TestPinThatACollectionHasNotSeenIsLookedAtAgain(t *testing.T) {
	c, _ := listedCache(t)
	unlock, err := c.Lock(t.Context())
	must(t, err)
	p := &pinning{cache: c, wanted: []string{app}, mayCopy: func() error { return errors.New("no copies today") }}
	pinned := make(chan error)
	go func() { pinned <- p.pin(t.Context(), "name", 1) }()
	must(t, c.TellRemoval(true))
	r, err := c.BeginRemoval(time.Now())
	must(t, err)
	must(t, c.Withdraw(r, bincache.HashPart(app)))
	must(t, c.Withdraw(r, bincache.HashPart(lib)))
	must(t, c.TellRemoval(false))
	must(t, unlock())
	if err := <-pinned; err == nil || !strings.Contains(err.Error(), "no copies today") {
		t.Errorf("error is %v", err)
	}
}

func TestUnpinRemovesWhatThereIs(t *testing.T) {
	c, _ := listedCache(t)
	t.Setenv("NIX_STORE_DIR", "/gnu/store")
	for _, name := range []string{"a", "b", "c"} {
		larder(t, "pin", "--cache", c.Path(), name, app)
	}
	_, stderr, code := larder(t, "unpin", "a", "x", "b", "y", "--cache", c.Path())
	if code != exitError || !strings.Contains(stderr, "unpin x, y: there is no such pin") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if names := pinNames(t, c); !slices.Equal(names, []string{"c"}) {
		t.Errorf("pins are %q", names)
	}
	if _, stderr, code := larder(t, "unpin", "c", "../c", "--cache", c.Path()); code != exitUsage || len(pinNames(t, c)) != 1 {
		t.Errorf("a name that none can have: exit %d: %s", code, stderr)
	}
}

func BenchmarkWalkOfAClosure(b *testing.B) {
	c, err := bincache.Create(filepath.Join(b.TempDir(), "cache"), "/gnu/store", bincache.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	const count = 10_000
	name := func(i int) string { return fmt.Sprintf("%032d-path", i) }
	for i := range count {
		hash := bincache.Hash{byte(i), byte(i >> 8)}
		n := &bincache.NarInfo{StorePath: "/gnu/store/" + name(i), URL: bincache.NarName(hash, "none"), Compression: "none", FileHash: hash, FileSize: 1, NarHash: hash, NarSize: 1}
		for ref := i*3 + 1; ref <= i*3+3 && ref < count; ref++ {
			n.References = append(n.References, name(ref))
		}
		if os.WriteFile(filepath.Join(c.Path(), n.URL), []byte("x"), 0o644) != nil || os.WriteFile(narInfoFile(c, n.StorePath), n.Format(), 0o644) != nil {
			b.Fatal("can't write")
		}
	}
	p := &pinning{cache: c, wanted: []string{"/gnu/store/" + name(0)}}
	for b.Loop() {
		if lacks, err := p.walk(b.Context()); err != nil || len(lacks) > 0 {
			b.Fatal(lacks, err)
		}
	}
}
