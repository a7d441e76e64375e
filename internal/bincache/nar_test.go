package bincache

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFileThatCannotBeItsNarIsDamaged has what is known of a file without its hash.
func TestFileThatCannotBeItsNarIsDamaged(t *testing.T) {
	for _, test := range []struct {
		compression   string
		file, narSize int64
		good          bool
	}{
		{"none", 5, 5, true},
		{"none", 4, 5, false},
		{"none", 6, 5, false},
		{"none", 5, math.MaxInt64, false},
		{"xz", 100, 5, true},
		{"xz", 5, math.MaxInt64, true}, // a bomb, or a NAR of zeros: who unpacks it finds out
		{"compress", 3 << 20, 2 << 20, true},
		{"zstd", 1 << 40, 5, false},
		{"zstd", math.MaxInt64, math.MaxInt64 / 3, false},
	} {
		n := &NarInfo{URL: "nar/x", Compression: test.compression, NarSize: test.narSize}
		err := n.checkNarSize(test.file)
		if test.good && err != nil || !test.good && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), n.URL)) {
			t.Errorf("%+v: error is %v", test, err)
		}
	}
}

// TestNarIsOnlyWhereItStays names files that have another use.
func TestNarIsOnlyWhereItStays(t *testing.T) {
	for url, good := range map[string]bool{
		"nar/x": true, "nar//x": true, "x.nar": true, "blobs/ab/x": true, ".larder/tmp/x": false, ".larder//runs/x": false,
		infoFile: false, narInfoName(libc): false, "x.ls": false, "log/x": false,
	} {
		c := newCache(t)
		write(t, c, filepath.Clean(url), "StoreDir: "+storeDir+"\n")
		n := narInfo(hello, "StoreDir: "+storeDir+"\n")
		n.URL = url
		write(t, c, narInfoName(hello), string(n.Format()))
		_, err := c.Entry(hello)
		if found := c.Find(t.Context(), []string{hello})[0].Err; (found == nil) != (err == nil) {
			t.Errorf("%s: Find says %v, and Entry %v", url, found, err)
		}
		if good != (err == nil) || !good && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), url+" is no place")) {
			t.Errorf("%s: error is %v", url, err)
		}
	}
}

// TestNarThatIsALinkOutIsReplaced has a push mend what nobody could read.
func TestNarThatIsALinkOutIsReplaced(t *testing.T) {
	outside := newOutside(t)
	for _, to := range []string{filepath.Join(outside, "file"), filepath.Join(outside, "nothing"), "nothing", "self"} {
		c := newCache(t)
		n := publish(t, c, hello, "hello")
		file := filepath.Join(c.Path(), n.URL)
		if to == "self" {
			to = filepath.Base(file)
		}
		must(t, os.Remove(file))
		must(t, os.Symlink(to, file))
		before := times(t, outside)
		if _, err := c.Entry(hello); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: error is %v", to, err)
		}
		publish(t, c, hello, "hello")
		if _, err := c.Entry(hello); err != nil {
			t.Errorf("%s: %v", to, err)
		}
		if diff := cmp.Diff(before, times(t, outside)); diff != "" {
			t.Errorf("%s: outside (-before +after):\n%s", to, diff)
		}
	}
}
