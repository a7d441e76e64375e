package nixstore

import (
	"slices"
	"strings"
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

func TestResultsAreWhatNothingElseIsMadeOf(t *testing.T) {
	nix := nixtest.New(t)
	s := openStore(t, nix)
	top := sortedStrings(graph(t, nix)) // three outputs, one of which refers to another
	source := nix.Add(t, "a-source", "source")
	other := nix.Build(t, `build "other" "echo other > $out" { tool = build "tool" "echo tool > $out" { }; }`)[0]
	all := nix.Lines(t, "nix-store", append([]string{"--query", "--requisites", "--include-outputs"}, top...)...)
	for _, path := range nix.Lines(t, "nix-store", "--query", "--deriver", other) { // the tool is needed to build only
		all = append(all, nix.Lines(t, "nix-store", "--query", "--requisites", "--include-outputs", path)...)
	}
	all = slices.DeleteFunc(all, func(path string) bool { return strings.HasSuffix(path, ".drv") })
	tool := slices.DeleteFunc(slices.Clone(all), func(path string) bool { return Name(path) != "tool" })
	if len(tool) == 0 {
		t.Fatal("the tool is not in the store")
	}
	for _, tt := range []struct {
		name        string
		paths, want []string
	}{
		{"everything", append(slices.Clone(all), source), append(slices.Clone(top), other)},
		{"one output", top[:1], top[:1]},
		{"a tool alone", tool[:1], tool[:1]},
		{"a source alone", []string{source}, nil},
		{"what is not there", []string{nix.Dir + "/00000000000000000000000000000000-gone"}, nil},
		{"nothing", nil, nil},
	} {
		got, err := s.Results(t.Context(), tt.paths)
		want := sortedStrings(tt.want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %s: %q, %v, want %q", tt.name, got, err, want)
		}
	}

	// Without the derivations there are the references alone.
	drv := nix.Run(t, "nix-store", "--query", "--deriver", other)
	nix.Run(t, "nix-store", "--delete", "--ignore-liveness", drv)
	got, err := s.Results(t.Context(), []string{other, tool[0]})
	if want := sortedStrings([]string{other, tool[0]}); err != nil || !slices.Equal(got, want) {
		t.Errorf("without derivations: %q, %v, want %q", got, err, want)
	}
}
