package main

import (
	"bytes"
	"testing"

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
