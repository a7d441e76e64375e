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

// corpusRoots is where hooks keep paths of the corpus's store from its collector. It is
// not the host's.
const corpusRoots = "/nix/var/nix/gcroots/larder"

var crowdRow = row{
	Name:    "crowd",
	Title:   "many hooks at once, from the start of the first to the end of the last",
	Milli:   true,
	Measure: measureCrowd,
	Goals: []goal{
		{What: fmt.Sprintf("wall of %d hooks on %d cores, against one", crowd, runtime.NumCPU()), Limit: crowdLimit(), Is: ratioOf(medianWall, "larder", "one", "")},
	},
}

// measureCrowd measures many hooks at once, and one of them, in turns.
func measureCrowd(ctx context.Context, b *bench) ([]result, error) {
	if !b.hasLarder() {
		return nil, nil
	}
	defer os.RemoveAll(corpusRoots)
	queue, stop, err := queueWithWorker(ctx, b, "crowd", 0)
	if err != nil {
		return nil, err
	}
	defer stop()
	hook := filepath.Join(b.Bin, "larder-hook")
	many := newResult(contender{Key: "larder", Label: fmt.Sprintf("%d at once, the last", crowd)})
	one := newResult(contender{Key: "one", Label: "one alone"})
	for done := range max(5, b.Spawns/10) {
		samples, err := spawnBlock(ctx, b, hook, queue, done, 1)
		if err != nil {
			return nil, err
		}
		s, err := spawnCrowd(b, hook, queue, done)
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

func spawnCrowd(b *bench, file, queue string, first int) (sample, error) {
	s, err := newSpawner(b.w, file)
	if err != nil {
		return sample{}, err
	}
	defer s.close()
	var all sample
	var processes []*os.Process
	start := time.Now()
	for i := range crowd {
		p, err := s.start(buildEnv(queue, b.corpus, first*crowd+i)...)
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
func queueWithWorker(ctx context.Context, b *bench, name string, jobs int) (queue string, stop func(), err error) {
	if queue, err = makeQueue(ctx, b, name, b.w.path(name+"-cache")); err != nil {
		return "", nil, err
	}
	if err = fillQueue(b, queue, jobs); err != nil {
		return "", nil, err
	}
	stop, err = holdOpen(ctx, b, queue)
	return queue, stop, err
}

// fillQueue puts jobs into a queue as hooks do, as many at a time as an environment has
// room for.
func fillQueue(b *bench, queue string, jobs int) error {
	s, err := newSpawner(b.w, filepath.Join(b.Bin, "larder-hook"))
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
