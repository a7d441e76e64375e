package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/queue"
)

// A view is the store, the cache, and what the rules say of them.
type view struct {
	store *nixstore.Store
	cache *bincache.Cache
	rules rules.Rules
	bases []*bincache.Cache
}

// openView opens what a command only looks at.
func openView(c *cli.Context, s queue.Settings) (*view, error) {
	return newView(s, func(storeDir string) (*bincache.Cache, error) {
		url, err := cacheURL(c, s)
		if err != nil {
			return nil, err
		}
		dir, err := parseCache(url)
		if err != nil {
			return nil, err
		}
		cache, err := bincache.OpenReadOnly(dir, storeDir)
		if errors.Is(err, fs.ErrNotExist) {
			err = withHint(err, hintNoCache(dir))
		}
		return cache, orHint(err, hintCache)
	})
}

func newView(s queue.Settings, openCache func(storeDir string) (*bincache.Cache, error)) (_ *view, err error) {
	v := &view{}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.rules, err = rules.Parse(s.Rules); err != nil {
		return nil, err
	}
	if v.store, err = openStore(); err != nil {
		return nil, err
	}
	for _, url := range v.rules.Bases {
		base, err := openBase(url, v.store.Dirs().Store)
		if err != nil {
			return nil, err
		}
		v.bases = append(v.bases, base)
	}
	v.cache, err = openCache(v.store.Dirs().Store)
	return v, err
}

// openBase opens a cache that is only read.
func openBase(url, storeDir string) (*bincache.Cache, error) {
	dir, err := parseCache(url)
	if err != nil {
		return nil, err
	}
	base, err := bincache.OpenReadOnly(dir, storeDir)
	if err != nil {
		return nil, withHint(fmt.Errorf("open base %s: %w", url, err), "is its disk mounted? larder init --base sets other ones, and --base '' none")
	}
	return base, nil
}

func (v *view) close() {
	for _, base := range v.bases {
		base.Close()
	}
	if v.cache != nil {
		v.cache.Close()
	}
	if v.store != nil {
		v.store.Close()
	}
}

// caches returns the cache and its bases.
func (v *view) caches() []*bincache.Cache { return append([]*bincache.Cache{v.cache}, v.bases...) }

// identity names what was opened.
func (v *view) identity() string {
	var names []string
	for _, cache := range v.caches() {
		names = append(names, "cache "+cache.Identity())
	}
	return strings.Join(names, ", ")
}

// replaced returns the directory of a cache that is gone, or another one than was
// opened, or "".
func (v *view) replaced() string {
	for _, cache := range v.caches() {
		if cache.Replaced() {
			return cache.Path()
		}
	}
	return ""
}

// present tells whether a path need not come into the cache, as far as that can be
// found out.
func (v *view) present(path string) bool {
	if _, err := v.cache.Entry(path); err == nil {
		return true
	}
	base, err := v.base(path)
	return err == nil && base != nil
}

// base returns the base that has a path, or nil.
func (v *view) base(path string) (*bincache.Cache, error) {
	for _, base := range v.bases {
		_, err := base.Entry(path)
		if err == nil {
			return base, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bincache.ErrDamaged) {
			return nil, fmt.Errorf("look into base %s: %w", base.Path(), err)
		}
		if base.Replaced() {
			return nil, fmt.Errorf("look into base %s: it is gone, or another one", base.Path())
		}
	}
	return nil, nil
}

// elsewhere tells whether an upstream or a base has a path.
func (v *view) elsewhere(_ context.Context, info *nixstore.Info) (bool, error) {
	if v.rules.Upstream(info.Sigs) != "" {
		return true, nil
	}
	base, err := v.base(info.Path)
	return base != nil, err
}

// upstreamHas tells whether a path in the store is signed by an upstream.
func (v *view) upstreamHas(ctx context.Context, path string) bool {
	reg, err := v.store.Registration(ctx, path)
	if errors.Is(err, nixstore.ErrNotValid) {
		return len(v.rules.SkipSignedBy) > 0 // nobody knows any more
	}
	return err == nil && v.rules.Upstream(reg.Sigs) != ""
}

func (v *view) cut(info *nixstore.Info) string { return v.rules.Cut(info.Path, info.NarSize) }

// A target is where a command copies to.
type target struct {
	*view
	writer *cachewriter.Writer
}

// openTarget opens the store, the cache, and a writer between them.
func openTarget(c *cli.Context, s queue.Settings, background bool, log *slog.Logger) (*target, error) {
	url, err := cacheURL(c, s)
	if err != nil {
		return nil, err
	}
	compression, err := parseCompression(c, s)
	if err != nil {
		return nil, err
	}
	if c.Int("workers") < 0 {
		return nil, usageError(fmt.Sprintf("--workers is %d", c.Int("workers")), "at least 1, or leave it out")
	}
	v, err := newView(s, func(storeDir string) (*bincache.Cache, error) {
		return openCache(url, c.String("cache") != "", storeDir)
	})
	if err != nil {
		return nil, err
	}
	if err := v.cache.SweepTemp(sweepAge); err != nil {
		v.close()
		return nil, orHint(err, hintCache)
	}
	return &target{v, cachewriter.New(cachewriter.Options{
		Cache:       v.cache,
		Store:       v.store,
		Compression: compression,
		Workers:     c.Int("workers"),
		Background:  background,
		Elsewhere:   v.elsewhere,
		Cut:         v.cut,
		Log:         log,
	})}, nil
}

func (t *target) close() {
	t.writer.Close()
	t.view.close()
}

func (t *target) progress() progress {
	p := t.writer.Progress()
	return progress{done: p.Done, total: p.Paths, bytes: p.NarBytes}
}

// copyJob is a worker's Copy.
func (t *target) copyJob(ctx context.Context, job *queue.Job) ([]slog.Attr, error) {
	r, err := t.copyWanted(ctx, job)
	switch {
	case err == nil:
		return []slog.Attr{
			slog.Int("paths", r.Paths), slog.Int("copied", r.Copied),
			slog.Int64("nar_bytes", r.NarBytes), slog.Int64("file_bytes", r.FileBytes),
		}, nil
	case errors.Is(err, cachewriter.ErrLeftOut):
		return nil, fmt.Errorf("%w: %w", worker.ErrLeftOut, err)
	case errors.Is(err, cachewriter.ErrUnavailable), errors.Is(err, nixstore.ErrUnavailable):
		return nil, fmt.Errorf("%w: %w", worker.ErrUnavailable, err)
	case errors.Is(err, cachewriter.ErrNotInStore):
		return nil, fmt.Errorf("%w: %w", worker.ErrGone, err)
	case errors.Is(err, cachewriter.ErrStoreCorrupt):
		return nil, fmt.Errorf("%w: %w", worker.ErrHopeless, err)
	}
	return nil, err
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
	return t.writer.Copy(ctx, job.Path)
}
