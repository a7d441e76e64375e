package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	// queued is how many jobs are a long queue.
	queued = 100_000
	// crowd is how many hooks are many at once.
	crowd = 64
)

// crowdLimit is how many times as long as one hook a crowd may take, until the last is
// done: half as long again as the cores need for them.
func crowdLimit() float64 { return 1.5 * crowd / float64(runtime.NumCPU()) }

// measureCrowd measures the row crowd: the time from the start of the first of many hooks
// to the end of the last, and one of them, in turns.
func measureCrowd(ctx context.Context, cfg config, w *workshop, c *corpus, queue string) ([]result, error) {
	hook := filepath.Join(cfg.Bin, "larder-hook")
	many := newResult("crowd", contender{Key: "larder", Label: fmt.Sprintf("%d at once, the last", crowd)})
	one := newResult("crowd", contender{Key: "one", Label: "one alone"})
	for done := range max(5, cfg.Spawns/10) {
		samples, err := spawnBlock(ctx, w, c, hook, queue, done, 1)
		if err != nil {
			return nil, err
		}
		s, err := spawnCrowd(w, c, hook, queue, done)
		if err != nil {
			return nil, err
		}
		if done > 0 { // the first is the warm-up
			one.add(samples[0])
			many.add(s)
		}
	}
	return []result{many, one}, nil
}

func spawnCrowd(w *workshop, c *corpus, file, queue string, first int) (sample, error) {
	s, err := newSpawner(w, file)
	if err != nil {
		return sample{}, err
	}
	defer s.close()
	var all sample
	var processes []*os.Process
	start := time.Now()
	for i := range crowd {
		p, err := s.start(buildEnv(queue, c, first*crowd+i)...)
		if err != nil {
			return sample{}, err
		}
		processes = append(processes, p)
	}
	for _, p := range processes {
		one, err := s.wait(p)
		if err != nil {
			return sample{}, err
		}
		all.CPU += one.CPU
		all.RSS = max(all.RSS, one.RSS)
	}
	all.Wall = time.Since(start)
	return all, s.check()
}

// queueWithWorker makes a queue of so many jobs, with a worker that does nothing, but has
// it open. (Until it is stopped it may look at some of them.)
func queueWithWorker(ctx context.Context, cfg config, w *workshop, name string, jobs int) (queue string, stop func(), err error) {
	if queue, err = makeQueue(ctx, cfg, w, name); err != nil {
		return "", nil, err
	}
	if err = fillQueue(cfg, w, queue, jobs); err != nil {
		return "", nil, err
	}
	stop, err = holdOpen(ctx, cfg, w, queue)
	return queue, stop, err
}

// fillQueue puts jobs into a queue as hooks do, as many at a time as an environment has
// room for.
func fillQueue(cfg config, w *workshop, queue string, jobs int) error {
	s, err := newSpawner(w, filepath.Join(cfg.Bin, "larder-hook"))
	if err != nil {
		return err
	}
	defer s.close()
	const block = 1000
	for done := 0; done < jobs; done += block {
		var paths []string
		for i := range min(block, jobs-done) {
			paths = append(paths, fmt.Sprintf("/nix/store/%032d-queued", done+i))
		}
		p, err := s.start("LARDER_QUEUE="+queue, "OUT_PATHS="+strings.Join(paths, " "), "LARDER_HOOK_DEADLINE=1m")
		if err != nil {
			return fmt.Errorf("fill queue: %w", err)
		}
		if _, err := s.wait(p); err != nil {
			return fmt.Errorf("fill queue: %w", err)
		}
	}
	return s.check()
}
