package main

import (
	"fmt"
	"strings"
)

// A goal is a ratio that the project wants to hold. Missing one is not an error
// of the benchmark, so it is only told.
type goal struct {
	What     string  `json:"what"`
	Limit    float64 `json:"limit"`
	Ratio    float64 `json:"ratio,omitempty"` // 0 if it was not measured
	Measured bool    `json:"measured"`
	Holds    bool    `json:"holds"`
}

// judge compares medians of wall time with what the project promises.
func judge(results []result) []goal {
	is := func(key string) func(result) bool {
		return func(r result) bool { return r.Contender == key }
	}
	// The goal names a version of Nix: another one is not judged by it. That
	// version copies one path at a time, hence the one worker.
	nix28 := func(r result) bool { return strings.HasPrefix(r.Version, "2.8.") }
	nix234 := func(r result) bool { return strings.HasPrefix(r.Version, "2.34.") }
	return []goal{
		compare("cold copy by one worker, against nix 2.8", 1, find(results, "cold", is("larder-1")), find(results, "cold", nix28)),
		compare("hook beside a worker, against /bin/true", 5, find(results, "hook", is("larder")), find(results, "hook", is("true"))),
		compare("20,000 small paths, against nix 2.34", 0.5, find(results, "small", is("larder")), find(results, "small", nix234)),
	}
}

func compare(what string, limit float64, mine, other *result) goal {
	g := goal{What: what, Limit: limit}
	if mine != nil && other != nil {
		g.Measured = true
		g.Ratio = median(mine.Wall) / median(other.Wall)
		g.Holds = g.Ratio <= limit
	}
	return g
}

func (g goal) String() string {
	verdict, is := "not measured", ""
	if g.Measured {
		verdict, is = "MISSED", fmt.Sprintf(", is %.2f", g.Ratio)
	}
	if g.Holds {
		verdict = "holds"
	}
	return fmt.Sprintf("goal: %s: wall time at most %.2f times%s: %s", g.What, g.Limit, is, verdict)
}
