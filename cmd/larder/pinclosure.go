package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachecheck"
	"github.com/nix-larder/larder/internal/runner"
)

// A pinning sees to it that the cache has what a pin is to keep.
type pinning struct {
	elsewhere
	cli    *cli.Context
	log    *slog.Logger
	cache  *bincache.Cache
	wanted []string // store paths

	mayCopy func() error // why nothing can be copied now; nil if nothing is in the way
}

// A lack is what a cache has not of a closure, or has damaged.
type lack struct {
	path    string
	by      string // who refers to it; "" if it is itself wanted
	damaged bool
}

func (l lack) String() string {
	text := l.path
	if l.by != "" {
		text += ", which " + l.by + " needs,"
	}
	if l.damaged {
		return text + " is damaged in the cache"
	}
	return text + " is not in the cache"
}

func lacksText(lacks []lack) string {
	text := lacks[0].String()
	if len(lacks) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(lacks)-1)
	}
	return text
}

// hintLack is for what is only referred to.
const hintLack = "if clients have it from elsewhere, say so with --base CACHE or --upstream; else build or download it first (nix-store --realise PATH), " +
	"or have all withdrawn that needs it (larder verify --repair --upstream=false)"

// pin completes the closures, and has a name stand for them.
func (p *pinning) pin(ctx context.Context, name string, keep int) error {
	before, removing, err := p.cache.Removals()
	if err != nil {
		return orHint(err, hintCache)
	}
	if err := p.complete(ctx); err != nil {
		return err
	}
	if err := p.cache.Pin(ctx, name, time.Now(), keep, p.wanted...); err != nil {
		return orHint(err, hintCache)
	}
	// From now on all who remove something see the pin. One who has not seen it may have
	// removed what was found to be there.
	after, _, err := p.cache.Removals()
	if err != nil {
		return orHint(err, hintCache)
	}
	if after == before && !removing {
		return nil
	}
	if err := p.complete(ctx); err != nil {
		return fmt.Errorf("%w: %w", errNotWhole, err)
	}
	return nil
}

// errNotWhole says that a name is pinned, but stands for closures that are not whole.
var errNotWhole = errors.New("it is pinned, but something was removed in that moment")

// errNotCopied says that the cache lacks something that is not to be had.
var errNotCopied = errors.New("can't be copied")

// complete copies what the cache lacks.
func (p *pinning) complete(ctx context.Context) error {
	lacks, err := p.lacks(ctx, false)
	if err != nil || len(lacks) == 0 {
		return err
	}
	if err := p.copyLacks(ctx, lacks); err != nil {
		return err
	}
	lacks, err = p.lacks(ctx, true)
	if err == nil && len(lacks) > 0 { // what the rules leave to an upstream, the writer does not mend
		err = withHint(errors.New(lacksText(lacks)), hintVerify)
	}
	return err
}

// copyLacks copies what is lacking, with all that it needs.
func (p *pinning) copyLacks(ctx context.Context, lacks []lack) error {
	paths := make([]string, len(lacks))
	for i, l := range lacks {
		paths[i] = l.path
	}
	err := p.copy(ctx, paths)
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	err = fmt.Errorf("%s, and %w: %w", lacksText(lacks), errNotCopied, err)
	if lacks[0].by != "" && (errors.Is(err, cachewriter.ErrNotInStore) || errors.Is(err, fs.ErrNotExist)) { // or there is no Nix
		err = withHint(err, hintLack)
	}
	return err
}

// copy copies closures from the store.
func (p *pinning) copy(ctx context.Context, paths []string) error {
	if p.mayCopy != nil {
		if err := p.mayCopy(); err != nil {
			return err
		}
	}
	tally := &safeTally{Tally: runner.NewTally()}
	t, err := openTarget(p.cli, p.settings, targetOptions{log: p.log, wanted: paths, tell: tally.Add})
	if err != nil {
		return err
	}
	defer t.close()
	done := showProgress(p.cli, t.progress)
	_, err = t.writer.Copy(ctx, paths...)
	done()
	recordNow(p.cli, t, tally.Tally, nil)
	return err
}

// lacks returns what the cache lacks of the closures, but for what clients have from
// elsewhere. Before something is copied that does not count for what is wanted itself: if it
// is to be here, the writer knows.
func (p *pinning) lacks(ctx context.Context, copied bool) ([]lack, error) {
	all, err := p.walk(ctx)
	if err != nil {
		return nil, err
	}
	var lacks []lack
	var absent []string
	for _, l := range all {
		if l.damaged || l.by == "" && !copied {
			lacks = append(lacks, l)
		} else {
			absent = append(absent, l.path)
		}
	}
	if p.upstream {
		return lacks, nil
	}
	if absent, err = cachecheck.NotInBases(ctx, p.bases, absent); err != nil {
		return nil, err
	}
	nowhere := make(map[string]bool, len(absent))
	for _, path := range absent {
		nowhere[path] = true
	}
	for _, l := range all {
		if nowhere[l.path] {
			lacks = append(lacks, l)
		}
	}
	return lacks, nil
}

// walk looks at the closures as far as the cache has them, many entries at a time.
func (p *pinning) walk(ctx context.Context) (lacks []lack, err error) {
	type step struct {
		path string
		by   int // which step led here, or -1
	}
	var steps []step
	seen := make(map[string]bool)
	add := func(path string, by int) {
		if !seen[path] {
			seen[path] = true
			steps = append(steps, step{path, by})
		}
	}
	for _, path := range p.wanted {
		add(path, -1)
	}
	for first := 0; first < len(steps); {
		some := steps[first:min(first+lookAtOnce, len(steps))]
		paths := make([]string, len(some))
		for i, s := range some {
			paths[i] = s.path
		}
		for i, f := range p.cache.Find(ctx, paths) {
			damaged := errors.Is(f.Err, bincache.ErrDamaged)
			switch {
			case f.Err == nil:
				for _, ref := range f.Entry.References {
					add(p.cache.StoreDir()+"/"+ref, first+i)
				}
			case damaged, errors.Is(f.Err, fs.ErrNotExist):
				l := lack{path: paths[i], damaged: damaged}
				if by := steps[first+i].by; by >= 0 {
					l.by = steps[by].path
				}
				lacks = append(lacks, l)
			default:
				return nil, orHint(fmt.Errorf("look for %s in the cache: %w", paths[i], f.Err), hintCache)
			}
		}
		first += len(some)
	}
	return lacks, nil
}
