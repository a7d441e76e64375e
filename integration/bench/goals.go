package main

import (
	"fmt"
	"strings"
)

// A goal is a limit that the project wants to stay below. Missing one is not an
// error of the benchmark, so it is only told.
type goal struct {
	What  string  // what is compared with what
	Limit float64 // the most that it may be
	Unit  string  // "" for a ratio

	// Is returns what it is, from the results of the goal's row, or says why
	// that is not known.
	Is func(results []result) (is float64, unknown string)
}

// A verdict is what became of a goal.
type verdict struct {
	Row      string  `json:"row"`
	What     string  `json:"what"`
	Limit    float64 `json:"limit"`
	Unit     string  `json:"unit,omitempty"`
	Is       float64 `json:"is"` // 0 if it was not measured
	Measured bool    `json:"measured"`
	Holds    bool    `json:"holds"`
	Unknown  string  `json:"unknown,omitempty"` // why it was not measured
}

func (g goal) judge(row string, results []result) verdict {
	v := verdict{Row: row, What: g.What, Limit: g.Limit, Unit: g.Unit}
	v.Is, v.Unknown = g.Is(results)
	v.Measured = v.Unknown == ""
	v.Holds = v.Measured && v.Is <= v.Limit
	return v
}

// String says "holds", "MISSED", or why it is not known.
func (v verdict) String() string {
	switch {
	case v.Holds:
		return "holds"
	case v.Measured:
		return "MISSED"
	}
	return "not measured: " + v.Unknown
}

// A value is one number of a result, and whether the result has it.
type value func(r result) (float64, bool)

// medianWall and medianCPU are the values that most goals are about, in seconds.
var (
	medianWall value = func(r result) (float64, bool) { return medianOf(r.Wall) }
	medianCPU  value = func(r result) (float64, bool) { return medianOf(r.CPU) }
	// peakRSS is in MiB, and that of the largest run.
	peakRSS value = func(r result) (float64, bool) { return float64(r.RSS) / (1 << 20), r.RSS > 0 }
)

func medianOf(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	return median(values), true
}

// figureOf is the value that results noted by that name.
func figureOf(name string) value {
	return func(r result) (float64, bool) {
		for _, f := range r.Figures {
			if f.Name == name {
				return medianOf(f.Values)
			}
		}
		return 0, false
	}
}

// ratioOf is a goal's Is: the value of one contender, divided by that of another.
// If version is not "", the other one's has to begin with it: a goal that names
// a version of Nix says nothing about others.
func ratioOf(v value, mine, other, version string) func([]result) (float64, string) {
	return func(results []result) (float64, string) {
		r := find(results, other)
		if r != nil && !strings.HasPrefix(r.Version, version) {
			return 0, fmt.Sprintf("this machine has %s", r.Version)
		}
		a, unknown := valueOf(v, mine)(results)
		if unknown != "" {
			return 0, unknown
		}
		b, unknown := valueOf(v, other)(results)
		if unknown != "" {
			return 0, unknown
		}
		if b == 0 {
			return 0, other + " has nothing to compare with"
		}
		return a / b, ""
	}
}

// valueOf is a goal's Is: the value of one contender.
func valueOf(v value, who string) func([]result) (float64, string) {
	return func(results []result) (float64, string) {
		r := find(results, who)
		if r == nil {
			return 0, who + " was not run"
		}
		is, ok := v(*r)
		if !ok {
			return 0, who + " has no such figure"
		}
		return is, ""
	}
}

// find returns the result of the contender, or nil.
func find(results []result, contender string) *result {
	for i := range results {
		if results[i].Contender == contender {
			return &results[i]
		}
	}
	return nil
}
