package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachemerge"
)

// What a cache of others says can do something to a terminal.
func TestWarningsOfAMergeArePrintable(t *testing.T) {
	r := cachemerge.Result{Damaged: []cachemerge.Damage{{Path: "x", Cache: "/c", Cause: "nar/\x1b[31m\r is missing", Lost: true}}}
	var out bytes.Buffer
	for _, warnings := range mergeWarnings(&r) {
		printWarnings(&out, warnings)
	}
	if want := "larder: warning: \"x in /c: nar/\\x1b[31m\\r is missing; left out\"\n"; out.String() != want {
		t.Errorf("it says %q, want %q", out.String(), want)
	}
}

// A collection that was killed may have left an entry without what it needs: whoever adds
// next brings that back.
func TestThoseWhoAddFinishAnInterruptedCollection(t *testing.T) {
	const emptyExport = "\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, args := range [][]string{{"merge", "--cache"}, {"import", "--cache"}} {
		c, _ := listedCache(t)
		source, err := bincache.Create(filepath.Join(t.TempDir(), "source"), c.StoreDir(), bincache.Options{})
		must(t, err)
		must(t, source.Close())
		removal, err := c.BeginRemoval(time.Now().Add(time.Hour))
		must(t, err)
		must(t, c.TellRemoval(true))
		must(t, c.Withdraw(removal, bincache.HashPart(lib)))
		args = append(args, c.Path())
		if args[0] == "merge" {
			args = append(args, source.Path())
		}
		var stderr bytes.Buffer
		run(t.Context(), append([]string{"larder"}, args...), strings.NewReader(emptyExport), io.Discard, &stderr)
		if _, err := os.Stat(narInfoFile(c, lib)); err != nil {
			t.Errorf("%s: %v\n%s", args[0], err, &stderr)
		}
	}
}
