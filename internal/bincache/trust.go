package bincache

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// A SignatureState says whether clients that trust some keys take an entry, and why.
type SignatureState string

const (
	// Valid: one of the keys has signed the entry.
	Valid SignatureState = "valid"
	// Invalid: something in the name of one of the keys is not its signature.
	Invalid SignatureState = "invalid"
	// Unsigned: none of the keys has signed the entry; others may have.
	Unsigned SignatureState = "unsigned"
	// ContentAddressed: the path itself tells what is in it, and needs no signature.
	ContentAddressed SignatureState = "content-addressed"
)

// SignatureState returns the state of an entry's signatures, as Nix judges it
// (ValidPathInfo::checkSignatures in src/libstore/path-info.cc).
func (n *NarInfo) SignatureState(keys []signature.PublicKey) SignatureState {
	if n.contentAddressed() {
		return ContentAddressed
	}
	return signatureState(n.Fingerprint(), n.Sigs, keys)
}

// signatureState is SignatureState for what needs a signature.
func signatureState(fingerprint string, sigs []string, keys []signature.PublicKey) SignatureState {
	state := Unsigned
	for _, sig := range sigs {
		name, value, _ := strings.Cut(sig, ":")
		data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		for _, key := range keys {
			switch {
			case key.Name != name:
			case err != nil || len(data) != ed25519.SignatureSize:
				return Invalid // Nix fails at such a one, whatever the others are
			case key.Verify(fingerprint, signature.Signature{Name: name, Data: data}):
				state = Valid
			case state == Unsigned:
				state = Invalid
			}
		}
	}
	return state
}
