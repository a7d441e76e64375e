package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// measureHook measures whole processes: larder-hook, as Nix runs it after a build,
// beside a worker, without one, and with many jobs before it, and the least that a hook
// could be. They take turns in blocks, each block ten times in all. The row crowd is
// many hooks at once.
func measureHook(ctx context.Context, cfg config, w *workshop, c *corpus) ([]result, error) {
	// The store outlives this queue: what keeps its paths alive must not.
	defer os.RemoveAll("/nix/var/nix/gcroots/larder") // the corpus's store, not the host's

	alive, stop, err := queueWithWorker(ctx, cfg, w, "alive", 0)
	if err != nil {
		return nil, err
	}
	defer stop()
	var results []result
	if slices.Contains(cfg.Rows, "hook") {
		if results, err = measureSpawns(ctx, cfg, w, c, alive); err != nil {
			return nil, err
		}
	}
	if slices.Contains(cfg.Rows, "crowd") {
		crowd, err := measureCrowd(ctx, cfg, w, c, alive)
		if err != nil {
			return nil, err
		}
		results = append(results, crowd...)
	}
	return results, nil
}

// measureSpawns measures the row hook. alive is a queue with a worker.
func measureSpawns(ctx context.Context, cfg config, w *workshop, c *corpus, alive string) ([]result, error) {
	alone, err := makeQueue(ctx, cfg, w, "alone")
	if err != nil {
		return nil, err
	}
	long, stop, err := queueWithWorker(ctx, cfg, w, "long", queued)
	if err != nil {
		return nil, err
	}
	defer stop()
	hook := filepath.Join(cfg.Bin, "larder-hook")
	link, err := linkLarder(cfg, w)
	if err != nil {
		return nil, err
	}
	programs := []struct {
		file, queue string
		result      result
	}{
		{hook, alive, newResult("hook", contender{Key: "larder", Label: "larder-hook"})},
		{hook, long, newResult("hook", contender{Key: "larder-long", Label: fmt.Sprintf("larder-hook, %d jobs queued", queued)})},
		{hook, alone, newResult("hook", contender{Key: "larder-alone", Label: "larder-hook, no worker"})},
		{link, alive, newResult("hook", contender{Key: "larder-by-name", Label: "larder by that name"})},
		{"/bin/true", alone, newResult("hook", contender{Key: "true", Label: "/bin/true"})},
	}
	block := max(1, cfg.Spawns/10)
	// The first block of each is the warm-up. Each block has builds of its own,
	// or the hook would find its row there.
	for done := -block; done < cfg.Spawns; done += block {
		for i := range programs {
			p := &programs[i]
			samples, err := spawnBlock(ctx, w, c, p.file, p.queue, done+block, block)
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
func linkLarder(cfg config, w *workshop) (string, error) {
	larder, err := filepath.Abs(filepath.Join(cfg.Bin, "larder"))
	if err != nil {
		return "", err
	}
	link := w.path("larder-hook")
	return link, os.Symlink(larder, link)
}

// makeQueue makes an empty queue.
func makeQueue(ctx context.Context, cfg config, w *workshop, name string) (file string, err error) {
	file = w.path(name + "/queue.db")
	init := exec.CommandContext(ctx, filepath.Join(cfg.Bin, "larder"),
		"init", "--queue", file, "--cache", "file://"+w.path(name+"-cache"))
	init.Env = env(w.dir)
	if _, err := measure(init, w); err != nil {
		return "", fmt.Errorf("make queue: %w", err)
	}
	return file, nil
}

// holdOpen starts a worker and stops it in its tracks, so that it has the queue
// open, as workers have, and does nothing else beside the hooks that are measured.
func holdOpen(ctx context.Context, cfg config, w *workshop, queue string) (end func(), err error) {
	daemon := exec.CommandContext(ctx, filepath.Join(cfg.Bin, "larder"), "daemon", "--queue", queue)
	daemon.Env = env(w.dir)
	log, err := daemon.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	if err := daemon.Start(); err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	end = func() {
		_ = daemon.Process.Kill() // (ignored) it has ended already
		_ = daemon.Wait()         // (ignored) it was killed
	}
	// Its first line says that it is ready.
	line, err := bufio.NewReader(log).ReadString('\n')
	if err == nil {
		err = stopIdle(ctx, daemon.Process, queue)
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("start worker: %w; it says %q", err, line)
	}
	return end, nil
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
func spawnBlock(ctx context.Context, w *workshop, c *corpus, file, queue string, first, n int) ([]sample, error) {
	s, err := newSpawner(w, file)
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
		p, err := s.start(buildEnv(queue, c, first+i)...)
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
