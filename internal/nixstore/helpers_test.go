package nixstore

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// parts are what children of these tests do.
var parts = map[string]func(args []string) error{}

// open opens a store that is closed with the test.
func openStore(t testing.TB, nix *nixtest.Store) *Store {
	t.Helper()
	s, err := Open(Dirs{Store: nix.Dir, State: nix.State}, 10*time.Second)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// graph builds derivations with every form of reference: diamonds, to itself,
// between outputs, to a source and to a text. It returns the outputs of the top.
func graph(t testing.TB, nix *nixtest.Store) []string {
	t.Helper()
	paths := nix.Build(t, `let
		base = build "base" "echo base > $out" { };
		text = builtins.toFile "text" "see ${builtins.toFile "other" ""}";
		left = build "left" "echo $base $text > $out" { inherit base text; };
		right = build "right" "echo $base $out > $out" { inherit base; };
		in (build "top" "mkdir $out; echo $left $right $out > $out/refs; echo $out $dev > $dev; echo none > $doc" {
			inherit left right;
			outputs = [ "out" "dev" "doc" ];
		}).all`)
	key := filepath.Join(t.TempDir(), "key")
	for _, name := range []string{"one-1", "two-1"} {
		nix.Run(t, "nix-store", "--generate-binary-cache-key", name, key+name, key+name+".pub")
		nix.Run(t, "nix", append([]string{"store", "sign", "--key-file", key + name}, paths...)...)
	}
	return paths
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sortedStrings(list []string) []string { return slices.Sorted(slices.Values(list)) }
