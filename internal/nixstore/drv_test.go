package nixstore

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/derivation"
)

const (
	outPath = "/nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib"
	devPath = "/nix/store/di1gan6bifsijfs38a849ziazp1haja5-lib-dev"
)

func TestDrvOutputsAreThoseTheDerivationNames(t *testing.T) {
	const rest = `,[],[],"x86_64-linux","/bin/sh",["-c","echo \")\" > $out"],[("name","lib")])`
	many := make([]string, 500)
	for i := range many {
		many[i] = `("o","` + outPath + `","","")`
	}
	for _, tt := range []struct {
		name, text string
		want       []string // nil: the derivation does not tell
	}{
		{"one output", `Derive([("out","` + outPath + `","","")]` + rest, []string{outPath}},
		{"two outputs", `Derive([("dev","` + devPath + `","",""),("out","` + outPath + `","","")]` + rest, []string{devPath, outPath}},
		{"fixed output", `Derive([("out","` + outPath + `","r:sha256","1f3a")]` + rest, []string{outPath}},
		{"many outputs", "Derive([" + strings.Join(many, ",") + "]" + rest, slices.Repeat([]string{outPath}, 500)},
		{"content-addressed", `Derive([("out","","r:sha256","")]` + rest, nil},
		{"a later form", `DrvWithVersion("xp-dyn-drv",[("out","` + outPath + `","","")]` + rest, nil},
		{"cut off", `Derive([("out","` + outPath, nil},
		{"empty", "", nil},
		{"no outputs", "Derive([]" + rest, nil},
		{"another place", `Derive([("out","/etc/passwd","","")]` + rest, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			drv := filepath.Join(t.TempDir(), "x.drv")
			if err := os.WriteFile(drv, []byte(tt.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := Dirs{Store: "/nix/store"}.DrvOutputs(drv)
			if !slices.Equal(got, tt.want) || (err != nil) != (tt.want == nil) {
				t.Errorf("DrvOutputs = %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	if _, err := (Dirs{Store: "/nix/store"}).DrvOutputs("/nonexistent.drv"); err == nil {
		t.Error("a derivation that is not there has outputs")
	}
}

func FuzzParseOutputs(f *testing.F) {
	f.Add(`Derive([("out","` + outPath + `","","")],[],[],"x86_64-linux","/bin/sh",[],[])`)
	f.Add(`Derive([("dev","` + devPath + `","",""),("out","` + outPath + `","","")]`)
	f.Fuzz(func(t *testing.T, text string) {
		paths, err := parseOutputs(text)
		if err == nil && (len(paths) == 0 || slices.Contains(paths, "")) {
			t.Errorf("parseOutputs(%q) = %q without an error", text, paths)
		}
		if err != nil || slices.ContainsFunc(paths, func(p string) bool { return CheckPath("/nix/store", p) != nil }) {
			return
		}
		// A parser of whole derivations has to see the same outputs.
		whole, _ := derivation.ReadDerivation(strings.NewReader(text)) // the error is of what it does not know
		if whole == nil || len(whole.Outputs) == 0 {
			return
		}
		var want []string
		for _, out := range whole.Outputs {
			want = append(want, out.Path)
		}
		slices.Sort(want)
		if !slices.Equal(slices.Sorted(slices.Values(paths)), want) {
			t.Errorf("parseOutputs(%q) = %q, want %q", text, paths, want)
		}
	})
}
