package bincache

import (
	"strings"
	"testing"
)

// Nix says what they are. What is not in them, nobody can tell from contents alone: what
// is hashed in another way, or without the references of a path to itself.
func TestPathProvesItsContentAddress(t *testing.T) {
	entries, _ := signedEntries(t)
	unprovable := map[string]bool{"sha1": true, "self": true}
	found := 0
	for name, n := range entries {
		want := n.CA
		var flat *Hash
		if _, h, err := parseCA(want); err == nil && !strings.HasPrefix(want, "fixed:r:") && len(h.Digest()) == len(Hash{}) {
			flat = new(Hash)
			copy(flat[:], h.Digest())
		}
		if unprovable[name] {
			want = ""
		}
		n.CA = ""
		if ok := n.FindCA(flat); ok != (want != "") || n.CA != want {
			t.Errorf("content address of %s is %q, want %q", name, n.CA, want)
		}
		if want != "" {
			found++
			n.CA, n.NarHash[0] = "", n.NarHash[0]^1
			if flat != nil {
				flat[0] ^= 1
			}
			if n.FindCA(flat) || n.CA != "" {
				t.Errorf("%s with other contents has the content address %q", name, n.CA)
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d have a content address", found)
	}
}

func TestPathOfAnotherStoreIsNone(t *testing.T) {
	c := newCache(t)
	good := "/nix/store/" + strings.Repeat("0", 32) + "-x"
	if err := c.CheckPath(good); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"", good + "/", good + "/x", "/nix" + good, good[1:], good[len("/nix/store/"):], "/nix//store" + good[len("/nix/store"):],
		"/nix/store/..", "/nix/store/", "/nix/store/x", good + "\n", "/nix/store/../store/" + good[len("/nix/store/"):]} {
		if err := c.CheckPath(path); err == nil {
			t.Errorf("%q is a path of the store", path)
		}
	}
}
