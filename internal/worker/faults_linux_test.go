package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func init() { parts["work without inotify"] = workWithoutInotify }

// workWithoutInotify is a child whose user has used up all inotify instances.
func workWithoutInotify(args []string) error {
	if err := trouble.Deny(syscall.SYS_INOTIFY_INIT1, syscall.EMFILE); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	q, err := queue.Create(ctx, filepath.Join(args[0], "queue.db"))
	if err != nil {
		return err
	}
	defer q.Close()
	lock, err := q.Lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	var log bytes.Buffer
	var added, copied atomic.Bool
	err = Run(ctx, Config{
		Queue: q, Lock: lock, Roots: gcroot.Join(gcroot.Open(args[0], q.Identity().ID), gcroot.OpenLinks(args[0]+"/links")), StoreDir: storeDir,
		Poll: 10 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Copy: func(context.Context, *queue.Job) ([]slog.Attr, error) {
			copied.Store(true)
			cancel()
			return nil, nil
		},
		Alive: func() {
			// In the second round, when only the clock can wake the worker.
			if added.Swap(true) && !copied.Load() {
				err = errors.Join(err, q.Add(context.Background(), "", path(1)))
			}
		},
	})
	if !copied.Load() || !errors.Is(err, context.Canceled) {
		return fmt.Errorf("nothing was copied: %v", err)
	}
	if !strings.Contains(log.String(), "only by the clock") {
		return fmt.Errorf("nobody was told:\n%s", &log)
	}
	return nil
}

func TestWithoutInotifyTheClockWillDo(t *testing.T) {
	must(t, trouble.Command(t, "work without inotify", t.TempDir()).Run())
}

// TestFullDiskOfTheQueueIsSatOut has no room to put down that a job is done.
func TestFullDiskOfTheQueueIsSatOut(t *testing.T) {
	disk := trouble.Tmpfs(t, "1m")
	r := newRigAt(t, disk)
	fill := filepath.Join(disk, "fill")
	var full sync.Once
	r.copy = func(_ context.Context, p string, attempt int) error {
		if attempt > 1 {
			return nil
		}
		full.Do(func() {
			f, err := os.Create(fill)
			if err == nil {
				_, err = io.Copy(f, zeros{})
				f.Close()
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("fill the disk: %v", err)
			}
		})
		if p == path(2) {
			return ErrUnavailable
		}
		return nil
	}
	r.add(1, 2)
	r.start()
	trouble.Eventually(t, "the queue can't be written", func() bool {
		return strings.Contains(r.log.String(), "could not be settled") || strings.Contains(r.log.String(), "round failed")
	})
	must(t, os.Remove(fill))
	trouble.Eventually(t, "both are done", func() bool { return r.gone(1) && r.gone(2) && !r.rooted(1) && !r.rooted(2) })
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
