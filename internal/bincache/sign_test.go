package bincache

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/nixtest"
)

// TestNixMakesTheSameSignatures has Nix sign paths of every kind.
func TestNixMakesTheSameSignatures(t *testing.T) {
	s := nixtest.New(t)
	paths := s.Build(t, `let
		base = build "base" "echo base > $out" { };
		text = builtins.toFile "text" "see ${builtins.toFile "other" ""}";
		in build "all" "echo $out $base $text > $out" { inherit base text; }`)
	paths = append(paths, s.Add(t, "source", "source"))
	dir := t.TempDir()
	var keys []signature.SecretKey
	for _, name := range []string{"one-1", "two-1"} {
		file := filepath.Join(dir, name)
		s.Run(t, "nix-store", "--generate-binary-cache-key", name, file, file+".pub")
		s.Run(t, "nix", append([]string{"store", "sign", "--key-file", file, "-r"}, paths...)...)
		text, err := os.ReadFile(file)
		must(t, err)
		key, err := signature.LoadSecretKey(string(text))
		must(t, err)
		keys = append(keys, key)
	}
	s.Run(t, "nix", append([]string{"copy", "--to", "file://" + dir}, paths...)...)
	files, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
	must(t, err)
	if len(files) != 5 {
		t.Fatalf("%d entries, want 5: %q", len(files), files)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		n, err := ParseNarInfo(text)
		must(t, err)
		sigs, err := n.Sign(keys)
		must(t, err)
		if slices.Sort(sigs); !slices.Equal(sigs, n.Sigs) {
			t.Errorf("fingerprint %s: signatures are %q, Nix has %q", n.Fingerprint(), sigs, n.Sigs)
		}
		if signed, err := n.SignedBy(keys); !signed || err != nil {
			t.Errorf("%s is not signed: %v", n.StorePath, err)
		}
		n.NarSize++
		if signed, err := n.SignedBy(keys[:1]); signed || err != nil {
			t.Errorf("%s with another size is signed: %v", n.StorePath, err)
		}
	}
}

func TestFingerprintHasASetOfFullPaths(t *testing.T) {
	n := full
	n.StorePath, n.References = "/gnu/store/"+refHello, []string{refLibc, refHello, refLibc}
	want := "1;/gnu/store/" + refHello + ";" + n.NarHash.String() + ";5678;/gnu/store/" + refHello + ",/gnu/store/" + refLibc
	if got := n.Fingerprint(); got != want {
		t.Errorf("fingerprint is %s, want %s", got, want)
	}
	if n.References = nil; !strings.HasSuffix(n.Fingerprint(), ";5678;") {
		t.Errorf("fingerprint without references is %s", n.Fingerprint())
	}
}
