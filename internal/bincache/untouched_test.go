package bincache

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWholeCacheIsOpenedWithoutATouch lets CI providers skip saving a directory in
// which nothing is new.
func TestWholeCacheIsOpenedWithoutATouch(t *testing.T) {
	made := newCache(t)
	publish(t, made, hello, "hello")
	record(t, made, Run{Ended: noon, Used: []string{hello}}, true)
	// Some file systems have coarse times.
	for name := range snapshot(t, made.Path()) {
		must(t, os.Chtimes(filepath.Join(made.Path(), name), noon, noon))
	}
	before := times(t, made.Path())

	c, err := Create(made.Path(), storeDir, Options{})
	must(t, err)
	defer c.Close()
	must(t, c.CheckWritable())
	must(t, c.SweepTemp(0))
	if _, err := c.Entry(hello); err != nil {
		t.Error(err)
	}
	for _, err := range c.Entries(t.Context()) {
		must(t, err)
	}
	key(t, c)
	record(t, c, Run{Ended: noon.Add(time.Hour), Used: []string{hello}}, false)
	n := narInfo(hello, "hello")
	if added, err := c.AddSignatures(t.Context(), n); err != nil || added {
		t.Errorf("added: %v, %v", added, err)
	}
	unlock, err := c.lock(t.Context())
	must(t, err)
	must(t, unlock())
	if diff := cmp.Diff(before, times(t, made.Path())); diff != "" {
		t.Errorf("times (-before +after):\n%s", diff)
	}
}
