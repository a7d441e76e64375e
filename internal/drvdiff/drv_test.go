package drvdiff

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// numbered returns a store path with a number for a hash.
func numbered(dir string, n int, name string) string {
	return filepath.Join(dir, fmt.Sprintf("%032d-%s", n, name))
}

// An aterm is a derivation that Nix need not be able to make.
type aterm struct {
	out    string // the path of its only output; unknown if empty
	inputs []string
	script string
	env    string // a variable's value
}

func (a aterm) String() string {
	inputs := make([]string, len(a.inputs))
	for i, path := range a.inputs {
		inputs[i] = fmt.Sprintf(`("%s",["out"])`, path)
	}
	algorithm := ""
	if a.out == "" {
		algorithm = "r:sha256"
	}
	return fmt.Sprintf(`Derive([("out","%s","%s","")],[%s],[],"x86_64-linux","/bin/sh",["-c","%s"],[("name","x"),("var","%s")])`,
		a.out, algorithm, strings.Join(inputs, ","), a.script, a.env)
}

func write(t testing.TB, path string, text fmt.Stringer) string {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text.String()), 0o644))
	return path
}

func TestWhatIsNotADerivationIsAnError(t *testing.T) {
	dir := t.TempDir()
	good := write(t, numbered(dir, 1, "good.drv"), aterm{})
	whole := aterm{out: numbered(dir, 0, "out")}.String()
	texts := map[string]string{
		"empty":           "",
		"a later form":    "DrvWithVersion(\"xp-dyn-drv\"," + strings.TrimPrefix(whole, "Derive("),
		"another file":    "#!/bin/sh\nexit 0\n",
		"no environment":  whole[:strings.LastIndex(whole, ",[")] + ")",
		"no outputs":      "Derive([]" + whole[strings.Index(whole, ",[],"):],
		"nothing but end": "Derive()",
	}
	for _, n := range []int{10, 50, len(whole) - 1} {
		texts[fmt.Sprint("the first bytes, ", n)] = whole[:n]
	}
	for name, text := range texts {
		bad := numbered(dir, 2, "bad.drv")
		must(t, os.WriteFile(bad, []byte(text), 0o644))
		user := write(t, numbered(dir, 3, "user.drv"), aterm{inputs: []string{bad}})
		other := write(t, numbered(dir, 4, "user.drv"), aterm{inputs: []string{numbered(dir, 1, "bad.drv")}})
		must(t, os.WriteFile(numbered(dir, 1, "bad.drv"), []byte(whole), 0o644))
		for _, drvs := range [][2]string{{good, bad}, {bad, good}, {user, other}, {other, user}} {
			d, err := Find(dir, drvs[0], drvs[1])
			if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "read derivation "+bad+": ") {
				t.Errorf("%s: %+v, %v, want an error that names it", name, d, err)
			}
		}
	}
}

func TestOnlyTheStoreIsRead(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "store"), 0o755))
	store := filepath.Join(dir, "store")
	elsewhere := write(t, numbered(dir, 1, "x.drv"), aterm{})
	inside := write(t, numbered(store, 2, "x.drv"), aterm{})
	for _, path := range []string{elsewhere, store + "/../" + filepath.Base(elsewhere), "", store, "x.drv"} {
		d, err := Find(store, path, inside)
		if err == nil || !strings.Contains(err.Error(), "is not right below") {
			t.Errorf("%q: %+v, %v, want an error", path, d, err)
		}
		user := write(t, numbered(store, 3, "user.drv"), aterm{inputs: []string{path}})
		other := write(t, numbered(store, 4, "user.drv"), aterm{inputs: []string{inside}})
		if d, err := Find(store, user, other); nameOf(path) == "x" && err == nil {
			t.Errorf("input %q: %+v, want an error", path, d)
		}
	}
}

