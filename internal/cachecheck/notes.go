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
		var bad *bincache.RecordError
		switch {
		case err == nil:
		case !errors.As(err, &bad):
			k.found(Problem{Kind: Unreadable, File: ".larder/runs", Err: err})
		case errors.As(err, new(syscall.Errno)):
			k.found(Problem{Kind: Unreadable, File: bad.File, Err: bad.Err})
		default:
			k.found(Problem{Kind: Record, File: bad.File, Err: bad.Err})
		}
	}
}

// notes looks at what else the cache remembers.
func (k *check) notes() {
	for _, bad := range k.Cache.Notes() {
		kind := Note
		if errors.As(bad.Err, new(syscall.Errno)) {
			kind = Unreadable
		}
		k.found(Problem{Kind: kind, File: bad.File, Err: bad.Err})
	}
}

// pins looks at pins, and whether what they keep is there.
func (k *check) pins(ctx context.Context) error {
	var all []string
	keeps := make(map[string][]string) // by store path: pins
	for pin, err := range k.Cache.EachPin() {
		var bad *bincache.PinError
		switch {
		case err == nil:
			for _, p := range pin.Paths() {
				if keeps[p] == nil {
					all = append(all, p)
				}
				keeps[p] = append(keeps[p], pin.Name)
			}
		case !errors.As(err, &bad):
			k.found(Problem{Kind: Unreadable, File: ".larder/pins", Err: err})
		case errors.As(err, new(syscall.Errno)):
			k.found(Problem{Kind: Unreadable, File: bad.File, Err: bad.Err})
		default:
			k.found(Problem{Kind: Pin, File: bad.File, Err: bad.Err})
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

func lostPin(name, storePath string) Problem {
	return Problem{
		Kind: Pin, File: path.Join(".larder/pins", name), Path: storePath,
		Err: fmt.Errorf("it keeps %s, which the cache has not", storePath),
	}
}
