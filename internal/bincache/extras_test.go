package bincache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

func readFile(t *testing.T, c *Cache, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Path(), name))
	must(t, err)
	return string(text)
}

func TestExtraIsKeptUnlessItIsToBeReplaced(t *testing.T) {
	for _, name := range []string{ListingName(hello), LogName(hello + ".drv")} {
		c := newCache(t)
		publish := func(text string, replace bool) {
			t.Helper()
			must(t, c.PublishExtra(t.Context(), temp(t, c, text), name, replace))
			if left := unfinished(t, c); left != nil {
				t.Errorf("left unfinished: %q", left)
			}
		}
		if c.Has(name) {
			t.Errorf("%s is there before it is", name)
		}
		publish("first", false)
		if !c.Has(name) {
			t.Errorf("%s is not there", name)
		}
		before := times(t, c.Path())["./"+name]
		publish("other", false)
		publish("first", true)
		if got := readFile(t, c, name); got != "first" || times(t, c.Path())["./"+name] != before {
			t.Errorf("%s has %q, and was written", name, got)
		}
		publish("other", true)
		if got := readFile(t, c, name); got != "other" {
			t.Errorf("%s has %q", name, got)
		}
	}
}

// Only to replace what is there is the lock taken, so that adding never waits.
func TestExtraIsAddedWhileSomebodyHasTheLock(t *testing.T) {
	c := newCache(t)
	unlock, err := c.lock(t.Context())
	must(t, err)
	defer unlock()
	for _, replace := range []bool{true, false} {
		must(t, c.PublishExtra(t.Context(), temp(t, c, "text"), ListingName(hello), replace))
	}
}

// Somebody planted what leads out of the cache, or is no file at all.
func TestExtraInPlaceOfALinkLeavesItsTargetAlone(t *testing.T) {
	c := newCache(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("outside"), 0o644))
	name := LogName(hello + ".drv")
	must(t, os.Symlink(outside, filepath.Join(c.Path(), name)))
	if c.Has(name) {
		t.Error("a link counts as a log")
	}
	must(t, c.PublishExtra(t.Context(), temp(t, c, "outside"), name, false))
	must(t, c.PublishExtra(t.Context(), temp(t, c, "log"), name, true))
	if text, err := os.ReadFile(outside); string(text) != "outside" || readFile(t, c, name) != "log" {
		t.Errorf("outside is %q, %v", text, err)
	}

	name = ListingName(hello)
	must(t, syscall.Mkfifo(filepath.Join(c.Path(), name), 0o644))
	must(t, c.PublishExtra(t.Context(), temp(t, c, "listing"), name, true))
	if got := readFile(t, c, name); got != "listing" {
		t.Errorf("listing is %q", got)
	}

	must(t, os.Mkdir(filepath.Join(c.Path(), ListingName(libc)), 0o755))
	file := temp(t, c, "listing")
	if err := c.PublishExtra(t.Context(), file, ListingName(libc), true); err == nil {
		t.Error("a directory was replaced")
	}
	file.Discard()
}

func TestListingIsRemovedOnce(t *testing.T) {
	c := newCache(t)
	publish(t, c, hello, "hello")
	must(t, c.PublishExtra(t.Context(), temp(t, c, "listing"), ListingName(hello), false))
	for range 2 {
		must(t, c.RemoveListing(t.Context(), hello))
	}
	if _, err := c.Entry(hello); c.Has(ListingName(hello)) || err != nil {
		t.Errorf("the listing is there, or the entry is not: %v", err)
	}
}

func TestFileIsMadeOfAllOfAReaderOrNot(t *testing.T) {
	c := newCache(t)
	file, err := c.CreateFrom(strings.NewReader("all"))
	must(t, err)
	must(t, c.PublishExtra(t.Context(), file, LogName(hello+".drv"), false))
	if got := readFile(t, c, LogName(hello+".drv")); got != "all" {
		t.Errorf("log is %q", got)
	}
	if _, err := c.CreateFrom(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("half")))); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("error is %v", err)
	}
	if left := unfinished(t, c); left != nil {
		t.Errorf("left unfinished: %q", left)
	}
}
