package bincache

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/nixtest"
)

const (
	hashOne = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	hashTwo = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
	sigOne  = "one-1:c2ln"
	sigTwo  = "two-1:c2lnMg=="
)

// realisations in both layouts, as Nix writes them: toJSON in its realisation.cc of 2.8
// and 2.34, to_json in that of 2.35, which was read, but has not been run.
var realisationGolden = map[string]struct {
	r    Realisation
	text string
}{
	"realisations/" + hashOne + "!out.doi": {
		Realisation{Drv: hashOne, Output: "out", OutPath: filepath.Base(libc)},
		`{"dependentRealisations":{},"id":"` + hashOne + `!out","outPath":"1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38","signatures":[]}`,
	},
	"realisations/" + hashTwo + "!dev-1.doi": {
		Realisation{
			Drv: hashTwo, Output: "dev-1", OutPath: filepath.Base(hello), Sigs: []string{sigOne, sigTwo},
			Dependent: map[string]string{hashTwo + "!out": filepath.Base(hello), hashOne + "!out": filepath.Base(libc)},
		},
		`{"dependentRealisations":{"` + hashOne + `!out":"1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38","` + hashTwo + `!out":"0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12"},` +
			`"id":"` + hashTwo + `!dev-1","outPath":"0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12","signatures":["one-1:c2ln","two-1:c2lnMg=="]}`,
	},
	"build-trace-v2/0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12.drv/out.doi": {
		Realisation{Drv: filepath.Base(hello) + ".drv", Output: "out", OutPath: filepath.Base(hello)},
		`{"outPath":"0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12","signatures":[]}`,
	},
	"build-trace-v2/0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12.drv/doc.doi": {
		Realisation{Drv: filepath.Base(hello) + ".drv", Output: "doc", OutPath: filepath.Base(libc), Sigs: []string{sigOne, sigTwo}},
		`{"outPath":"1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38","signatures":[{"keyName":"one-1","sig":"c2ln"},{"keyName":"two-1","sig":"c2lnMg=="}]}`,
	},
}

func TestRealisationsAreAsNixWritesThem(t *testing.T) {
	for file, golden := range realisationGolden {
		if got := golden.r.File(); got != file {
			t.Errorf("file is %s, want %s", got, file)
		}
		if got := string(golden.r.Format()); got != golden.text {
			t.Errorf("%s is %s, want %s", file, got, golden.text)
		}
		r, err := ParseRealisation(file, []byte(golden.text))
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(&golden.r, r); diff != "" {
			t.Errorf("%s is read otherwise (-want +got):\n%s", file, diff)
		}
	}
}

func TestFingerprintsOfRealisationsAreNixs(t *testing.T) {
	out := `"id":"` + hashTwo + `!out","outPath":"0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12"}`
	for want, r := range map[string]Realisation{
		`{"dependentRealisations":{},` + out: {Drv: hashTwo, Output: "out", OutPath: filepath.Base(hello), Sigs: []string{sigOne}},
		// With what it depends on for those up to 2.32, and without for later ones.
		`{"dependentRealisations":{"` + hashOne + `!dev":"1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38"},` + out + "\n" + `{"dependentRealisations":{},` + out: {
			Drv: hashTwo, Output: "out", OutPath: filepath.Base(hello), Dependent: map[string]string{hashOne + "!dev": filepath.Base(libc)},
		},
		`{"key":{"drvPath":"0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12.drv","outputName":"out"},"value":{"outPath":"0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12"}}`: {
			Drv: filepath.Base(hello) + ".drv", Output: "out", OutPath: filepath.Base(hello), Sigs: []string{sigOne},
		},
	} {
		if got := strings.Join(r.fingerprints(), "\n"); got != want {
			t.Errorf("fingerprints are\n%s, want\n%s", got, want)
		}
	}
}

