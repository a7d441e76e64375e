// Package drvdiff tells why two derivations have outputs with different hashes.
//
// A hash covers all that a derivation says, and all that its inputs say. So one
// changed file changes every derivation above it, and each of those differs from
// its former self by little but the hashes of its inputs. [Find] goes down to
// where something else differs.
//
// Derivations that fetch what has a known hash count by that hash, as they do for
// Nix, and not by how they fetch it.
package drvdiff

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
)

// A Difference is where two derivations first differ.
type Difference struct {
	// Drvs are the two derivations that differ in themselves, and not only
	// through their inputs.
	Drvs [2]string

	// Via are the names of the inputs that lead to them, outermost first: the last
	// is their own. It is empty if they are the given ones.
	Via []string

	// What differs, such as "system", "builder", "argument 1", "environment
	// variable src", "output out", "input source main.c", "input derivation
	// zlib-1.3", or "used outputs of input derivation zlib-1.3".
	What string

	// Values are what each has, or "" if it has none. Of a long text they are the
	// part that differs first, and one that is there but empty reads `""`. They may
	// have any character in them.
	Values [2]string
}

// Find returns where two derivations, given by the paths of their files, first
// differ. It returns nil if the same outputs come out of both.
//
// Inputs belong together if they have the same name; those of the first name that
// differs are followed, down to the deepest. A derivation that is not in the
// store any more can't be followed: then it is itself what differs. The error
// wraps [fs.ErrNotExist] only if one of the given two is not there.
func Find(storeDir, a, b string) (*Difference, error) {
	f := finder{storeDir: storeDir, seen: make(map[pair]bool)}
	x, y, err := f.readBoth(pair{a, b})
	if err != nil {
		return nil, err
	}
	return f.find(x, y)
}

// A finder goes down two graphs of derivations, depth first.
type finder struct {
	storeDir string

	// seen has the pairs that were followed. Unless one of them is the answer
	// nothing below it is, so it need not be followed again: a graph may have far
	// more ways than derivations.
	seen map[pair]bool

	via []string // the way to where it is
}

func (f *finder) find(x, y *drv) (*Difference, error) {
	drvs := pair{x.path, y.path}
	if x.path == y.path || sameOutputs(x, y) || f.seen[drvs] {
		return nil, nil
	}
	f.seen[drvs] = true
	d, err := f.compare(x, y)
	if d != nil && d.Drvs == (pair{}) {
		d.Drvs, d.Via = drvs, slices.Clone(f.via)
	}
	return d, err
}

// compare finds a difference in the inputs, or else the first in x and y
// themselves that is not only the consequence of another: inputs and outputs are
// also in the environment, and sources often are.
func (f *finder) compare(x, y *drv) (*Difference, error) {
	if x.fixed() || y.fixed() {
		// Nothing else counts for Nix, except the names, which are in the paths.
		return cmp.Or(firstDifference(x.outputs(), y.outputs()), firstDifference(x.paths(), y.paths())), nil
	}
	inputs, alone, err := f.inputs(x, y)
	if err != nil {
		return nil, err
	}
	same := equal{storeDir: f.storeDir}
	same.add(x, y)
	for _, p := range inputs {
		a, b, err := f.readBoth(p)
		if errors.Is(err, fs.ErrNotExist) {
			return firstOf("input derivation ", p), nil
		}
		if err != nil {
			return nil, err
		}
		f.via = append(f.via, nameOf(p[0]))
		d, err := f.find(a, b)
		f.via = f.via[:len(f.via)-1]
		if d != nil || err != nil {
			return d, err
		}
		same.add(a, b)
	}
	sources, aloneSources := match(group(x.InputSources, y.InputSources, nameOf))
	return cmp.Or(
		firstDifference(x.outputs(), y.outputs()),
		firstDifference([]fact{{"system", x.Platform}}, []fact{{"system", y.Platform}}),
		firstOf("input derivation ", alone...),
		firstDifference(x.usedOutputs(), y.usedOutputs()),
		firstOf("input source ", sources...),
		firstOf("input source ", aloneSources...),
		firstDifference(x.texts(same.paths[0]), y.texts(same.paths[1])),
		// Their names differ, or Nix has not made them.
		firstDifference(x.paths(), y.paths()),
	), nil
}

func (f *finder) readBoth(p pair) (x, y *drv, err error) {
	if x, err = f.read(p[0]); err != nil {
		return nil, nil, err
	}
	y, err = f.read(p[1])
	return x, y, err
}