// TestLongTextsAreCutWhereTheyDiffer has the paths of outputs before that place,
// which differ but do not count.
func TestLongTextsAreCutWhereTheyDiffer(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, a, b, wantA, wantB string }{
		{
			"in the middle", "mkdir OUT; " + strings.Repeat("a", 500) + "1" + strings.Repeat("b", 500),
			"mkdir OUT; " + strings.Repeat("a", 500) + "2" + strings.Repeat("b", 500),
			"…" + strings.Repeat("a", before) + "1" + strings.Repeat("b", shown-before-1) + "…",
			"…" + strings.Repeat("a", before) + "2" + strings.Repeat("b", shown-before-1) + "…",
		},
		{
			"at the end", strings.Repeat("a", 500) + "1", strings.Repeat("a", 500),
			"…" + strings.Repeat("a", before) + "1", "…" + strings.Repeat("a", before),
		},
		{
			"one is short", strings.Repeat("a", 500), "aab",
			strings.Repeat("a", shown) + "…", "aab",
		},
		{
			"inside characters", strings.Repeat("ö", 500) + "ä" + strings.Repeat("ü", 500),
			strings.Repeat("ö", 500) + "ß" + strings.Repeat("ü", 500),
			"…" + strings.Repeat("ö", before/2-1) + "ä" + strings.Repeat("ü", (shown-before)/2-1) + "…",
			"…" + strings.Repeat("ö", before/2-1) + "ß" + strings.Repeat("ü", (shown-before)/2-1) + "…",
		},
		{"in nothing but their outputs", "echo > OUT", "echo > OUT", "", ""},
		{"after their outputs", "echo 1 > OUT", "echo 2 > OUT", "echo 1 > " + dir + "/…-x", "echo 2 > " + dir + "/…-x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var drvs [2]string
			for i, text := range []string{tt.a, tt.b} {
				out := numbered(dir, i, "x")
				drvs[i] = write(t, numbered(dir, i, "x.drv"), aterm{out: out, env: strings.ReplaceAll(text, "OUT", out)})
			}
			d, err := Find(dir, drvs[0], drvs[1])
			must(t, err)
			want := &Difference{Drvs: drvs, What: "environment variable var", Values: [2]string{tt.wantA, tt.wantB}}
			if tt.a == tt.b {
				// Nix would not have given these different ones.
				want.What, want.Values = "output out", [2]string{numbered(dir, 0, "x"), numbered(dir, 1, "x")}
			}
			if diff := cmp.Diff(want, d, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDerivationsThatNeedEachOtherAreNoTrap(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		write(t, numbered(dir, i, "a.drv"), aterm{inputs: []string{numbered(dir, i, "b.drv")}})
		write(t, numbered(dir, i, "b.drv"), aterm{inputs: []string{numbered(dir, i, "a.drv"), numbered(dir, i, "b.drv")}})
	}
	d, err := Find(dir, numbered(dir, 0, "a.drv"), numbered(dir, 1, "a.drv"))
	if d != nil || err != nil {
		t.Errorf("%+v, %v, want no difference", d, err)
	}
	write(t, numbered(dir, 1, "b.drv"), aterm{inputs: []string{numbered(dir, 1, "a.drv")}, script: "changed"})
	d, err = Find(dir, numbered(dir, 0, "a.drv"), numbered(dir, 1, "a.drv"))
	if err != nil || d == nil || len(d.Via) != 1 {
		t.Errorf("%+v, %v, want a difference in b", d, err)
	}
}

func TestMissingDerivationsOfOneNameDiffer(t *testing.T) {
	dir := t.TempDir()
	var tops, gone [2]string
	for i := range tops {
		gone[i] = numbered(dir, 10+i, "dep.drv")
		there := write(t, numbered(dir, 20+i, "dep.drv"), aterm{env: fmt.Sprint(i), out: numbered(dir, 30+i, "dep")})
		tops[i] = write(t, numbered(dir, i, "top.drv"), aterm{inputs: []string{gone[i], there}, env: numbered(dir, 30+i, "dep")})
	}
	d, err := Find(dir, tops[0], tops[1])
	must(t, err)
	want := &Difference{Drvs: tops, What: "input derivation dep", Values: gone}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestHugeGraphsTakeLinearTime has more ways than can be gone in a graph where
// nothing differs, so that every derivation must be looked at.
func TestHugeGraphsTakeLinearTime(t *testing.T) {
	dir := t.TempDir()
	const count = 5_000
	var top [2]string
	for side := range top {
		var paths []string
		for i := range count {
			a := aterm{}
			for _, back := range []int{3, 2, 1} {
				if i >= back {
					a.inputs = append(a.inputs, paths[i-back])
				}
			}
			paths = append(paths, write(t, numbered(dir, 2*i+side, fmt.Sprintf("level-%d.drv", i)), a))
		}
		top[side] = paths[count-1]
	}
	begin := time.Now()
	f := finder{storeDir: dir, seen: make(map[pair]bool)}
	x, y, err := f.readBoth(top)
	must(t, err)
	d, err := f.find(x, y)
	if d != nil || err != nil {
		t.Errorf("%+v, %v, want no difference", d, err)
	}
	if len(f.seen) != count {
		t.Errorf("%d pairs were followed, want %d", len(f.seen), count)
	}
	t.Logf("took %v", time.Since(begin))
}

func FuzzFind(f *testing.F) {
	const dir = "/nix/store"
	f.Add(aterm{out: numbered(dir, 1, "x"), script: `a\nb`, env: `\"`}.String(), aterm{inputs: []string{numbered(dir, 2, "x.drv")}}.String())
	f.Add(`Derive([("out","","r:sha256","1")],[],["a","b"],"","",[],[("__json","{}")])`, `Derive([],[],[],"","",[],[])`)
	f.Fuzz(func(t *testing.T, a, b string) {
		dir := t.TempDir()
		var drvs [3]string
		for i, text := range []string{a, b, a} {
			drvs[i] = numbered(dir, i, "x.drv")
			must(t, os.WriteFile(drvs[i], []byte(text), 0o644))
		}
		d, err := Find(dir, drvs[0], drvs[1])
		if d != nil && (err != nil || d.What == "" || d.Drvs != [2]string(drvs[:2])) {
			t.Errorf("%+v, %v", d, err)
		}
		back, err2 := Find(dir, drvs[1], drvs[0])
		if (err == nil) != (err2 == nil) || (d == nil) != (back == nil) {
			t.Errorf("%+v, %v, but the other way round %+v, %v", d, err, back, err2)
		}
		if d, err := Find(dir, drvs[0], drvs[2]); d != nil {
			t.Errorf("the same text differs: %+v, %v", d, err)
		}
	})
}
