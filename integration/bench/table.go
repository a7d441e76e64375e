package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// printRow writes the table of one row. A line's ratio is larder's median
// divided by the line's, so below 1 larder needs less.
func printRow(out io.Writer, row string, results []result) {
	unit, scale := "s", 1.0
	if row == "hook" || row == "crowd" {
		unit, scale = "ms", 1e3
	}
	fmt.Fprintf(out, "%s; %d runs\n", titles[row], len(results[0].Wall))
	header := []string{"", "wall " + unit, "min", "max", "larder/it", "cpu " + unit, "min", "max", "larder/it", "peak MiB"}
	if row == "cold" {
		header = append(header, "NAR files MB", "larder/it")
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	// tabwriter aligns only cells that end in a tab, so the last one gets one too.
	line := func(cells []string) { fmt.Fprint(t, strings.Join(cells, "\t"), "\t\n") }
	line(header)

	width := 0
	for _, r := range results {
		width = max(width, len(r.Label))
	}
	mine := find(results, row, func(r result) bool { return r.Contender == "larder" })
	for _, r := range results {
		// Names are padded here because they read better from the left.
		cells := []string{fmt.Sprintf("%-*s", width, r.Label)}
		times := func(r result, values func(result) []float64) {
			v := values(r)
			for _, seconds := range []float64{median(v), slices.Min(v), slices.Max(v)} {
				cells = append(cells, strconv.FormatFloat(seconds*scale, 'f', 3, 64))
			}
			cells = append(cells, ratio(mine, r, func(r result) float64 { return median(values(r)) }))
		}
		times(r, func(r result) []float64 { return r.Wall })
		times(r, func(r result) []float64 { return r.CPU })
		cells = append(cells, strconv.FormatInt(r.RSS>>20, 10))
		if row == "cold" {
			cells = append(cells, fmt.Sprintf("%.1f", float64(r.Bytes)/1e6))
			cells = append(cells, ratio(mine, r, func(r result) float64 { return float64(r.Bytes) }))
		}
		line(cells)
	}
	t.Flush()
}

// ratio is mine divided by other's, or "-" if there is nothing to compare.
func ratio(mine *result, other result, value func(result) float64) string {
	if mine == nil || mine.Contender == other.Contender || value(other) == 0 {
		return "-"
	}
	return strconv.FormatFloat(value(*mine)/value(other), 'f', 3, 64)
}

// find returns the result of a row that is wanted, or nil.
func find(results []result, row string, wanted func(result) bool) *result {
	for i, r := range results {
		if r.Row == row && wanted(r) {
			return &results[i]
		}
	}
	return nil
}
