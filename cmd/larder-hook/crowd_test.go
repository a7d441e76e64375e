package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-larder/larder/queue"
)

// 64 builds end at the same moment, while the worker commits all the time.
func TestCrowdLosesNothing(t *testing.T) {
	const crowd = 64
	s, q := newSiteWithQueue(t)
	s.env["LARDER_HOOK_DEADLINE"] = "5s" // for 64 processes to start
	lock, err := q.Lock()
	must(t, err)
	defer lock.Unlock()
	work := startWorker(t, s, q)

	var want []string
	var hooks []*exec.Cmd
	stderr := make([]bytes.Buffer, crowd)
	for i := range crowd {
		s.env["OUT_PATHS"] = s.Path(fmt.Sprintf("%d-out", i)) + " " + s.Path(fmt.Sprintf("%d-dev", i))
		want = append(want, strings.Fields(s.env["OUT_PATHS"])...)
		cmd := s.command(t)
		cmd.Stderr = &stderr[i]
		hooks = append(hooks, cmd)
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for i, cmd := range hooks {
		wg.Go(func() {
			if err := cmd.Run(); err != nil {
				t.Errorf("hook failed: %v; it says %q", err, &stderr[i])
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	done, commits := work.stop()

	rows, roots := s.Rows(t), s.Roots(t)
	silent, rootOnly := 0, 0
	for i := range hooks {
		if stderr[i].Len() == 0 {
			silent++
		} else if n := strings.Count(stderr[i].String(), "\n"); n != 1 {
			t.Errorf("hook says %q, want one line", &stderr[i])
		}
	}
	for _, path := range want {
		switch row, root := slices.Contains(rows, path), slices.Contains(roots, path); {
		case slices.Contains(done, path) || row && root:
		case root:
			rootOnly++
		default:
			t.Errorf("%s is lost: row %v, root %v", path, row, root)
		}
	}
	t.Logf("%d hooks in %v beside %d commits: %d without a word; of %d paths %d were done, %d needed their roots",
		crowd, took.Round(time.Millisecond), commits, silent, len(want), len(done), rootOnly)
	if silent == 0 {
		t.Error("no hook could reach the queue")
	}
}

// A worker finishes jobs as fast as it can.
type worker struct {
	quit    chan struct{}
	ended   chan struct{}
	done    []string // which paths; once ended is closed
	commits int
}

// stop ends the worker, and returns which paths it has finished.
func (w *worker) stop() (done []string, commits int) {
	close(w.quit)
	<-w.ended
	return w.done, w.commits
}

func startWorker(t *testing.T, s *site, q *queue.Queue) *worker {
	w := &worker{quit: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for {
			select {
			case <-w.quit:
				return
			default:
			}
			if err := w.round(t.Context(), s, q); err != nil {
				t.Errorf("worker: %v", err)
				return
			}
		}
	}()
	return w
}

// round finishes one job, and always writes.
func (w *worker) round(ctx context.Context, s *site, q *queue.Queue) error {
	job, err := q.Claim(ctx)
	if errors.Is(err, queue.ErrEmpty) {
		w.commits++
		return q.SetSettings(ctx, queue.Settings{Cache: fmt.Sprint("file:///", w.commits)})
	}
	if err != nil {
		return err
	}
	// What is done has no row and no root. (A root without a row may come back, if
	// the hook made it again.)
	if err := q.Done(ctx, job, func() error { return s.RootDir().Remove(job.Path) }); err != nil {
		return err
	}
	w.commits += 2
	w.done = append(w.done, job.Path)
	return nil
}

// A hook leaves the waiting for the disk to the worker.
func TestHookDoesNotWaitForTheDisk(t *testing.T) {
	if out, err := exec.Command("strace", "-f", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace can't be used: %v\n%s", err, out)
	}
	s, q := newSiteWithQueue(t)
	// The first one who writes after the log was emptied waits for the disk once, so
	// that a power failure can't mix old and new. It is the worker, as a rule.
	must(t, q.Add(t.Context(), "", s.Path("earlier")))
	size := fileSize(t, s.File)

	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-o", trace,
		"-e", "trace=%file,pwrite64,fsync,fdatasync,sync_file_range,syncfs,sync,msync", program, "--deadline", "1m")
	cmd.Env = s.command(t).Env
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("hook says %q, %v", out, err)
	}
	calls, err := os.ReadFile(trace)
	must(t, err)
	if !bytes.Contains(calls, []byte("pwrite64(")) {
		t.Fatalf("strace saw no write:\n%s", calls)
	}
	for line := range strings.Lines(string(calls)) {
		if strings.Contains(line, "sync") {
			t.Errorf("the hook waits for the disk: %s", line)
		}
	}
	s.WantRows(t, s.Path("a"), s.Path("earlier"))
	if got := fileSize(t, s.File); got != size {
		t.Errorf("the database has %d bytes, want %d as before", got, size)
	}
	if fileSize(t, s.File+"-wal") == 0 {
		t.Error("the log is empty: the hook has copied it into the database")
	}
}

func fileSize(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	must(t, err)
	return info.Size()
}
