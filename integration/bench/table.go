package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A grid is cells to print; the first line is the header, the first column
// names things.
type grid [][]string

// newGrid makes the table of one row. A line's ratio is larder's median divided
// by the line's, so below 1 larder needs less. Columns that nobody has anything
// in are left out.
func newGrid(r row, results []result) grid {
	unit, scale := "s", 1.0
	if r.Milli {
		unit, scale = "ms", 1e3
	}
	t := grid{{""}}
	for _, res := range results {
		t = append(t, []string{res.Label})
	}
	mine := find(results, "larder")
	column := func(header string, cell func(res result) string) {
		t[0] = append(t[0], header)
		for i, res := range results {
			t[i+1] = append(t[i+1], cell(res))
		}
	}
	ratio := func(v value) {
		column("larder/it", func(res result) string { return ratioCell(mine, res, v) })
	}
	times := func(name string, values func(result) []float64, middle value) {
		for _, c := range []struct {
			header string
			of     func([]float64) float64
		}{{name + " " + unit, median}, {"min", slices.Min[[]float64]}, {"max", slices.Max[[]float64]}} {
			column(c.header, func(res result) string {
				if len(values(res)) == 0 {
					return "-"
				}
				return strconv.FormatFloat(c.of(values(res))*scale, 'f', 3, 64)
			})
		}
		ratio(middle)
	}
	times("wall", func(res result) []float64 { return res.Wall }, medianWall)
	times("cpu", func(res result) []float64 { return res.CPU }, medianCPU)
	column("peak MiB", func(res result) string {
		if res.RSS == 0 {
			return "-"
		}
		return strconv.FormatInt(res.RSS>>20, 10)
	})
	for _, f := range figures(results) {
		v := figureOf(f.Name)
		column(strings.TrimSpace(f.Name+" "+f.Unit), func(res result) string {
			is, ok := v(res)
			if !ok {
				return "-"
			}
			return number(is)
		})
		ratio(v)
	}
	return t.dense()
}

// figures returns the names and units of all figures, in their order.
func figures(results []result) []figure {
	var all []figure
	for _, res := range results {
		for _, f := range res.Figures {
			if !slices.ContainsFunc(all, func(g figure) bool { return g.Name == f.Name }) {
				all = append(all, figure{Name: f.Name, Unit: f.Unit})
			}
		}
	}
	return all
}

// ratioCell is mine divided by other's, or "-" if there is nothing to compare.
func ratioCell(mine *result, other result, v value) string {
	if mine == nil || mine.Contender == other.Contender {
		return "-"
	}
	is, unknown := ratioOf(v, mine.Contender, other.Contender, "")([]result{*mine, other})
	if unknown != "" {
		return "-"
	}
	return strconv.FormatFloat(is, 'f', 3, 64)
}

// number tells a value with at least three digits.
func number(v float64) string {
	digits := 3
	if v >= 1000 {
		digits = 0
	} else if v >= 100 {
		digits = 1
	} else if v >= 10 {
		digits = 2
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// dense drops columns that have nothing but "-".
func (t grid) dense() grid {
	for column := len(t[0]) - 1; column > 0; column-- {
		if !slices.ContainsFunc(t[1:], func(line []string) bool { return line[column] != "-" }) {
			for i := range t {
				t[i] = slices.Delete(t[i], column, column+1)
			}
		}
	}
	return t
}

// print writes the table for a terminal.
func (t grid) print(out io.Writer) {
	width := 0
	for _, line := range t {
		width = max(width, len(line[0]))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, line := range t {
		// Names are padded here because they read better from the left. And
		// tabwriter aligns only cells that end in a tab, so the last one gets one too.
		fmt.Fprintf(w, "%-*s\t%s\t\n", width, line[0], strings.Join(line[1:], "\t"))
	}
	w.Flush()
}

// printMarkdown writes the table for a document.
func (t grid) printMarkdown(out io.Writer) {
	for i, line := range t {
		fmt.Fprintf(out, "| %s |\n", strings.Join(line, " | "))
		if i == 0 {
			fmt.Fprintf(out, "|---|%s\n", strings.Repeat("---:|", len(line)-1))
		}
	}
}
