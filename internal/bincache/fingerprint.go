package bincache

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Fingerprint returns what a signature of an entry vouches for: the store path, its
// contents, and its references (ValidPathInfo::fingerprint in Nix's
// src/libstore/path-info.cc). How the NAR is compressed is not part of it.
func (n *NarInfo) Fingerprint() string {
	storeDir := path.Dir(n.StorePath)
	references := make([]string, len(n.References))
	for i, ref := range n.References {
		references[i] = path.Join(storeDir, ref)
	}
	slices.Sort(references) // Nix has a set of them, whatever the order in the file
	references = slices.Compact(references)
	return fmt.Sprintf("1;%s;%s;%d;%s", n.StorePath, n.NarHash, n.NarSize, strings.Join(references, ","))
}
