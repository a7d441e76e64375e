package cachecheck

import (
	"context"
	"errors"
	"fmt"
	"path"
	"syscall"

	"github.com/nix-larder/larder/internal/bincache"
)

// records looks at the records of runs.
func (k *check) records() {
	for _, err := range k.Cache.Runs() {
		if err != nil {
			k.badNote(err, Record, ".larder/runs")
		}
	}
}

// state looks at what else the cache remembers.
func (k *check) state() {
	for _, bad := range k.Cache.CheckState() {
		k.badNote(bad, State, ".larder")
	}
}

// pins looks at pins, and whether what they keep is there.
func (k *check) pins(ctx context.Context) error {
	var all []string
	keeps := make(map[string][]string) // by store path: pins
	for pin, err := range k.Cache.EachPin() {
		if err != nil {
			k.badNote(err, Pin, pinsDir)
			continue
		}
		for _, p := range pin.Paths() {
			if keeps[p] == nil {
				all = append(all, p)
			}
			keeps[p] = append(keeps[p], pin.Name)
		}
	}
	missing, err := k.missing(ctx, all)
	if err != nil {
		return err
	}
	if k.Upstream {
		k.report.Left += len(missing)
		return nil
	}
	for _, p := range missing {
		for _, name := range keeps[p] {
			k.found(lostPin(name, p))
		}
	}
	return nil
}

const pinsDir = ".larder/pins"

func lostPin(name, storePath string) Problem {
	return Problem{
		Kind: Pin, File: path.Join(pinsDir, name), Path: storePath,
		Err: fmt.Errorf("it keeps %s, which the cache has not", storePath),
	}
}

// badNote notes a file of ours that can't be read, or its directory.
func (k *check) badNote(err error, kind Kind, dir string) {
	var bad *bincache.FileError
	switch {
	case !errors.As(err, &bad):
		k.found(Problem{Kind: Unreadable, File: dir, Err: err})
	case errors.As(err, new(syscall.Errno)):
		k.found(Problem{Kind: Unreadable, File: bad.File, Err: bad.Err})
	default:
		k.found(Problem{Kind: kind, File: bad.File, Err: bad.Err})
	}
}
