package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// A result is what one contender took for one row. Times are in seconds; a row
// that is not about time leaves them empty.
type result struct {
	Row       string    `json:"row"`
	Contender string    `json:"contender"`
	Version   string    `json:"version,omitempty"`
	Label     string    `json:"label"`
	Wall      []float64 `json:"wall_seconds,omitempty"`
	CPU       []float64 `json:"cpu_seconds,omitempty"`
	RSS       int64     `json:"peak_rss_bytes,omitempty"` // the largest of all runs
	Figures   []figure  `json:"figures,omitempty"`
}

// A figure is anything else that a row measures. Each gets a column of the table.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit,omitempty"`
	Values []float64 `json:"values"` // of each run
}

func newResult(c contender) result {
	return result{Contender: c.Key, Version: c.Version, Label: c.Label}
}

// add adds a timed run.
func (r *result) add(s sample) {
	r.Wall = append(r.Wall, s.Wall.Seconds())
	r.CPU = append(r.CPU, s.CPU.Seconds())
	r.RSS = max(r.RSS, s.RSS)
}

// note adds a run's value to the figure of that name.
func (r *result) note(name, unit string, v float64) {
	for i := range r.Figures {
		if r.Figures[i].Name == name {
			r.Figures[i].Values = append(r.Figures[i].Values, v)
			return
		}
	}
	r.Figures = append(r.Figures, figure{name, unit, []float64{v}})
}

type report struct {
	Machine struct {
		CPU    string `json:"cpu"`
		Cores  int    `json:"cores"`
		Kernel string `json:"kernel"`
		Load   string `json:"load"` // of the last 1, 5 and 15 minutes, before the first run
	} `json:"machine"`
	Corpus struct {
		Paths    int   `json:"paths"`
		NarBytes int64 `json:"nar_bytes"`
	} `json:"corpus"`
	Runs    int       `json:"runs"`
	Skipped []string  `json:"skipped,omitempty"`
	Results []result  `json:"results"`
	Goals   []verdict `json:"goals"`
}

func newReport(cfg config, c *corpus, skipped []string) *report {
	r := &report{Runs: cfg.Runs, Skipped: skipped}
	r.Machine.CPU = cpuModel()
	r.Machine.Cores = runtime.NumCPU()
	// Nice to know, but not worth an error (ignored).
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	r.Machine.Kernel = strings.TrimSpace(string(kernel))
	if f := strings.Fields(string(load)); len(f) > 3 {
		r.Machine.Load = strings.Join(f[:3], " ")
	}
	r.Corpus.Paths = len(c.Entries)
	r.Corpus.NarBytes = c.narBytes()
	return r
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if key, value, ok := strings.Cut(in.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// print writes the tables for people: for a terminal, or for a document.
func (r *report) print(out io.Writer, markdown bool) {
	heading, line, show := "\n%s\n", "%s\n", grid.print
	if markdown {
		heading, line, show = "\n### %s\n\n", "%s  \n", grid.printMarkdown
	}
	fmt.Fprintf(out, line, fmt.Sprintf("machine: %d cores, %s, Linux %s, load before %s", r.Machine.Cores, r.Machine.CPU, r.Machine.Kernel, r.Machine.Load))
	fmt.Fprintf(out, line, fmt.Sprintf("corpus: %d paths, %.1f MB of NARs", r.Corpus.Paths, float64(r.Corpus.NarBytes)/1e6))
	for _, s := range r.Skipped {
		fmt.Fprintf(out, line, "skipped: "+s)
	}
	for _, row := range rows {
		var of []result
		for _, res := range r.Results {
			if res.Row == row.Name {
				of = append(of, res)
			}
		}
		if len(of) > 0 {
			title := row.Name + ": " + row.Title
			if n := len(of[0].Wall); n > 1 {
				title += fmt.Sprintf("; %d runs", n)
			}
			fmt.Fprintf(out, heading, title)
			show(newGrid(row, of), out)
		}
	}
	fmt.Fprintf(out, heading, "goals")
	show(goalGrid(r.Goals), out)
}

// goalGrid has a line for each goal.
func goalGrid(goals []verdict) grid {
	t := grid{{"goal", "at most", "is", "verdict"}}
	width := 0
	for _, g := range goals {
		is := "-"
		if g.Measured {
			is = strings.TrimSpace(number(g.Is) + " " + g.Unit)
		}
		limit := strings.TrimSpace(strconv.FormatFloat(g.Limit, 'g', -1, 64) + " " + g.Unit)
		t = append(t, []string{g.Row + ": " + g.What, limit, is, g.String()})
		width = max(width, len(g.String()))
	}
	for _, line := range t {
		line[3] = fmt.Sprintf("%-*s", width, line[3]) // text reads better from the left
	}
	return t
}

// writeJSON writes everything that was measured, every single run.
func (r *report) writeJSON(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
