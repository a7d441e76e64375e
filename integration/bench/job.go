package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// jobGoals are those of a row of jobs: the time that larder adds to a job, against
// what the best of the others adds.
func jobGoals(added float64, more ...goal) []goal {
	return append([]goal{{What: "time added by hook and daemon, against the best of the others", Limit: added, Is: addedRatio("larder")}}, more...)
}

var jobIdleRow = row{
	Name:  "job-idle",
	Title: "a whole job that leaves a core idle: one build at a time, until the cache is complete",
	Measure: func(ctx context.Context, b *bench) ([]result, error) {
		return measureJobs(ctx, b, 1)
	},
	Goals: jobGoals(0.333),
}

// Twice as many builds as cores: what one of them leaves idle, as between its end
// and the next one's beginning, another one takes.
var jobBusyRow = row{
	Name:  "job-busy",
	Title: "a whole job that keeps every core busy, until the cache is complete",
	Measure: func(ctx context.Context, b *bench) ([]result, error) {
		return measureJobs(ctx, b, 2*runtime.NumCPU())
	},
	Goals: jobGoals(0.9, goal{What: "the builds themselves, against the same without a cache", Limit: 1.03, Is: valueOf(figureOf(buildsRatio), "larder")}),
}

// The figures of a job.
const (
	builds      = "builds"       // time until the last build has ended
	buildsRatio = "builds/plain" // against the round's job without a cache
	added       = "added"        // time until the cache is complete, less the whole of the round's job without a cache
)

// measureJobs measures the same job with every way to fill a cache, in turns, each
// on a new store. What a way adds is the difference to the job without a cache of
// the same round: a machine's speed changes with the minutes.
func measureJobs(ctx context.Context, b *bench, maxJobs int) ([]result, error) {
	if !b.hasLarder() || len(b.pick("nix-sid")) == 0 {
		status("skipped: a job needs larder and Debian sid's Nix")
		return nil, nil
	}
	s, err := openJobShop(ctx, b)
	if err != nil {
		return nil, err
	}
	status("a job of %d builds, %.0f MB", len(s.outputs), float64(s.bytes)/1e6)
	ways := s.ways()
	results := make([]result, len(ways))
	for i, w := range ways {
		results[i] = newResult(contender{Key: w.Key, Label: w.Label, Version: s.version})
	}
	if _, _, err := s.run(ctx, noCache, maxJobs); err != nil { // what it reads is in memory from now on
		return nil, err
	}
	runs := b.pickRuns()
	for n := range runs {
		var plain sample
		for i, way := range ways {
			whole, built, err := s.run(ctx, way, maxJobs)
			if err != nil {
				return nil, fmt.Errorf("job with %s: %w", way.Label, err)
			}
			if i == 0 {
				plain = whole
			}
			r := &results[i]
			r.add(whole)
			r.note(builds, "s", built.Seconds())
			r.note(buildsRatio, "", built.Seconds()/plain.Wall.Seconds())
			if i > 0 {
				r.note(added, "s", (whole.Wall - plain.Wall).Seconds())
				r.note("cpu added", "s", (whole.CPU - plain.CPU).Seconds())
			}
			status("%d/%d: %s: builds %.2f s, all %.2f s, added %.2f s, cpu %.2f s", n+1, runs, way.Label,
				built.Seconds(), whole.Wall.Seconds(), (whole.Wall - plain.Wall).Seconds(), whole.CPU.Seconds())
		}
	}
	return results, nil
}

// run runs a job in a store of its own. It returns what all of it took together
// until the cache is complete, and when the last build had ended.
func (s *jobShop) run(ctx context.Context, way jobWay, maxJobs int) (whole sample, built time.Duration, err error) {
	if err := s.renew(ctx); err != nil {
		return whole, 0, err
	}
	defer s.unmountStore()
	j := &job{jobShop: s}
	defer func() {
		_, endErr := j.end()
		if err == nil {
			err = endErr
		}
	}()
	if way.Begin != nil {
		if err := way.Begin(ctx, j); err != nil {
			return whole, 0, err
		}
	}
	use := func(more sample) {
		whole.CPU += more.CPU
		whole.RSS = max(whole.RSS, more.RSS)
	}
	args := slices.Clone(way.Around)
	// When builds end is seen from a file: what is around them may go on.
	args = append(args, "/bin/bash", "-c", `"$@"; code=$?; : >/tmp/home/built; exit $code`, "bash",
		"/usr/bin/nix-store", "--realise", s.drv, "--max-jobs", strconv.Itoa(maxJobs), "--cores", "1")
	build := s.command(ctx, args[0], args[1:]...)
	if j.hook != "" {
		i := slices.IndexFunc(build.Env, func(entry string) bool { return strings.HasPrefix(entry, "NIX_CONFIG=") })
		build.Env[i] += "post-build-hook = " + j.hook + "\n"
	}
	start := time.Now()
	took, err := measure(build, s.b.w)
	if err != nil {
		return whole, 0, err
	}
	use(took)
	if way.Finish != nil {
		if took, err = measure(s.command(ctx, way.Finish[0], way.Finish[1:]...), s.b.w); err != nil {
			return whole, 0, err
		}
		use(took)
	}
	whole.Wall = time.Since(start)
	if took, err = j.end(); err != nil {
		return whole, 0, err
	}
	use(took)
	mark, err := os.Stat(s.b.w.path("home/built"))
	if err != nil {
		return whole, 0, fmt.Errorf("look when builds ended: %w", err)
	}
	if way.Key != noCache.Key {
		err = s.check()
	}
	syscall.Sync()
	return whole, mark.ModTime().Sub(start), err
}

// addedRatio is a goal's Is: the time that a way adds, against the least that one
// without larder adds.
func addedRatio(key string) func([]result) (float64, string) {
	return func(results []result) (float64, string) {
		mine, unknown := valueOf(figureOf(added), key)(results)
		if unknown != "" {
			return 0, unknown
		}
		best, known := 0.0, false
		for _, other := range []string{"hook", "queued", "copy"} {
			if is, unknown := valueOf(figureOf(added), other)(results); unknown == "" && (!known || is < best) {
				best, known = is, true
			}
		}
		if !known || best <= 0 {
			return 0, "the others have nothing to compare with"
		}
		return mine / best, ""
	}
}
