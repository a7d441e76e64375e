package bincache

import (
	"fmt"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// Sign returns the signatures of an entry by some keys, as in Sigs. The same key
// always makes the same one.
func (n *NarInfo) Sign(keys []signature.SecretKey) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	fingerprint := n.Fingerprint()
	sigs := make([]string, len(keys))
	for i, key := range keys {
		sig, err := key.Sign(nil, fingerprint)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", n.StorePath, err)
		}
		sigs[i] = sig.String()
	}
	return sigs, nil
}

// SignedBy tells whether an entry has a valid signature by each of some keys.
func (n *NarInfo) SignedBy(keys []signature.SecretKey) (bool, error) {
	sigs, err := n.Sign(keys)
	return err == nil && !lacks(n, sigs), err
}
