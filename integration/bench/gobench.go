package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// What no program can be timed for from outside is measured by Go benchmarks, in the
// packages themselves. These rows run them. A size that a goal names is in the
// benchmark's name: with -short, as --quick has it, or without LARDER_LONG=1, a
// benchmark takes smaller ones, and the goal is not judged by them.
var (
	queueRow = row{
		Name:    "queue",
		Title:   "Go benchmarks of the queue",
		Measure: goBenchmarks("./queue"),
		Goals: []goal{
			{What: "claim with 1,000,000 rows, 99th percentile", Limit: 2, Unit: "ms", Is: benchmarkValue("1000000_rows/claim", "p99-ms")},
			{What: "enqueue by the hook with 1,000,000 rows, 99th percentile", Limit: 5, Unit: "ms", Is: benchmarkValue("1000000_rows/hook_adds", "p99-ms")},
			{What: "enqueue by the watcher with 1,000,000 rows, 99th percentile", Limit: 5, Unit: "ms", Is: benchmarkValue("1000000_rows/watcher_adds", "p99-ms")},
		},
	}
	entriesRow = row{
		Name:    "entries",
		Title:   "Go benchmarks of a cache's format",
		Measure: goBenchmarks("./internal/bincache"),
		Goals: []goal{
			{What: "presence of 1,000 paths among 200,000 entries", Limit: 50, Unit: "ms", Is: benchmarkValue("Presence/of=200000/together", "ms/op")},
		},
	}
	partsRow = row{
		Name:    "parts",
		Title:   "Go benchmarks of dumper, compressors, store, watcher and upkeep",
		Measure: goBenchmarks("./internal/nar", "./cachewriter", "./internal/nixstore", "./watcher", "./internal/cachegc", "./internal/cachecheck"),
	}
)

// goBenchmarks returns a row's function that runs the benchmarks of these packages.
// It needs the project's source in the working directory.
func goBenchmarks(packages ...string) func(context.Context, *bench) ([]result, error) {
	return func(ctx context.Context, b *bench) ([]result, error) {
		args := []string{"test", "-run", "^$", "-bench", ".", "-benchmem", "-timeout", "30m", "-tags", b.Tags}
		size := "LARDER_LONG=1" // also those that take minutes
		if b.Quick {
			args = append(args, "-short", "-benchtime", "20ms")
			size = "LARDER_LONG="
		}
		cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
		// On the disk of everything else.
		cmd.Env = append(hostEnv(), size, "TMPDIR="+b.w.path("tmp"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, hintError{fmt.Errorf("run go benchmarks: %w: %s", err, lastLine(string(out))), "try it alone: go " + strings.Join(cmd.Args[1:], " ")}
		}
		return parseBenchmarks(string(out)), nil
	}
}

var coresInName = regexp.MustCompile(`-\d+$`)

// parseBenchmarks reads what go test -bench prints.
// https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md
func parseBenchmarks(text string) []result {
	var results []result
	for line := range strings.Lines(text) {
		// Name, iterations, and pairs of value and unit.
		f := strings.Fields(line)
		if len(f) < 4 || len(f)%2 != 0 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := coresInName.ReplaceAllString(strings.TrimPrefix(f[0], "Benchmark"), "")
		r := newResult(contender{Key: name, Label: name})
		for i := 2; i < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				continue // a line of somebody's log
			}
			unit := f[i+1]
			if of, ok := strings.CutSuffix(unit, "-µs"); ok {
				v, unit = v/1e3, of+"-ms"
			} else if unit == "ns/op" {
				v, unit = v/1e6, "ms/op"
			}
			r.note(unit, "", v)
		}
		results = append(results, r)
	}
	return results
}

// benchmarkValue is a goal's Is: a figure of the benchmark with so much in its name.
func benchmarkValue(name, figure string) func([]result) (float64, string) {
	return func(results []result) (float64, string) {
		for _, r := range results {
			if v, ok := figureOf(figure)(r); ok && strings.Contains(r.Contender, name) {
				return v, ""
			}
		}
		return 0, "no benchmark of that size was run"
	}
}
