package drvdiff

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A fact is one thing that a derivation says.
type fact struct{ what, value string }

func (d *drv) outputs() (facts []fact) {
	for _, name := range slices.Sorted(maps.Keys(d.Outputs)) {
		out := d.Outputs[name]
		value := "input-addressed"
		if out.HashAlgorithm != "" {
			value = strings.TrimSuffix(out.HashAlgorithm+":"+out.Hash, ":")
		}
		facts = append(facts, fact{"output " + name, value})
	}
	return facts
}

func (d *drv) paths() (facts []fact) {
	for _, name := range slices.Sorted(maps.Keys(d.Outputs)) {
		facts = append(facts, fact{"output " + name, d.Outputs[name].Path})
	}
	return facts
}

func (d *drv) usedOutputs() (facts []fact) {
	used := make(map[string][]string)
	for path, outputs := range d.InputDerivations {
		used[nameOf(path)] = append(used[nameOf(path)], outputs...)
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		outputs := slices.Compact(slices.Sorted(slices.Values(used[name])))
		facts = append(facts, fact{"used outputs of input derivation " + name, strings.Join(outputs, " ")})
	}
	return facts
}

// texts returns all that may mention inputs and outputs, with others in place of
// the given paths.
func (d *drv) texts(equal []string) []fact {
	r := strings.NewReplacer(equal...)
	facts := []fact{{"builder", r.Replace(d.Builder)}}
	for i, arg := range d.Arguments {
		facts = append(facts, fact{fmt.Sprint("argument ", i+1), r.Replace(arg)})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		facts = append(facts, fact{"environment variable " + name, r.Replace(d.Env[name])})
	}
	return facts
}

// An equal has, for each of two derivations, paths and what to read in their
// place, alternately. The hashes of outputs do not count: if one had mattered, its
// derivation would have been the answer.
type equal struct {
	storeDir string
	paths    [2][]string
}

func (e *equal) add(x, y *drv) {
	for name := range x.Outputs {
		if y.Outputs[name] == nil {
			continue
		}
		// No path has this character in it.
		path := e.storeDir + "/…-" + outputName(nameOf(x.path), name)
		e.paths[0] = append(e.paths[0], x.mention(name), path)
		e.paths[1] = append(e.paths[1], y.mention(name), path)
	}
}

// firstDifference compares facts by what they are about, in the order of a; then
// come those that only b has.
func firstDifference(a, b []fact) *Difference {
	var says [2]map[string]string
	for side, facts := range [][]fact{a, b} {
		says[side] = make(map[string]string)
		for _, f := range facts {
			says[side][f.what] = f.value
		}
	}
	for _, f := range slices.Concat(a, b) {
		x, ok := says[0][f.what]
		y, too := says[1][f.what]
		if x == y && ok == too {
			continue
		}
		d := &Difference{What: f.what}
		at := commonPrefix(x, y)
		if ok {
			d.Values[0] = excerpt(x, at)
		}
		if too {
			d.Values[1] = excerpt(y, at)
		}
		return d
	}
	return nil
}

// What is shown of a long text, in bytes.
const (
	before = 40 // what precedes the first difference
	shown  = 160
)

// excerpt returns a short part of a text, around the place where it differs.
func excerpt(text string, differs int) string {
	if text == "" {
		return `""`
	}
	if len(text) <= shown {
		return text
	}
	from := max(0, differs-before)
	to := min(len(text), from+shown)
	part := strings.ToValidUTF8(text[from:to], "") // it may begin inside a character
	if from > 0 {
		part = "…" + part
	}
	if to < len(text) {
		part += "…"
	}
	return part
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
