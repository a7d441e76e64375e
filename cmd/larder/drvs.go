package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

// withDrvsFlag is a rule's; push has it, too.
func withDrvsFlag() cli.Flag {
	return &cli.BoolFlag{Name: "with-drvs", Usage: "keep with what was built its derivation, and all that this refers to, for others to look at or to build again"}
}

// settled is present for those who queue jobs. What was built is not settled, where its
// derivation is to be kept as well, before that is present.
func (v *view) settled(ctx context.Context, paths []string) []bool {
	present := v.present(ctx, paths)
	if !v.rules.WithDrvs {
		return present
	}
	drvs, err := v.store.BuiltFrom(ctx, paths)
	if err != nil {
		return make([]bool, len(paths)) // nobody knows
	}
	var needed []string
	var of []int // where in paths what was built from them is
	for i, path := range paths {
		if drv := drvs[path]; drv != "" && present[i] {
			needed, of = append(needed, drv), append(of, i)
		}
	}
	for n, drvPresent := range v.present(ctx, needed) {
		present[of[n]] = drvPresent
	}
	return present
}

// copyWanted copies what the rules want.
func (t *target) copyWanted(ctx context.Context, job *queue.Job) (cachewriter.Result, error) {
	reg, err := t.store.Registration(ctx, job.Path)
	if err != nil {
		return cachewriter.Result{}, err
	}
	if reason := t.rules.Unwanted(reg, job.Drv != ""); reason != "" {
		return cachewriter.Result{}, fmt.Errorf("%w: %s", cachewriter.ErrLeftOut, reason)
	}
	r, err := t.writer.Copy(ctx, job.Path)
	if err != nil || !t.rules.WithDrvs || rules.ClassOf(reg, job.Drv != "") != rules.Built {
		return r, err
	}
	drvs, err := t.copyDrvs(ctx, job, reg.Deriver)
	return r.Plus(drvs), err
}

// copyDrvs copies the derivations of what was built. Those that are not in the store any
// more, or that the rules leave out, are done without: the job's path is in the cache.
func (t *target) copyDrvs(ctx context.Context, job *queue.Job, deriver string) (total cachewriter.Result, err error) {
	// A content-addressed build may have two: what was asked for, and what that came down
	// to once its inputs were known.
	drvs := slices.DeleteFunc([]string{deriver, job.Drv}, func(drv string) bool { return drv == "" })
	found := false
	for _, drv := range slices.Compact(drvs) {
		r, err := t.writer.Copy(ctx, drv)
		switch {
		case errors.Is(err, cachewriter.ErrNotInStore):
		case errors.Is(err, cachewriter.ErrLeftOut):
			t.log.Info("left out derivation", "path", job.Path, "reason", err)
			found = true
		case err != nil:
			return total, err
		default:
			found = true
		}
		total = total.Plus(r)
	}
	if !found {
		t.log.Info("derivation is not in the store", "path", job.Path, "drv", deriver)
	}
	return total, nil
}

// deriversOf returns the derivations that built some paths, all of which must be in the
// store. A derivation is its own. Paths that nothing built have none, unless need says
// that they must.
func deriversOf(ctx context.Context, store *nixstore.Store, paths []string, need bool) ([]string, error) {
	var drvs []string
	for _, path := range paths {
		if strings.HasSuffix(path, ".drv") {
			drvs = append(drvs, path)
			continue
		}
		info, err := store.Info(ctx, path)
		if err != nil {
			return nil, err
		}
		if info.Deriver == "" && need {
			return nil, withHint(fmt.Errorf("find derivation of %s: Nix does not know what built it", path),
				"sources have none: leave them out, or name a .drv in their place")
		}
		if info.Deriver == "" {
			continue
		}
		err = store.Check(ctx, []string{info.Deriver})
		if errors.Is(err, nixstore.ErrNotValid) {
			return nil, withHint(fmt.Errorf("find derivation of %s: %s is not in the store", path, info.Deriver),
				"evaluate it again (nix-instantiate, nix build), or push the path alone")
		}
		if err != nil {
			return nil, err
		}
		drvs = append(drvs, info.Deriver)
	}
	return drvs, nil
}
