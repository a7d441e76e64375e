package drvdiff

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nix-larder/larder/internal/nixtest"
)

// instantiate returns the derivations of an expression. In its scope is
//
//	drv "name" { attributes }
//	fetch "name" "url"	which has the same output for any URL
func instantiate(t testing.TB, nix *nixtest.Store, expr string) []string {
	t.Helper()
	const scope = `let
		drv = name: attrs: derivation ({
			inherit name;
			system = "x86_64-linux";
			builder = "/bin/sh";
			args = [ "-c" "echo $out" ];
		} // attrs);
		fetch = name: url: drv name {
			inherit url;
			outputHash = "0000000000000000000000000000000000000000000000000000";
			outputHashAlgo = "sha256";
		};
		in `
	return nix.Lines(t, "nix-instantiate", "--experimental-features", "ca-derivations", "-E", scope+expr)
}

// instantiateTwo returns the derivations of a function of a value.
func instantiateTwo(t testing.TB, nix *nixtest.Store, function, a, b string) [2]string {
	t.Helper()
	drvs := instantiate(t, nix, fmt.Sprintf("let f = %s; in [ (f (%s)) (f (%s)) ]", function, a, b))
	if len(drvs) != 2 {
		t.Fatalf("%d derivations, want 2", len(drvs))
	}
	return [2]string(drvs)
}

// named returns the paths of that name in a derivation's closure.
func named(t testing.TB, nix *nixtest.Store, drv, name string) []string {
	t.Helper()
	paths := slices.DeleteFunc(nix.Lines(t, "nix-store", "-qR", drv), func(path string) bool {
		return !strings.HasSuffix(path, "-"+name)
	})
	if len(paths) == 0 {
		t.Fatalf("no path is named %s in the closure of %s", name, drv)
	}
	return paths
}

// find is Find where it must succeed. What it finds must not depend on the order.
func find(t testing.TB, nix *nixtest.Store, drvs [2]string) *Difference {
	t.Helper()
	d, err := Find(nix.Dir, drvs[0], drvs[1])
	must(t, err)
	back, err := Find(nix.Dir, drvs[1], drvs[0])
	must(t, err)
	if d != nil && back != nil {
		swapped := *back
		slices.Reverse(swapped.Drvs[:])
		slices.Reverse(swapped.Values[:])
		back = &swapped
	}
	if diff := cmp.Diff(d, back); diff != "" {
		t.Errorf("the other way round (-forth +back):\n%s", diff)
	}
	return d
}

