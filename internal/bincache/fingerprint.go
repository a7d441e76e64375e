package bincache

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// Fingerprint returns what signatures of an entry sign: its path, its contents, and
// what it refers to (ValidPathInfo::fingerprint in Nix's src/libstore/path-info.cc).
func (n *NarInfo) Fingerprint() string {
	dir := path.Dir(n.StorePath)
	refs := make([]string, len(n.References))
	for i, ref := range n.References {
		refs[i] = dir + "/" + ref
	}
	slices.Sort(refs) // a narinfo that others wrote may have any order
	refs = slices.Compact(refs)
	return strings.Join([]string{"1", n.StorePath, n.NarHash.String(), strconv.FormatInt(n.NarSize, 10), strings.Join(refs, ",")}, ";")
}
