package bincache

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"
)

// parseCA splits a content address into its method, such as fixed:r:, and its hash.
func parseCA(ca string) (method string, h *nixhash.HashWithEncoding, err error) {
	for _, method := range []string{"text:", "fixed:r:", "fixed:git:", "fixed:"} {
		hash, ok := strings.CutPrefix(ca, method)
		if !ok {
			continue
		}
		algo, _, ok := strings.Cut(hash, ":")
		if !ok || method == "text:" && algo != "sha256" {
			break
		}
		h, err := nixhash.ParseAny(hash, nil)
		return method, h, err
	}
	return "", nil, fmt.Errorf("%q is not a content address", ca)
}

// contentAddressed tells whether the path of an entry is made from its content
// address. That the contents have that address is checked by who unpacks them.
//
// It follows makeFixedOutputPathFromCA in Nix's src/libstore/store-dir-config.cc.
func (n *NarInfo) contentAddressed() bool {
	method, h, err := parseCA(n.CA)
	if err != nil {
		return false
	}
	base := path.Base(n.StorePath)
	refs := slices.DeleteFunc(slices.Clone(n.References), func(ref string) bool { return ref == base })
	toItself := len(refs) < len(n.References)

	hash := h.Algo().String() + ":" + hex.EncodeToString(h.Digest())
	var kind string
	switch {
	case method == "text:" && h.Algo() == nixhash.SHA256 && !toItself:
		kind = "text"
	case method == "fixed:r:" && h.Algo() == nixhash.SHA256:
		kind = "source"
	case method != "text:" && len(n.References) == 0:
		kind = "output:out"
		sum := sha256.Sum256([]byte("fixed:out:" + strings.TrimPrefix(method, "fixed:") + hash + ":"))
		hash = "sha256:" + hex.EncodeToString(sum[:])
	default:
		return false
	}
	dir := path.Dir(n.StorePath)
	slices.Sort(refs)
	for _, ref := range slices.Compact(refs) {
		kind += ":" + dir + "/" + ref
	}
	if toItself {
		kind += ":self"
	}
	digits, name, _ := strings.Cut(base, "-")
	sum := sha256.Sum256([]byte(kind + ":" + hash + ":" + dir + ":" + name))
	return digits == nixbase32.EncodeToString(nixhash.CompressHash(sum[:], 20))
}
