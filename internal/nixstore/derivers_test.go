package nixstore

import (
	"slices"
	"testing"

	"github.com/nix-larder/larder/internal/nixtest"
)

func TestBuildClosureIsNixs(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	top := graph(t, nix)[0]
	drv := nix.Run(t, "nix-store", "--query", "--deriver", top)
	for _, paths := range [][]string{{drv}, {top}, {drv, top, nix.Add(t, "source", "source")}} {
		want := sortedStrings(nix.Lines(t, "nix-store", append([]string{"--query", "--requisites", "--include-outputs"}, paths...)...))
		got, err := s.BuildClosure(t.Context(), paths)
		if err != nil || !slices.Equal(got, slices.Compact(want)) {
			t.Errorf("of %q: %q, %v, want %q", paths, got, err, want)
		}
	}
	from, err := s.BuiltFrom(t.Context(), []string{top, drv})
	if err != nil || len(from) != 1 || from[top] != drv {
		t.Errorf("built from %q, %v, want %s", from, err, drv)
	}
}
