package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nix-larder/larder/internal/nixstore"
)

// A build is what Nix says has just finished.
type build struct {
	dirs    nixstore.Dirs
	drv     string   // the derivation, or "" if Nix did not say
	outputs []string // what Nix says of its outputs, which may be some, or none
}

// parseBuild reads the hook's environment. What makes no sense is left out and
// told of in the error; the rest counts.
func parseBuild(dirs nixstore.Dirs, getenv func(string) string) (build, error) {
	b := build{dirs: dirs}
	var problems []error
	if drv := strings.TrimSpace(getenv("DRV_PATH")); drv != "" {
		// For some content-addressed derivations Nix adds the output: x.drv!out.
		drv, _, _ = strings.Cut(drv, "!")
		if err := nixstore.CheckPath(dirs.Store, drv); err != nil {
			problems = append(problems, fmt.Errorf("read DRV_PATH: %w", err))
		} else {
			b.drv = drv
		}
	}
	for _, path := range strings.Fields(getenv("OUT_PATHS")) {
		if err := nixstore.CheckPath(dirs.Store, path); err != nil {
			problems = append(problems, fmt.Errorf("read OUT_PATHS: %w", err))
			continue
		}
		b.outputs = append(b.outputs, path)
	}
	if b.drv == "" && len(b.outputs) == 0 && len(problems) == 0 {
		problems = append(problems, errors.New("neither DRV_PATH nor OUT_PATHS is set: this is a program for Nix's post-build-hook"))
	}
	// Nothing says that a hundred thousand bad paths must be a hundred thousand
	// complaints.
	if n := len(problems); n > 3 {
		problems = append(problems[:3], fmt.Errorf("and %d more", n-3))
	}
	return b, errors.Join(problems...)
}

// allOutputs returns every output of the build.
//
// OUT_PATHS is empty in Nix 2.8.0, and in 2.30 and 2.31 for a rebuild; before
// 2.16 it has only those outputs that somebody wanted; it never has those that
// were valid before. The derivation names them all, and when the hook runs Nix
// has registered them all. Nix's database is asked where the derivation can't
// tell: it takes a millisecond, which every build would wait for.
func (b build) allOutputs(ctx context.Context, busy time.Duration) ([]string, error) {
	if b.drv == "" {
		return b.outputs, nil
	}
	outputs, err := b.dirs.DrvOutputs(b.drv)
	if err != nil {
		outputs, err = b.registered(ctx, busy)
	}
	all := slices.Concat(b.outputs, outputs)
	slices.Sort(all)
	return slices.Compact(all), err
}

func (b build) registered(ctx context.Context, busy time.Duration) ([]string, error) {
	store, err := nixstore.Open(b.dirs, busy)
	if err != nil {
		return nil, err
	}
	// It stays open: the process ends in a moment.
	return store.Outputs(ctx, b.drv)
}