// Since 2.35 Nix reads signatures in both forms, wherever they are; fields that it does
// not know it skips.
func TestRealisationsOfOthersAreRead(t *testing.T) {
	trace := "build-trace-v2/" + filepath.Base(hello) + ".drv/out.doi"
	first := "realisations/" + hashOne + "!out.doi"
	for text, file := range map[string]string{
		`{"outPath":"` + filepath.Base(hello) + `","signatures":["` + sigTwo + `",{"keyName":"one-1","sig":"c2ln"}]}`:                       trace,
		`{"outPath":"` + filepath.Base(hello) + `","signatures":["` + sigTwo + `","` + sigOne + `"],"new":{}}`:                              trace,
		` {"id":"` + hashOne + `!out", "signatures" : [ "` + sigTwo + `", "` + sigOne + `" ], "outPath":"` + filepath.Base(hello) + "\"}\n": first,
	} {
		r, err := ParseRealisation(file, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if r.OutPath != filepath.Base(hello) || !slices.Equal(r.Sigs, []string{sigOne, sigTwo}) {
			t.Errorf("%s is read as %+v", text, r)
		}
	}
	if r, err := ParseRealisation(trace, []byte(`{"outPath":"`+filepath.Base(hello)+`"}`)); err != nil || r.Sigs != nil {
		t.Errorf("without signatures: %+v, %v", r, err)
	}
}

func TestMalformedRealisationsAreRefused(t *testing.T) {
	good := realisationGolden["realisations/"+hashTwo+"!dev-1.doi"].text
	file := "realisations/" + hashTwo + "!dev-1.doi"
	trace := "build-trace-v2/" + filepath.Base(hello) + ".drv/out.doi"
	for what, bad := range map[string][2]string{
		"nothing":               {file, ""},
		"cut off":               {file, good[:len(good)-1]},
		"two of them":           {file, good + good},
		"not an object":         {file, "[]"},
		"of another output":     {"realisations/" + hashTwo + "!out.doi", good},
		"of another derivation": {"realisations/" + hashOne + "!dev-1.doi", good},
		"without id":            {file, strings.Replace(good, `"id"`, `"di"`, 1)},
		"without a path":        {trace, `{"signatures":[]}`},
		"a full path":           {trace, `{"outPath":"` + hello + `"}`},
		"a path that leads out": {trace, `{"outPath":"../../../../../../../../../../../../../../x"}`},
		"depends on nonsense":   {file, strings.Replace(good, hashOne, "sha256:1", 1)},
		"a signature of no key": {file, strings.Replace(good, sigOne, "c2ln", 1)},
		"a number for one":      {trace, `{"outPath":"` + filepath.Base(hello) + `","signatures":[1]}`},
		"a name without hash":   {"realisations/x!out.doi", good},
		"a folder too many":     {"build-trace-v2/" + filepath.Base(hello) + ".drv/x/out.doi", `{"outPath":"` + filepath.Base(hello) + `"}`},
		"output with dots":      {"build-trace-v2/" + filepath.Base(hello) + ".drv/...doi", `{"outPath":"` + filepath.Base(hello) + `"}`},
		"no derivation":         {"build-trace-v2/" + filepath.Base(hello) + "/out.doi", `{"outPath":"` + filepath.Base(hello) + `"}`},
		"outside":               {"../" + file, good},
	} {
		if r, err := ParseRealisation(bad[0], []byte(bad[1])); err == nil {
			t.Errorf("%s: read as %+v", what, r)
		}
	}
}

func FuzzParseRealisation(f *testing.F) {
	for file, golden := range realisationGolden {
		f.Add(file, golden.text)
	}
	f.Add("build-trace-v2/"+filepath.Base(hello)+".drv/out.doi", `{"outPath":"`+filepath.Base(hello)+`","signatures":["a:b"]}`)
	f.Fuzz(func(t *testing.T, file, text string) {
		r, err := ParseRealisation(file, []byte(text))
		if err != nil {
			return
		}
		if r.File() != file || !filepath.IsLocal(file) {
			t.Errorf("file of %+v is %s, was %q", r, r.File(), file)
		}
		again, err := ParseRealisation(file, r.Format())
		if err != nil {
			t.Fatalf("%s: %v", r.Format(), err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Errorf("written and read again (-before +after):\n%s", diff)
		}
	})
}

// TestNixMakesTheSameRealisations has Nix build, sign and copy.
func TestNixMakesTheSameRealisations(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	nixtest.New(t).Run(t, "nix-store", "--generate-binary-cache-key", "ci-1", file, file+".pub")
	secret, err := os.ReadFile(file)
	must(t, err)
	key, err := signature.LoadSecretKey(string(secret))
	must(t, err)

	s := nixtest.New(t, "experimental-features = nix-command ca-derivations", "secret-key-files = "+file)
	s.Run(t, "nix", "copy", "--to", "file://"+dir, "--impure", "--expr", nixtest.Expr(`let
		addressed = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
		base = build "base" "echo base > $out" addressed;
		in build "top" "echo $base > $out; echo dev > $dev" (addressed // { inherit base; outputs = [ "out" "dev" ]; })`))
	files, err := filepath.Glob(filepath.Join(dir, "realisations/*.doi"))
	must(t, err)
	if len(files) < 2 {
		t.Fatalf("Nix has copied %q", files)
	}
	dependent := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		r, err := ParseRealisation("realisations/"+filepath.Base(file), text)
		must(t, err)
		if got := r.Format(); string(got) != string(text) {
			t.Errorf("written as %s, Nix has %s", got, text)
		}
		sigs, err := r.sign([]signature.SecretKey{key})
		must(t, err)
		if len(r.Sigs) != 1 || sigs[0] != r.Sigs[0] {
			t.Errorf("signatures of %s are %q, Nix has %q", text, sigs, r.Sigs)
		}
		if len(r.Dependent) > 0 {
			dependent++
		}
	}
	if dependent == 0 {
		t.Errorf("none of them depends on another: %q", files)
	}
}
