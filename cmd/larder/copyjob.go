package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/queue"
)

// copyJob is a worker's Copy.
func (t *target) copyJob(ctx context.Context, job *queue.Job) ([]slog.Attr, error) {
	r, err := t.copyWanted(ctx, job)
	switch {
	case err == nil:
		done := runner.Event{Kind: runner.Done, Path: job.Path}
		if job.Drv != "" {
			done.Class = rules.Built // the hook's word
		}
		t.tell(done)
	case errors.Is(err, cachewriter.ErrLeftOut):
		reason := strings.TrimPrefix(err.Error(), cachewriter.ErrLeftOut.Error()+": ")
		t.tell(runner.Event{Kind: runner.LeftOut, Path: job.Path, Reason: reason})
	case errors.Is(err, cachewriter.ErrNotInStore):
		t.tell(runner.Event{Kind: runner.Gone, Path: job.Path})
	}
	switch {
	case err == nil:
		return []slog.Attr{
			slog.Int("paths", r.Paths), slog.Int("copied", r.Copied), slog.Int("signed", r.Signed),
			slog.Int64("nar_bytes", r.NarBytes), slog.Int64("file_bytes", r.FileBytes),
		}, nil
	case errors.Is(err, cachewriter.ErrLeftOut):
		return nil, fmt.Errorf("%w: %w", worker.ErrLeftOut, err)
	case errors.Is(err, cachewriter.ErrUnavailable) && bincache.IsFull(err):
		return nil, fmt.Errorf("%w: %w", worker.ErrNoRoom, err)
	case errors.Is(err, cachewriter.ErrUnavailable), errors.Is(err, nixstore.ErrUnavailable):
		return nil, fmt.Errorf("%w: %w", worker.ErrUnavailable, err)
	case errors.Is(err, cachewriter.ErrNotInStore):
		return nil, fmt.Errorf("%w: %w", worker.ErrGone, err)
	case errors.Is(err, cachewriter.ErrStoreCorrupt):
		return nil, fmt.Errorf("%w: %w", worker.ErrHopeless, err)
	}
	return nil, err
}
