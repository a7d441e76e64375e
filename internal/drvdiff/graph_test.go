package drvdiff

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
)

func TestWhatIsTheSameForNixDoesNotDiffer(t *testing.T) {
	nix := nixtest.New(t)
	for name, function := range map[string]string{
		"one derivation": `url: drv "app" { }`,
		"fixed output":   `url: fetch "source" url`,
		"input":          `url: drv "app" { source = fetch "source" url; }`,
		"deep input": `url: let
			lib = drv "lib" { source = fetch "source" url; outputs = [ "out" "dev" ]; };
			in drv "app" { inherit lib; inherit (lib) dev; }`,
		"input of a fixed output": `url: fetch "source" "http://a" // drv "source" {
			outputHash = "0000000000000000000000000000000000000000000000000000"; outputHashAlgo = "sha256";
			curl = drv "curl" { inherit url; };
		}`,
		"inputs of one name":                `url: drv "app" { sources = [ (fetch "source" url) (fetch "source" "http://b") (drv "source" { }) ]; }`,
		"input fetched in one and two ways": `url: drv "app" { sources = [ (fetch "source" url) (fetch "source" "http://one") ]; }`,
		"named by contents": `url: let
			ca = name: attrs: drv name ({ __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; } // attrs);
			lib = ca "lib" { source = fetch "source" url; outputs = [ "out" "dev" ]; };
			in drv "app" { inherit lib; inherit (lib) dev; args = [ "${lib}/bin" ]; twins = [ (ca "twin" { inherit lib; }) (ca "twin" { n = lib.dev; }) ]; }`,
	} {
		t.Run(name, func(t *testing.T) {
			drvs := instantiateTwo(t, nix, function, `"http://one"`, `"http://two"`)
			if (drvs[0] == drvs[1]) != (name == "one derivation") {
				t.Fatal("this test compares what it should not")
			}
			if d := find(t, nix, drvs); d != nil {
				t.Errorf("they differ: %+v", d)
			}
		})
	}
}

// TestMissingDerivationIsItselfTheDifference takes away a derivation, or its
// counterpart, that others refer to.
func TestMissingDerivationIsItselfTheDifference(t *testing.T) {
	for side := range 2 {
		nix := nixtest.New(t)
		drvs := instantiateTwo(t, nix, `x: drv "app" { inherit x; lib = drv "lib" { dep = drv "dep" { inherit x; }; }; }`, `"1"`, `"2"`)
		want := &Difference{Via: []string{"lib"}, What: "input derivation dep"}
		for i, drv := range drvs {
			want.Drvs[i] = named(t, nix, drv, "lib.drv")[0]
			want.Values[i] = named(t, nix, drv, "dep.drv")[0]
		}
		gone := want.Values[side]
		// Nix deletes it only with those that refer to it.
		users := []string{want.Drvs[side], drvs[side]}
		files := make(map[string][]byte)
		for _, path := range users {
			text, err := os.ReadFile(path)
			must(t, err)
			files[path] = text
		}
		nix.Run(t, "nix-store", append([]string{"--delete", gone}, users...)...)
		for path, text := range files {
			must(t, os.WriteFile(path, text, 0o444))
		}
		if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s is still there: %v", gone, err)
		}
		if diff := cmp.Diff(want, find(t, nix, drvs)); diff != "" {
			t.Errorf("without that of side %d (-want +got):\n%s", side, diff)
		}

		// Without those that are asked for there is no answer.
		must(t, os.Remove(drvs[side]))
		d, err := Find(nix.Dir, drvs[0], drvs[1])
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(fmt.Sprint(err), drvs[side]) || d != nil {
			t.Errorf("without a given derivation: %+v, %v, want fs.ErrNotExist", d, err)
		}
	}
}

func TestDeepestOfLongChainIsFound(t *testing.T) {
	nix := nixtest.New(t)
	const length = 300
	drvs := instantiateTwo(t, nix, fmt.Sprintf(`x: builtins.foldl'
		(dep: i: drv "level-${toString i}" { inherit dep; })
		(drv "bottom" { inherit x; }) (builtins.genList (i: i) %d)`, length), `"1"`, `"2"`)
	d := find(t, nix, drvs)
	if d == nil || d.What != "environment variable x" || len(d.Via) != length ||
		d.Via[0] != fmt.Sprint("level-", length-2) || d.Via[length-1] != "bottom" {
		t.Errorf("%+v, want the variable of the bottom by way of %d", d, length)
	}
}