func TestFirstDifferenceIsFound(t *testing.T) {
	nix := nixtest.New(t)
	for _, tt := range []struct {
		name, function, a, b string
		via                  []string
		what                 string
		values               [2]string // "path of" is followed by the name of a store path
	}{
		{
			name: "source three levels down",
			function: `text: let
				source = builtins.toFile "main.c" text;
				base = drv "base" { inherit source; };
				lib = drv "lib" { inherit base; };
				in drv "app" { inherit lib; args = [ "-c" "cc ${lib}" ]; }`,
			a: `"one"`, b: `"two"`,
			via: []string{"lib", "base"}, what: "input source main.c", values: [2]string{"path of main.c", "path of main.c"},
		}, {
			name:     "environment variable",
			function: `flags: drv "app" { dep = drv "dep" { inherit flags; }; }`,
			a:        `"-O2"`, b: `"-O3"`,
			via: []string{"dep"}, what: "environment variable flags", values: [2]string{"-O2", "-O3"},
		}, {
			name:     "environment variable that is empty",
			function: `attrs: drv "app" attrs`,
			a:        `{ }`, b: `{ flags = ""; }`,
			what: "environment variable flags", values: [2]string{"", `""`},
		}, {
			name:     "environment variable beside the paths of outputs",
			function: `x: drv "app" { outputs = [ "out" "dev" ]; script = "mkdir ${placeholder "out"}"; a = x; }`,
			a:        `"1"`, b: `"2"`,
			what: "environment variable a", values: [2]string{"1", "2"},
		}, {
			name:     "structured attributes",
			function: `x: drv "app" { __structuredAttrs = true; flags = [ x ]; }`,
			a:        `"-O2"`, b: `"-O3"`,
			what: "environment variable __json",
			values: [2]string{
				`{"builder":"/bin/sh","flags":["-O2"],"name":"app","system":"x86_64-linux"}`,
				`{"builder":"/bin/sh","flags":["-O3"],"name":"app","system":"x86_64-linux"}`,
			},
		}, {
			name:     "argument",
			function: `x: drv "app" { args = [ "-c" "echo \"${x}\"\n\t\\n" "last" ]; z = "1"; }`,
			a:        `"one"`, b: `"two"`,
			what: "argument 2", values: [2]string{"echo \"one\"\n\t\\n", "echo \"two\"\n\t\\n"},
		}, {
			name:     "number of arguments",
			function: `x: drv "app" { args = [ "-c" ] ++ x; }`,
			a:        `[ "a" ]`, b: `[ "a" "b" ]`,
			what: "argument 3", values: [2]string{"", "b"},
		}, {
			name:     "builder",
			function: `builder: drv "app" { inherit builder; }`,
			a:        `"/bin/sh"`, b: `"/bin/bash"`,
			what: "builder", values: [2]string{"/bin/sh", "/bin/bash"},
		}, {
			name:     "system",
			function: `system: drv "app" { inherit system; dep = drv "dep" { inherit system; }; }`,
			a:        `"x86_64-linux"`, b: `"aarch64-linux"`,
			via: []string{"dep"}, what: "system", values: [2]string{"x86_64-linux", "aarch64-linux"},
		}, {
			name:     "outputs",
			function: `outputs: drv "app" { inherit outputs; }`,
			a:        `[ "out" ]`, b: `[ "out" "dev" ]`,
			what: "output dev", values: [2]string{"", "input-addressed"},
		}, {
			name: "hash of a fixed output",
			function: `x: let
				source = fetch "source" "http://a" // drv "source" {
					outputHash = "000000000000000000000000000000000000000000000000000${x}"; outputHashAlgo = "sha256";
					dep = drv "dep" { inherit x; };
				};
				in drv "app" { inherit source; }`,
			a: `"0"`, b: `"1"`,
			via: []string{"source"}, what: "output out",
			values: [2]string{"sha256:" + strings.Repeat("0", 64), "sha256:01" + strings.Repeat("0", 62)},
		}, {
			name:     "output that became fixed",
			function: `attrs: drv "app" { dep = drv "dep" ({ x = drv "x" attrs; } // attrs); }`,
			a:        `{ }`, b: `{ outputHash = "0000000000000000000000000000000000000000000000000000"; outputHashAlgo = "sha256"; }`,
			via: []string{"dep"}, what: "output out",
			values: [2]string{"input-addressed", "sha256:" + strings.Repeat("0", 64)},
		}, {
			name:     "added input",
			function: `inputs: drv "app" { inherit inputs; same = drv "same" { }; }`,
			a:        `[ ]`, b: `[ (drv "zlib" { }) ]`,
			what: "input derivation zlib", values: [2]string{"", "path of zlib.drv"},
		}, {
			name:     "another version of an input",
			function: `inputs: drv "app" { inherit inputs; }`,
			a:        `[ (drv "zlib-ng-1.2" { }) (drv "zlib-1.2" { }) ]`, b: `[ (drv "zlib-ng-1.2" { }) (drv "zlib-1.3" { }) ]`,
			what: "input derivation zlib", values: [2]string{"path of zlib-1.2.drv", "path of zlib-1.3.drv"},
		}, {
			name:     "used output",
			function: `output: drv "app" { dep = (drv "dep" { outputs = [ "out" "dev" ]; }).${output}; }`,
			a:        `"out"`, b: `"dev"`,
			what: "used outputs of input derivation dep", values: [2]string{"out", "dev"},
		}, {
			name:     "added source",
			function: `attrs: drv "app" ({ z = builtins.toFile "z" ""; } // attrs)`,
			a:        `{ }`, b: `{ patch = builtins.toFile "fix.patch" ""; }`,
			what: "input source fix.patch", values: [2]string{"", "path of fix.patch"},
		}, {
			name:     "deepest before nearest",
			function: `x: drv "app" { inherit x; dep = drv "dep" { inherit x; builder = "/bin/${x}"; }; args = [ x ]; }`,
			a:        `"1"`, b: `"2"`,
			via: []string{"dep"}, what: "builder", values: [2]string{"/bin/1", "/bin/2"},
		}, {
			name:     "first name of several",
			function: `x: drv "app" { inputs = map (name: drv name { inherit name x; }) [ "b" "a" "c" ]; }`,
			a:        `"1"`, b: `"2"`,
			via: []string{"a"}, what: "environment variable x", values: [2]string{"1", "2"},
		}, {
			name: "beside a fetch that changed nothing",
			function: `x: drv "app" {
				source = fetch "source" "http://${x}"; z = drv "z" { dep = fetch "dep" "http://${x}"; inherit x; };
			}`,
			a: `"1"`, b: `"2"`,
			via: []string{"z"}, what: "environment variable x", values: [2]string{"1", "2"},
		}, {
			name: "inputs of one name",
			function: `x: drv "app" { sources = map (i: drv "source" { n = toString i; flags = if i == 7 then x else ""; })
				(builtins.genList (i: i) 9); }`,
			a: `"one"`, b: `"two"`,
			via: []string{"source"}, what: "environment variable flags", values: [2]string{"one", "two"},
		}, {
			name:     "added input beside a fetch of its name",
			function: `{ url, more }: drv "app" { sources = more ++ [ (fetch "source" url) (drv "z" { }) ]; }`,
			a:        `{ url = "http://a"; more = [ ]; }`, b: `{ url = "http://b"; more = [ (drv "source" { }) ]; }`,
			what: "input derivation source", values: [2]string{"", "path of source.drv"},
		}, {
			name: "fetches of one name",
			function: `x: drv "app" { sources = builtins.genList (i: fetch "source" "http://${toString i}/${x}" // drv "source" {
				url = "http://${toString i}/${x}"; outputHashAlgo = "sha256";
				outputHash = "00000000000000000000000000000000000000000000000000${toString i}${if i == 7 then x else "0"}";
			}) 8; }`,
			a: `"1"`, b: `"2"`,
			via: []string{"source"}, what: "output out",
			values: [2]string{"sha256:e1" + strings.Repeat("0", 62), "sha256:e2" + strings.Repeat("0", 62)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			drvs := instantiateTwo(t, nix, tt.function, tt.a, tt.b)
			got := find(t, nix, drvs)
			if got == nil {
				t.Fatal("no difference was found")
			}
			want := &Difference{Drvs: drvs, Via: tt.via, What: tt.what, Values: tt.values}
			for side, drv := range drvs {
				if name, ok := strings.CutPrefix(tt.values[side], "path of "); ok {
					want.Values[side] = oneOf(got.Values[side], named(t, nix, drv, name))
				}
				if len(tt.via) > 0 {
					want.Drvs[side] = oneOf(got.Drvs[side], named(t, nix, drv, tt.via[len(tt.via)-1]+".drv"))
				}
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// oneOf returns what was got if that is one of the paths wanted, and else the first.
func oneOf(got string, want []string) string {
	if slices.Contains(want, got) {
		return got
	}
	return want[0]
}

func TestFixedOutputsDifferByTheirNames(t *testing.T) {
	nix := nixtest.New(t)
	drvs := instantiateTwo(t, nix, `name: fetch name "http://a"`, `"one"`, `"two"`)
	want := &Difference{Drvs: drvs, What: "output out"}
	for side, drv := range drvs {
		want.Values[side] = nix.Run(t, "nix-store", "-q", "--outputs", drv)
	}
	if diff := cmp.Diff(want, find(t, nix, drvs), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
