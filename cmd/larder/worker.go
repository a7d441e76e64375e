package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/queue"
	"github.com/nix-larder/larder/watcher"
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
		Room:     t.writer.CheckRoom,
		Drvs:     t.rules.WithDrvs,
		Log:      log,
	}, nil
}

// openRoots opens the queue's roots, and makes their directory if it may: then it
// is there when the first hook comes.
func openRoots(q *queue.Queue) (*gcroot.Roots, error) {
	state := nixstore.DefaultDirs().State
	err := gcroot.Sweep(state, vanishedAfter, func(file string) bool {
		_, err := queue.Identify(file)
		return errors.Is(err, fs.ErrNotExist)
	})
	if err != nil {
		return nil, err
	}
	id := q.Identity()
	_, err = gcroot.Make(state, gcroot.Owner{Queue: q.File(), ID: id.ID, UID: id.UID, GID: id.GID})
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return rootsOf(q), nil // those of a user whose hook never ran are links
}

// rootsOf returns the queue's roots, whether there are any or not.
func rootsOf(q *queue.Queue) *gcroot.Roots {
	dir := gcroot.Open(nixstore.DefaultDirs().State, q.Identity().ID)
	return gcroot.Join(dir, gcroot.OpenLinks(gcroot.LinksOf(q.File())))
}

// watcherConfig returns what all that look at Nix's registrations have in common.
func watcherConfig(q *queue.Queue, v *view, s queue.Settings, log *slog.Logger) (watcher.Config, error) {
	roots, err := openRoots(q)
	if err != nil {
		return watcher.Config{}, err
	}
	epoch := fmt.Sprintf("boot %s, %s, rules %s", bootID(), v.identity(), s.Rules)
	if s.SigningKeyFiles != "" { // what is there may lack their signatures
		epoch += ", keys " + s.SigningKeyFiles
	}
	return watcher.Config{
		Queue:   q,
		Store:   v.store,
		Roots:   roots,
		Rules:   v.rules,
		Present: v.settled,
		Epoch:   epoch,
		Log:     log,
	}, nil
}

// newLog returns the log of a worker.
func newLog(jsonLines bool) *slog.Logger {
	if jsonLines {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
