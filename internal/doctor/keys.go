package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
)

// checkKeys looks whether Nix believes the signatures of the cache's entries.
func checkKeys(ctx context.Context, s *Setup) []Finding {
	if s.Cache == "" || s.Nix == nil {
		return nil
	}
	findings := s.ownKeys()
	cache, err := bincache.OpenReadOnly(s.Cache, s.Dirs.Store)
	if err != nil {
		return findings // told of elsewhere
	}
	defer cache.Close()
	return append(findings, s.signatures(sampleOf(ctx, cache).entries)...)
}

// ownKeys looks whether Nix knows the cache's keys.
func (s *Setup) ownKeys() []Finding {
	var findings []Finding
	if s.KeyErr != nil {
		findings = append(findings, Finding{
			Severity: Problem,
			What:     s.KeyErr.Error(),
			Why:      "nothing is copied without the key that is to sign it",
			Advice:   "larder init --signing-key-file FILE names another one, and '' none; only who may read it can tell more",
		})
	}
	known := s.Nix.Strings("trusted-public-keys")
	for _, key := range s.PublicKeys {
		name, _, _ := strings.Cut(key, ":")
		other := slices.IndexFunc(known, func(k string) bool { return strings.HasPrefix(k, name+":") && k != key })
		switch {
		case other >= 0:
			findings = append(findings, s.onNixConf(Finding{
				Severity: Problem,
				What:     fmt.Sprintf("Nix knows another key by the name %s than the cache's", name),
				Why:      "it knows one key of each name, and takes signatures of others for forged",
				Advice:   "remove " + known[other] + ", and give keys names of their own",
			}, "extra-trusted-public-keys = "+key))
		case slices.Contains(known, key):
			findings = append(findings, fine("Nix trusts the cache's key %s", name)...)
		case s.Queue == nil && s.Nix.Trusted:
			findings = append(findings, fine("larder run tells Nix of the cache's key %s", name)...)
		default:
			findings = append(findings, s.onNixConf(Finding{
				Severity: Problem,
				What:     fmt.Sprintf("Nix does not trust the cache's key %s", name),
				Why:      "entries that only it has signed are not used, but where the cache is named with ?trusted=true",
			}, "extra-trusted-public-keys = "+key))
		}
	}
	return findings
}

// signatures looks whether signatures can be relied on, and whether Nix does.
func (s *Setup) signatures(entries []*bincache.NarInfo) []Finding {
	var keys []signature.PublicKey
	for _, text := range s.Nix.Strings("trusted-public-keys") {
		if key, err := signature.ParsePublicKey(text); err == nil {
			keys = append(keys, key)
		}
	}
	var t tally
	for _, n := range entries {
		t.add(n, keys)
	}
	trusting := s.trusting()
	switch {
	case t.invalid > 0:
		f := Finding{
			Severity: Problem,
			What:     fmt.Sprintf("the signatures of %s are invalid, of %s for example", count(t.invalid, "entry"), t.example),
			Why:      "somebody has changed them, or has another key by that name; Nix does not use them",
			Advice:   "larder list --long --trusted-public-key KEY shows which ones they are",
		}
		if trusting {
			f.Severity, f.Why = Warning, "somebody has changed them, or has another key by that name; Nix uses them all the same, since the cache is named with ?trusted=true"
		}
		return one(f)
	case trusting, !s.Nix.Bool("require-sigs"), t.unsigned+t.unknown == 0:
		if t.good > 0 {
			return fine("%s looked at have signatures that Nix trusts", count(t.good, "entry"))
		}
		return nil
	case t.unsigned > 0 || len(s.PublicKeys) == 0 && len(t.keys) == 0:
		return one(s.onNixConf(Finding{
			Severity: Problem,
			What:     fmt.Sprintf("%s of those looked at have no signature", count(t.unsigned, "entry")),
			Why:      "Nix does not use them from a cache that is named without ?trusted=true (require-sigs)",
			Advice:   "replace " + bincache.URL(s.Cache) + " among the substituters, or let larder sign --signing-key-file FILE sign them",
		}, "extra-substituters = "+bincache.SubstituterURL(s.Cache)))
	}
	f := Finding{
		Severity: Problem,
		What:     fmt.Sprintf("%s of those looked at are signed by none of trusted-public-keys, but by %s", count(t.unknown, "entry"), strings.Join(t.keys, ", ")),
		Why:      "Nix does not use them (require-sigs)",
		Advice:   "ask who signs for the public key, and add it to trusted-public-keys",
	}
	for _, key := range s.PublicKeys {
		if name, _, _ := strings.Cut(key, ":"); slices.Contains(t.keys, name) {
			return nil // ownKeys has told
		}
	}
	return one(s.onRestart(f))
}

// trusting tells whether Nix takes everything from the cache without signatures: as it is
// named, or as larder run names it.
func (s *Setup) trusting() bool {
	named := false
	for _, name := range s.Nix.Strings("substituters") {
		url, query, _ := strings.Cut(name, "?")
		if dir, err := bincache.ParseURL(name); err != nil || !strings.HasPrefix(url, "file://") || !same(dir, s.Cache) {
			continue
		}
		named = true
		if slices.ContainsFunc(strings.Split(query, "&"), func(p string) bool { return p == "trusted=true" || p == "trusted=1" }) {
			return true
		}
	}
	return !named && len(s.PublicKeys) == 0
}

// A tally counts what is to be said of some entries.
type tally struct {
	good, unsigned, unknown, invalid int
	keys                             []string // names, of those that are not known
	example                          string   // a path whose signature is invalid
}

func (t *tally) add(n *bincache.NarInfo, keys []signature.PublicKey) {
	switch state := n.SignatureState(keys); {
	case state == bincache.Valid:
		t.good++
	case state == bincache.Invalid:
		t.invalid++
		t.example = n.StorePath
	case state == bincache.ContentAddressed:
	case len(n.Sigs) == 0:
		t.unsigned++
	default:
		t.unknown++
		for _, sig := range n.Sigs {
			name, _, _ := strings.Cut(sig, ":")
			t.keys = append(t.keys, name)
		}
		slices.Sort(t.keys)
		t.keys = slices.Compact(t.keys)
	}
}
