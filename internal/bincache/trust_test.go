package bincache

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/nixtest"
)

// signedEntries has Nix make a cache with entries of every kind, signed by two keys,
// and returns the entries by name.
func signedEntries(t *testing.T) (entries map[string]*NarInfo, keys map[string]signature.PublicKey) {
	t.Helper()
	s := nixtest.New(t)
	paths := s.Build(t, `let
		base = build "base" "echo base > $out" { };
		flat = build "flat" "echo flat > $out" { outputHash = "`+sum("flat\n").String()+`"; };
		sha1 = build "sha1" "echo sha1 > $out" { outputHashAlgo = "sha1"; outputHash = builtins.hashString "sha1" "sha1\n"; };
		text = builtins.toFile "text" "see ${builtins.toFile "other" ""}";
		in build "all" "echo $out $base $flat $sha1 $text > $out" { inherit base flat sha1 text; }`)
	paths = append(paths, s.Add(t, "source", "source"))
	dir := t.TempDir()
	keys = make(map[string]signature.PublicKey)
	for _, name := range []string{"one", "two"} {
		secret, public := filepath.Join(dir, name), filepath.Join(dir, name+".pub")
		s.Run(t, "nix-store", "--generate-binary-cache-key", name, secret, public)
		s.Run(t, "nix", append([]string{"store", "sign", "--key-file", secret, "-r"}, paths...)...)
		text, err := os.ReadFile(public)
		must(t, err)
		keys[name], err = signature.ParsePublicKey(strings.TrimSpace(string(text)))
		must(t, err)
	}
	// These refer to others, and one to itself.
	var made struct{ Rewrites map[string]string }
	must(t, json.Unmarshal([]byte(s.Run(t, "nix", "store", "make-content-addressed", "--json", "-r", s.Build(t, `let
		dep = build "dep" "echo dep > $out" { };
		in build "self" "echo $dep $out > $out" { inherit dep; }`)[0])), &made))
	paths = slices.AppendSeq(paths, maps.Values(made.Rewrites))
	s.Run(t, "nix", append([]string{"copy", "--to", "file://" + dir + "/cache"}, paths...)...)
	c, err := OpenReadOnly(filepath.Join(dir, "cache"), s.Dir)
	must(t, err)
	defer c.Close()
	entries = make(map[string]*NarInfo)
	for n, err := range c.Entries(t.Context()) {
		must(t, err)
		_, name, _ := strings.Cut(filepath.Base(n.StorePath), "-")
		entries[name] = n
	}
	return entries, keys
}

// isIn fails the test if an entry has another state.
func isIn(t *testing.T, what string, n *NarInfo, want SignatureState, keys ...signature.PublicKey) {
	t.Helper()
	if got := n.SignatureState(keys); got != want {
		t.Errorf("%s is %s, want %s:\n%s", what, got, want, n.Format())
	}
}