// TestDiamondsAreFollowedOnce has more ways from the top to the bottom than can be
// gone. Where Nix knows no paths before a build, none of them may be left out.
func TestDiamondsAreFollowedOnce(t *testing.T) {
	nix := nixtest.New(t)
	const function = `{ url, x }: builtins.head (builtins.foldl'
		(deps: i: map (side: drv "${side}-${toString i}" {
			inherit deps;
			__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
		}) [ "left" "right" ])
		[ (fetch "source" url) (drv "z" { inherit x; dep = fetch "source" url; }) ] (builtins.genList (i: i) 60))`
	for _, tt := range []struct{ what, a, b string }{
		{"", `{ url = "http://a"; x = "1"; }`, `{ url = "http://b"; x = "1"; }`},
		{"environment variable x", `{ url = "http://a"; x = "1"; }`, `{ url = "http://b"; x = "2"; }`},
	} {
		drvs := instantiateTwo(t, nix, function, tt.a, tt.b)
		done := make(chan *Difference)
		go func() {
			d, err := Find(nix.Dir, drvs[0], drvs[1])
			if err != nil {
				t.Error(err)
			}
			done <- d
		}()
		select {
		case d := <-done:
			if d == nil && tt.what != "" || d != nil && (d.What != tt.what || len(d.Via) != 60) {
				t.Errorf("%+v, want %q", d, tt.what)
			}
		case <-time.After(time.Minute):
			t.Fatal("not found in a minute")
		}
	}
}

// TestChangeInAnyGraphIsFound changes each derivation of a graph in turn, and asks
// for it. Many have the same name.
func TestChangeInAnyGraphIsFound(t *testing.T) {
	nix := nixtest.New(t)
	const count = 16
	for _, contentAddressed := range []string{"false", "mod i 3 == 1", "true"} {
		for seed := range 3 {
			checkChanges(t, nix, fmt.Sprintf(`let
				mod = a: b: a - b * (a / b);
				graph = changed: let
					nodes = builtins.genList node %d;
					uses = i: j: mod (i * i * 7 + j * 13 + i * j * %d + %d) 4 == 0 || j == i - 1;
					node = i: drv "node-${toString (mod (i * 11) 5)}" ({
						id = toString i;
						change = if i == changed then "changed" else "";
						deps = map (builtins.elemAt nodes) (builtins.filter (uses i) (builtins.genList (j: j) i));
						source = fetch "source" "http://${toString (mod i 4)}/${if changed == null then "old" else "new"}";
					} // (if %s then { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; } else { }));
				in builtins.elemAt nodes %d;
				in map graph ([ null (-1) ] ++ builtins.genList (i: i) %d)`,
				count, seed, seed*3, contentAddressed, count-1, count), count)
		}
	}
}

// checkChanges instantiates a list: a graph, another that is the same for Nix, and
// one for each of its derivations with that one changed.
func checkChanges(t *testing.T, nix *nixtest.Store, expr string, count int) {
	t.Helper()
	tops := instantiate(t, nix, expr)
	if len(tops) != count+2 {
		t.Fatalf("%d derivations, want %d", len(tops), count+2)
	}
	if d := find(t, nix, [2]string{tops[0], tops[1]}); d != nil {
		t.Errorf("with other URLs: %+v", d)
	}
	for i, top := range tops[2:] {
		d := find(t, nix, [2]string{tops[0], top})
		if d == nil || d.What != "environment variable change" || d.Values != [2]string{`""`, "changed"} {
			t.Errorf("with derivation %d changed: %+v", i, d)
			continue
		}
		for _, drv := range d.Drvs {
			text, err := os.ReadFile(drv)
			must(t, err)
			if !strings.Contains(string(text), fmt.Sprintf(`("id","%d")`, i)) {
				t.Errorf("%s is not derivation %d", drv, i)
			}
		}
		checkWay(t, nix, tops[0], d.Via)
	}
}

// checkWay reports if names of inputs lead from a derivation to nowhere.
func checkWay(t *testing.T, nix *nixtest.Store, from string, via []string) {
	t.Helper()
	f := finder{storeDir: nix.Dir}
	at := []string{from}
	for _, name := range via {
		var next []string
		for _, path := range at {
			d, err := f.read(path)
			must(t, err)
			for input := range d.InputDerivations {
				if nameOf(input) == name && !slices.Contains(next, input) {
					next = append(next, input)
				}
			}
		}
		at = next
	}
	if len(at) == 0 {
		t.Errorf("no inputs of %s lead along %q", from, via)
	}
}
