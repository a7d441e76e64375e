package drvdiff

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A pair is an input of each of two derivations. "" is one that there is not.
type pair = [2]string

// inputs pairs the input derivations that not both of x and y have.
func (f *finder) inputs(x, y *drv) (both, alone []pair, err error) {
	groups := group(slices.Collect(maps.Keys(x.InputDerivations)), slices.Collect(maps.Keys(y.InputDerivations)), nameOf)
	for _, g := range groups {
		if len(g[0]) > 1 || len(g[1]) > 1 {
			if err := f.arrange(g, x, y); err != nil {
				return nil, nil, err
			}
		}
	}
	both, alone = match(groups)
	return both, alone, nil
}

// group groups the paths that are in only one of two lists.
func group(a, b []string, key func(path string) string) map[string]*[2][]string {
	const inA, inB = 1, 2
	in := make(map[string]int)
	for _, path := range a {
		in[path] |= inA
	}
	for _, path := range b {
		in[path] |= inB
	}
	groups := make(map[string]*[2][]string)
	for _, path := range slices.Sorted(maps.Keys(in)) {
		if in[path] == inA|inB {
			continue
		}
		g := groups[key(path)]
		if g == nil {
			g = new([2][]string)
			groups[key(path)] = g
		}
		g[in[path]-inA] = append(g[in[path]-inA], path)
	}
	return groups
}

// arrange orders inputs that have the same name, such as "source", so that those
// which belong together have the same place: in the order in which x and y
// mention them. It takes away those that are the same for Nix.
func (f *finder) arrange(g *[2][]string, x, y *drv) error {
	mentions := make(map[string]string) // by path
	sides := make(map[string]int)       // a bit for each, by mentions
	for side, paths := range g {
		for _, path := range paths {
			d, err := f.read(path)
			if err == nil {
				mentions[path] = strings.Join(d.mentions(), "\n")
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			sides[mentions[path]] |= 1 << side
		}
	}
	for side, d := range []*drv{x, y} {
		var text strings.Builder
		for _, fact := range d.texts(nil) {
			text.WriteString(fact.value + "\n")
		}
		place := make(map[string]int)
		for path, list := range mentions {
			for mention := range strings.SplitSeq(list, "\n") {
				place[path] = max(place[path], strings.Index(text.String(), mention))
			}
		}
		g[side] = slices.DeleteFunc(g[side], func(path string) bool {
			return mentions[path] != "" && sides[mentions[path]] == 1<<0|1<<1
		})
		slices.SortStableFunc(g[side], func(a, b string) int { return place[a] - place[b] })
	}
	return nil
}

// match pairs the members of each group by their order, and then, of those that are
// left alone, those whose names differ only by a version. Both lists are sorted by
// name.
func match(groups map[string]*[2][]string) (both, alone []pair) {
	var rest [2][]string
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		n := min(len(g[0]), len(g[1]))
		for i := range n {
			both = append(both, pair{g[0][i], g[1][i]})
		}
		rest[0], rest[1] = append(rest[0], g[0][n:]...), append(rest[1], g[1][n:]...)
	}
	left := group(rest[0], rest[1], withoutVersion)
	for _, name := range slices.Sorted(maps.Keys(left)) {
		g := left[name]
		for i := range max(len(g[0]), len(g[1])) {
			alone = append(alone, pair{at(g[0], i), at(g[1], i)})
		}
	}
	return both, alone
}

var version = regexp.MustCompile("-[^a-zA-Z].*")

func withoutVersion(path string) string { return version.ReplaceAllString(nameOf(path), "") }

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// firstOf returns the first of some pairs as a difference.
func firstOf(what string, pairs ...pair) *Difference {
	if len(pairs) == 0 {
		return nil
	}
	p := pairs[0]
	name := nameOf(cmp.Or(p[0], p[1]))
	if p[0] != "" && p[1] != "" && nameOf(p[1]) != name {
		name = withoutVersion(p[0])
	}
	return &Difference{What: what + name, Values: p}
}
