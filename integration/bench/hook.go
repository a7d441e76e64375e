package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var hookRow = row{
	Name:    "hook",
	Title:   "a whole process, from its start to its end",
	Milli:   true,
	Measure: measureHook,
	Goals: []goal{
		{What: "wall beside a worker, against /bin/true", Limit: 3.5, Is: ratioOf(medianWall, "larder", "true", "")},
		{What: fmt.Sprintf("wall with %d jobs queued, against none", queued), Limit: 1.05, Is: ratioOf(medianWall, "larder-long", "larder", "")},
	},
}

// measureHook measures whole processes: larder-hook, as Nix runs it after a build,
// beside a worker, without one, and with many jobs before it, and the least that a hook
// could be. They take turns in blocks, each block ten times in all.
func measureHook(ctx context.Context, b *bench) ([]result, error) {
	if !b.hasLarder() {
		return nil, nil
	}
	// The store outlives these queues: what keeps its paths alive must not.
	defer os.RemoveAll(corpusRoots)

	alive, stop, err := queueWithWorker(ctx, b, "alive", 0)
	if err != nil {
		return nil, err
	}
	defer stop()
	long, stop, err := queueWithWorker(ctx, b, "long", queued)
	if err != nil {
		return nil, err
	}
	defer stop()
	alone, err := makeQueue(ctx, b, "alone", b.w.path("alone-cache"))
	if err != nil {
		return nil, err
	}
	hook := filepath.Join(b.Bin, "larder-hook")
	link, err := linkLarder(b)
	if err != nil {
		return nil, err
	}
	programs := []struct {
		file, queue string
		result      result
	}{
		{hook, alive, newResult(contender{Key: "larder", Label: "larder-hook"})},
		{hook, long, newResult(contender{Key: "larder-long", Label: fmt.Sprintf("larder-hook, %d jobs queued", queued)})},
		{hook, alone, newResult(contender{Key: "larder-alone", Label: "larder-hook, no worker"})},
		{link, alive, newResult(contender{Key: "larder-by-name", Label: "larder by that name"})},
		{"/bin/true", alone, newResult(contender{Key: "true", Label: "/bin/true"})},
	}
	block := max(1, b.Spawns/10)
	// The first block of each is the warm-up. Each block has builds of its own,
	// or the hook would find its row there.
	for done := -block; done < b.Spawns; done += block {
		for i := range programs {
			p := &programs[i]
			samples, err := spawnBlock(ctx, b, p.file, p.queue, done+block, block)
			if err != nil {
				return nil, err
			}
			if done >= 0 {
				for _, s := range samples {
					p.result.add(s)
				}
			}
		}
	}
	results := make([]result, len(programs))
	for i, p := range programs {
		results[i] = p.result
	}
	return results, nil
}

// linkLarder makes a link to larder by which it is the hook.
func linkLarder(b *bench) (string, error) {
	larder, err := filepath.Abs(filepath.Join(b.Bin, "larder"))
	if err != nil {
		return "", err
	}
	link := b.w.path("larder-hook")
	return link, os.Symlink(larder, link)
}

// makeQueue makes an empty queue, which feeds the cache in that directory.
func makeQueue(ctx context.Context, b *bench, name, cache string) (file string, err error) {
	file = b.w.path(name + "/queue.db")
	init := exec.CommandContext(ctx, filepath.Join(b.Bin, "larder"),
		"init", "--queue", file, "--cache", "file://"+cache)
	init.Env = env(b.w.dir)
	if _, err := measure(init, b.w); err != nil {
		return "", fmt.Errorf("make queue: %w", err)
	}
	return file, nil
}

// holdOpen starts a worker and stops it in its tracks, so that it has the queue
// open, as workers have, and does nothing else beside the hooks that are measured.
func holdOpen(ctx context.Context, b *bench, queue string) (end func(), err error) {
	daemon, end, err := startDaemon(ctx, b, queue)
	if err != nil {
		return nil, err
	}
	if err := stopIdle(ctx, daemon, queue); err != nil {
		end()
		return nil, fmt.Errorf("stop worker: %w", err)
	}
	return end, nil
}

// startDaemon starts a worker and waits until it is ready.
func startDaemon(ctx context.Context, b *bench, queue string) (p *os.Process, end func(), err error) {
	daemon := exec.CommandContext(ctx, filepath.Join(b.Bin, "larder"), "daemon", "--queue", queue)
	daemon.Env = env(b.w.dir)
	log, err := daemon.StderrPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start worker: %w", err)
	}
	if err := daemon.Start(); err != nil {
		return nil, nil, fmt.Errorf("start worker: %w", err)
	}
	end = func() {
		_ = daemon.Process.Kill() // (ignored) it has ended already
		_ = daemon.Wait()         // (ignored) it was killed
	}
	// Its first line says that it is ready.
	if line, err := bufio.NewReader(log).ReadString('\n'); err != nil {
		end()
		return nil, nil, fmt.Errorf("start worker: %w; it says %q", err, line)
	}
	return daemon.Process, end, nil
}

// stopIdle stops a worker at a moment when it does not write to its queue: hooks
// would wait for that, and give up.
func stopIdle(ctx context.Context, p *os.Process, queue string) error {
	shm, err := os.OpenFile(queue+"-shm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer shm.Close()
	for ctx.Err() == nil {
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		if _, err := unix.Wait4(p.Pid, nil, unix.WUNTRACED, nil); err != nil {
			return err
		}
		// SQLite's locks of who writes, and of who empties the log (wal.c,
		// WAL_WRITE_LOCK and WAL_CKPT_LOCK).
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 120, Len: 2}
		if err := unix.FcntlFlock(shm.Fd(), unix.F_GETLK, &lock); err != nil {
			return err
		}
		if lock.Type == unix.F_UNLCK {
			return nil
		}
		if err := p.Signal(syscall.SIGCONT); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}

// spawnBlock runs a program n times, once for each build of the corpus from the
// one numbered first.
func spawnBlock(ctx context.Context, b *bench, file, queue string, first, n int) ([]sample, error) {
	s, err := newSpawner(b.w, file)
	if err != nil {
		return nil, err
	}
	defer s.close()
	samples := make([]sample, n)
	for i := range samples {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		start := time.Now()
		p, err := s.start(buildEnv(queue, b.corpus, first+i)...)
		if err != nil {
			return nil, err
		}
		if samples[i], err = s.wait(p); err != nil {
			return nil, err
		}
		samples[i].Wall = time.Since(start)
	}
	return samples, s.check()
}
