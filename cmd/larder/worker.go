package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/queue"
)

// vanishedAfter is how long a queue that is not to be seen keeps its roots.
const vanishedAfter = 7 * 24 * time.Hour

// workerConfig returns what daemon and drain have in common.
func workerConfig(q *queue.Queue, lock *queue.Lock, t *target, log *slog.Logger) (worker.Config, error) {
	roots, err := openRoots(q)
	if err != nil {
		return worker.Config{}, err
	}
	return worker.Config{
		Queue:    q,
		Lock:     lock,
		Roots:    roots,
		StoreDir: t.store.Dirs().Store,
		Copy:     t.copyJob,
		Log:      log,
	}, nil
}

// openRoots opens the queue's roots, and makes their directory if it may: then it
// is there when the first hook comes.
func openRoots(q *queue.Queue) (*gcroot.Dir, error) {
	state := nixstore.DefaultDirs().State
	err := gcroot.Sweep(state, vanishedAfter, func(file string) bool {
		_, err := queue.Identify(file)
		return errors.Is(err, fs.ErrNotExist)
	})
	if err != nil {
		return nil, err
	}
	id := q.Identity()
	roots, err := gcroot.Make(state, gcroot.Owner{Queue: q.File(), ID: id.ID, UID: id.UID, GID: id.GID})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		// Only the hook, as root, can make roots for this user.
		return gcroot.Open(state, id.ID), nil
	}
	return roots, err
}

// copyJob is a worker's Copy.
func (t *target) copyJob(ctx context.Context, path string) ([]slog.Attr, error) {
	r, err := t.writer.Copy(ctx, path)
	switch {
	case err == nil:
		return []slog.Attr{
			slog.Int("paths", r.Paths), slog.Int("copied", r.Copied),
			slog.Int64("nar_bytes", r.NarBytes), slog.Int64("file_bytes", r.FileBytes),
		}, nil
	case errors.Is(err, cachewriter.ErrUnavailable), errors.Is(err, nixstore.ErrUnavailable):
		return nil, fmt.Errorf("%w: %w", worker.ErrUnavailable, err)
	case errors.Is(err, cachewriter.ErrNotInStore):
		return nil, fmt.Errorf("%w: %w", worker.ErrGone, err)
	case errors.Is(err, cachewriter.ErrStoreCorrupt):
		return nil, fmt.Errorf("%w: %w", worker.ErrHopeless, err)
	}
	return nil, err
}

// newLog returns the log of a worker.
func newLog(jsonLines bool) *slog.Logger {
	if jsonLines {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
