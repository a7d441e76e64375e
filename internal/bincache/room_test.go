package bincache

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// What is to be changed needs room, and nothing else does.
func TestSigningLeavesTheReserveFree(t *testing.T) {
	key := newKey(t, "cache.example.org-1")
	c, paths := manyEntries(t, 3, newKey(t, "old-1"))
	before := snapshot(t, c.Path())
	c.Reserve(1 << 60)
	o := Resigning{Keys: []signature.SecretKey{key}}
	if r, err := c.Resign(t.Context(), o); !errors.Is(err, ErrNoRoom) || r.Changed > 0 {
		t.Errorf("signed: %+v, %v", r, err)
	}
	if diff := cmp.Diff(before, snapshot(t, c.Path())); diff != "" {
		t.Errorf("changed (-before +after):\n%s", diff)
	}
	c.Reserve(0)
	r, err := c.Resign(t.Context(), o)
	must(t, err)
	if r.Changed != len(paths) {
		t.Errorf("with room: %+v", r)
	}
	c.Reserve(1 << 60)
	if _, err := c.Resign(t.Context(), o); err != nil {
		t.Errorf("nothing is to be done: %v", err)
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished: %q", left)
	}
}
