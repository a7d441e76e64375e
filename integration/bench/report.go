package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// A result is what one contender took for one row. Times are in seconds.
type result struct {
	Row       string    `json:"row"`
	Contender string    `json:"contender"`
	Version   string    `json:"version,omitempty"`
	Label     string    `json:"label"`
	Wall      []float64 `json:"wall_seconds"`
	CPU       []float64 `json:"cpu_seconds"`
	RSS       int64     `json:"peak_rss_bytes"`           // the largest of all runs
	Bytes     int64     `json:"nar_file_bytes,omitempty"` // of the cache made; row cold only
}

func newResult(row string, c contender) result {
	return result{Row: row, Contender: c.Key, Version: c.Version, Label: c.Label}
}

func (r *result) add(s sample) {
	r.Wall = append(r.Wall, s.Wall.Seconds())
	r.CPU = append(r.CPU, s.CPU.Seconds())
	r.RSS = max(r.RSS, s.RSS)
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
	Runs    int      `json:"runs"`
	Skipped []string `json:"skipped,omitempty"`
	Results []result `json:"results"`
	Goals   []goal   `json:"goals"`
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

var titles = map[string]string{
	"cold":  "cold: the whole closure to an empty cache, zstd",
	"full":  "full: the same again, when all of it is there",
	"small": "small: 20,000 paths of one small file each to an empty cache, zstd",
	"hook":  "hook: a whole process, from its start to its end",
}

// print writes the tables for people.
func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "machine: %d cores, %s, Linux %s, load before %s\n", r.Machine.Cores, r.Machine.CPU, r.Machine.Kernel, r.Machine.Load)
	fmt.Fprintf(out, "corpus:  %d paths, %.1f MB of NARs\n", r.Corpus.Paths, float64(r.Corpus.NarBytes)/1e6)
	for _, s := range r.Skipped {
		fmt.Fprintf(out, "skipped: %s\n", s)
	}
	for _, row := range allRows {
		var of []result
		for _, res := range r.Results {
			if res.Row == row {
				of = append(of, res)
			}
		}
		if len(of) > 0 {
			fmt.Fprintln(out)
			printRow(out, row, of)
		}
	}
	fmt.Fprintln(out)
	for _, g := range r.Goals {
		fmt.Fprintln(out, g)
	}
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
