package worker

import (
	"context"
	"path/filepath"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/queue"
)

func (w *worker) adopt(ctx context.Context) (int, error) {
	n, err := Adopt(ctx, w.Queue, w.Roots, w.StoreDir)
	if n > 0 {
		w.Log.Info("adopted roots without jobs", "roots", n)
		// There may be more of them, for which the queue had no room.
		w.adopted = time.Now().Add(adoptAgain - adoptEvery)
	}
	return n, err
}

// Adopt turns roots without jobs into jobs, as many as the queue has room for, and returns
// how many. Anybody may call it: a job that the worker has finished meanwhile is done once
// more, and finds everything in place.
func Adopt(ctx context.Context, q *queue.Queue, roots *gcroot.Roots, storeDir string) (int, error) {
	names, err := roots.List()
	if err != nil {
		return 0, err
	}
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = filepath.Join(storeDir, name)
	}
	missing, err := q.Missing(ctx, paths)
	if err != nil || len(missing) == 0 {
		return 0, err
	}
	room, err := q.Room(ctx)
	if err != nil {
		return 0, err
	}
	missing = missing[:min(int64(len(missing)), room)]
	if len(missing) == 0 {
		return 0, nil
	}
	return len(missing), q.Add(ctx, "", missing...)
}
