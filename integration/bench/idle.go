package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

var idleRow = row{
	Name:    "idle",
	Title:   "larder daemon with an empty queue, for a minute (--quick: 5 s)",
	Measure: measureIdle,
	Goals: []goal{
		{What: "cpu, where less than a thousandth of a core counts as none", Limit: 0.1, Unit: "%", Is: valueOf(figureOf("cpu"), "larder")},
		{What: "memory", Limit: 30, Unit: "MiB", Is: valueOf(figureOf("memory"), "larder")},
	},
}

// measureIdle looks at a daemon that has nothing to do.
func measureIdle(ctx context.Context, b *bench) ([]result, error) {
	if !b.hasLarder() {
		return nil, nil
	}
	duration, settle := time.Minute, 5*time.Second
	if b.Quick {
		duration, settle = 5*time.Second, 2*time.Second
	}
	queue, err := makeQueue(ctx, b, "idle", b.w.path("idle-cache"))
	if err != nil {
		return nil, err
	}
	daemon, stop, err := startDaemon(ctx, b, queue)
	if err != nil {
		return nil, err
	}
	defer stop()
	defer os.RemoveAll("/nix/var/nix/gcroots/larder") // as for the row hook
	status("looking at an idle daemon for %.0f s", duration.Seconds())
	// What it does when it starts is not what it does all day.
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	before, err := readUsage(daemon.Pid)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := pause(ctx, duration); err != nil {
		return nil, err
	}
	after, err := readUsage(daemon.Pid)
	if err != nil {
		return nil, err
	}
	elapsed := time.Since(start)
	r := newResult(contender{Key: "larder", Label: "larder daemon"})
	r.note("cpu", "%", 100*float64(after.cpu-before.cpu)/float64(elapsed))
	r.note("wakeups", "per minute", float64(after.switches-before.switches)/elapsed.Minutes())
	r.note("memory", "MiB", float64(after.rss)/(1<<20))
	r.note("peak", "MiB", float64(after.peak)/(1<<20))
	return []result{r}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// A usage is what Linux knows of a process.
type usage struct {
	cpu       time.Duration // of all threads
	switches  int64         // how often threads began to wait
	rss, peak int64         // bytes
}

// readUsage reads it from /proc. Times of stat are in hundredths of a second,
// those of schedstat in nanoseconds.
func readUsage(pid int) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	tasks, err := filepath.Glob(dir + "/task/*")
	if err != nil || len(tasks) == 0 {
		return u, fmt.Errorf("read usage of process %d: it has no threads", pid)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task + "/schedstat")
		if err != nil {
			return u, fmt.Errorf("read usage: %w", err)
		}
		var ns int64
		if _, err := fmt.Sscan(string(data), &ns); err != nil {
			return u, fmt.Errorf("read usage: %w", err)
		}
		u.cpu += time.Duration(ns)
		fields, err := readStatus(task)
		if err != nil {
			return u, err
		}
		u.switches += fields["voluntary_ctxt_switches"]
	}
	fields, err := readStatus(dir)
	u.rss, u.peak = fields["VmRSS"]<<10, fields["VmHWM"]<<10
	return u, err
}

// readStatus returns the numbers of a file status in /proc.
func readStatus(dir string) (map[string]int64, error) {
	data, err := os.ReadFile(dir + "/status")
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	fields := make(map[string]int64)
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err == nil {
			fields[name] = n
		}
	}
	return fields, nil
}