func TestSignaturesAreJudgedAsNixDoes(t *testing.T) {
	entries, keys := signedEntries(t)
	one, two := keys["one"], keys["two"]
	other := signature.PublicKey{Name: "other", Data: one.Data}
	wrong := signature.PublicKey{Name: "two", Data: one.Data}

	for _, name := range []string{"base", "all"} {
		n := entries[name]
		isIn(t, name, n, Valid, one)
		isIn(t, name, n, Valid, other, two)
		isIn(t, name, n, Valid, one, wrong) // whoever trusts both
		isIn(t, name, n, Invalid, wrong)
		isIn(t, name, n, Unsigned, other)
		isIn(t, name, n, Unsigned)
		for what, change := range map[string]func(*NarInfo){
			"other contents":     func(n *NarInfo) { n.NarHash[0]++ },
			"another size":       func(n *NarInfo) { n.NarSize++ },
			"more references":    func(n *NarInfo) { n.References = append(slices.Clone(n.References), refLibc) },
			"another path":       func(n *NarInfo) { n.StorePath = strings.Replace(n.StorePath, "-"+name, "-b"+name, 1) },
			"a signature's half": func(n *NarInfo) { n.Sigs = append(slices.Clone(n.Sigs), "one:QUFB") },
		} {
			changed := *n
			change(&changed)
			isIn(t, name+" with "+what, &changed, Invalid, one)
		}
		for what, change := range map[string]func(*NarInfo){
			"another file":    func(n *NarInfo) { n.URL, n.Compression, n.FileSize = "nar/x", "none", 1 },
			"another deriver": func(n *NarInfo) { n.Deriver = refLibc },
			"another order":   func(n *NarInfo) { n.References = slices.Clone(n.References); slices.Reverse(n.References) },
			"no padding": func(n *NarInfo) {
				n.Sigs = []string{strings.TrimRight(n.Sigs[0], "="), strings.TrimRight(n.Sigs[1], "=")}
			},
			"another's half":     func(n *NarInfo) { n.Sigs = append(slices.Clone(n.Sigs), "three:QUFB") },
			"an address of none": func(n *NarInfo) { n.CA = "fixed:r:" + n.NarHash.String() },
		} {
			changed := *n
			change(&changed)
			isIn(t, name+" with "+what, &changed, Valid, one)
		}
		unsigned := *n
		unsigned.Sigs = nil
		isIn(t, name+" without signatures", &unsigned, Unsigned, one)
	}
}

func TestContentAddressedIsWhatNixTakesForIt(t *testing.T) {
	entries, keys := signedEntries(t)
	for _, name := range []string{"flat", "sha1", "text", "other", "source", "dep", "self"} {
		n := entries[name]
		if n == nil || n.CA == "" {
			t.Fatalf("%s is %+v", name, n)
		}
		isIn(t, name, n, ContentAddressed, keys["one"])
		for what, change := range map[string]func(*NarInfo){
			"another name":  func(n *NarInfo) { n.StorePath += "x" },
			"another store": func(n *NarInfo) { n.StorePath = "/gnu/store/" + filepath.Base(n.StorePath) },
			"another hash": func(n *NarInfo) {
				digit := "0"
				if n.CA[len(n.CA)-9] == '0' {
					digit = "1"
				}
				n.CA = n.CA[:len(n.CA)-9] + digit + n.CA[len(n.CA)-8:]
			},
			"another method": func(n *NarInfo) {
				method, _, _ := parseCA(n.CA)
				n.CA = map[bool]string{true: "fixed:r:", false: "fixed:"}[method == "fixed:"] + strings.TrimPrefix(n.CA, method)
			},
			"other references": func(n *NarInfo) { n.References = append(slices.Clone(n.References), refLibc) },
			"itself referred to, or not": func(n *NarInfo) {
				self := filepath.Base(n.StorePath)
				others := slices.DeleteFunc(slices.Clone(n.References), func(ref string) bool { return ref == self })
				if len(others) == len(n.References) {
					others = append(others, self)
				}
				n.References = others
			},
			"no address": func(n *NarInfo) { n.CA = "" },
		} {
			changed := *n
			changed.Sigs = nil
			change(&changed)
			isIn(t, name+" with "+what, &changed, Unsigned, keys["one"])
		}
	}
	for name, want := range map[string]int{"text": 1, "dep": 0, "self": 2} {
		if refs := entries[name].References; len(refs) != want {
			t.Errorf("references of %s are %q, want %d", name, refs, want)
		}
	}
}

func TestFingerprintIsNixs(t *testing.T) {
	n := full
	n.References = []string{refLibc, refHello, refLibc}
	want := "1;" + hello + ";" + sum("nar").String() + ";5678;" + storeDir + "/" + refHello + "," + storeDir + "/" + refLibc
	if got := n.Fingerprint(); got != want {
		t.Errorf("fingerprint is %s, want %s", got, want)
	}
	n.References = nil
	if got := n.Fingerprint(); !strings.HasSuffix(got, ";5678;") {
		t.Errorf("without references it is %s", got)
	}
}
