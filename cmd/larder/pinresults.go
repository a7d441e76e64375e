package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/runner"
)

// pinFlags are those of run and stop. (--keep is a rule's.)
func pinFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "pin", EnvVars: []string{"LARDER_PIN"}, Usage: "when all went well, keep the results as larder pin does, with all that they need, under this `NAME`: what was built or downloaded meanwhile and is needed " +
			"neither to run nor to build anything else of it, and what nix build or nix-build made links to, such as ./result"},
		&cli.IntFlag{Name: "pin-keep", Value: 1, EnvVars: []string{"LARDER_PIN_KEEP"}, Usage: "keep the last `N` different results of that name, this one included"},
	}
}

func checkPinFlags(c *cli.Context) error {
	name := c.String("pin")
	if _, inEnv := os.LookupEnv("LARDER_PIN"); name != "" || c.IsSet("pin") && !inEnv {
		if err := bincache.CheckPinName(name); err != nil {
			return usageError(err.Error(), "for example --pin main")
		}
	}
	if keep := c.Int("pin-keep"); keep < 1 {
		return usageError(fmt.Sprintf("--pin-keep is %d, want at least 1", keep), "for example --pin-keep 5; larder unpin NAME removes a pin")
	}
	return nil
}

// nothingPinned says why a pin stays as it was, if there was to be one.
func nothingPinned(c *cli.Context, why string) (said string) {
	if c.String("pin") == "" {
		return ""
	}
	said = fmt.Sprintf("pin %s stays as it was: %s", c.String("pin"), why)
	warn(c, "%s", said)
	return said
}

// pinResults pins the results of a session, if that is wanted, and says so in the report.
// Whatever is wrong is no reason for the command to fail. copied is false if it is that
// something could not be copied.
func (s *session) pinResults(t *runner.Tally, r *runner.Report, code *int, workErr error) (copied bool) {
	name := s.cli.String("pin")
	if name == "" {
		return true
	}
	var pinned []string
	var err error
	switch {
	case code != nil && *code != 0:
		err = errors.New("the command failed")
	case s.cli.Context.Err() != nil:
		err = errors.New("interrupted")
	case workErr != nil && !errors.Is(workErr, context.Canceled): // or there was no time for something
		err = workErr
	default:
		pinned, err = s.pin(name, t, r)
	}
	notWhole := errors.Is(err, errNotWhole)
	switch {
	case notWhole:
		r.Notes = append(r.Notes, fmt.Sprintf("pin %s: %v", name, err))
		warn(s.cli, "pin %s: %v", name, err)
	case err != nil:
		r.Notes = append(r.Notes, nothingPinned(s.cli, err.Error()))
	}
	if err == nil || notWhole {
		r.Pinned = &runner.Pinned{Name: name, Paths: pinned}
	}
	return !errors.Is(err, errNotCopied)
}

// pin pins the results, and returns them.
func (s *session) pin(name string, t *runner.Tally, r *runner.Report) ([]string, error) {
	// Who has the cache's lock may have it for long.
	left := timeOf(s.cli, "deadline") - time.Duration(r.Drained)
	ctx, cancel := context.WithTimeout(s.cli.Context, max(left, stopTimeout))
	defer cancel()
	results, err := s.results(ctx, t, r)
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, errors.New("there is no result: nothing was built, downloaded or linked to, or the rules want none of it")
	}
	cache, err := openCache(s.settings.Cache, nil, "")
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	e, err := newElsewhere(s.cli, s.settings)
	if err != nil {
		return nil, err
	}
	p := &pinning{elsewhere: e, cli: s.cli, log: s.log, cache: cache, wanted: results}
	defer p.close()
	if err := p.open(cache.StoreDir()); err != nil {
		return nil, err
	}
	p.mayCopy = func() error {
		if r.LeftOver > 0 {
			return errors.New("the end came first")
		}
		return s.checkKeys()
	}
	if err := s.leaveOut(ctx, p, r); err != nil {
		return nil, err
	}
	return p.wanted, p.pin(ctx, name, s.cli.Int("pin-keep"))
}

// results returns what the session's commands are likely to have been called for.
func (s *session) results(ctx context.Context, t *runner.Tally, r *runner.Report) ([]string, error) {
	store, err := openStore()
	if err != nil {
		return nil, err
	}
	defer store.Close()
	results, err := store.Results(ctx, t.Made)
	if err != nil {
		return nil, err
	}
	linked, err := gcroot.OutLinks(store.Dirs().State, store.Dirs().Store, s.begin)
	if err != nil {
		return nil, err
	}
	for _, path := range linked {
		if _, err := store.Info(ctx, path); err == nil && nixstore.Name(path) != hookName {
			results = append(results, path)
		} // (ignored) or the link leads nowhere; and our own hook's is nobody's wish
	}
	slices.Sort(results)
	return slices.DeleteFunc(slices.Compact(results), func(path string) bool {
		why := t.WhyLeftOut(path)
		if why != "" {
			r.Notes = append(r.Notes, fmt.Sprintf("%s is not pinned, since it is left out of the cache: %s", nixstore.Name(path), why))
		}
		return why != ""
	}), nil
}

// leaveOut takes from a pinning those results that the cache has not since the rules want it
// so. Others that are missing are copied.
func (s *session) leaveOut(ctx context.Context, p *pinning, r *runner.Report) error {
	_, missing, err := present(ctx, p.cache, p.wanted)
	if err != nil || len(missing) == 0 {
		return err
	}
	if err := p.copy(ctx, missing); err != nil && !errors.Is(err, cachewriter.ErrLeftOut) {
		return fmt.Errorf("%s is a result, and %w: %w", missing[0], errNotCopied, err)
	}
	there, missing, err := present(ctx, p.cache, p.wanted)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%s not pinned, since the rules leave them to others: %s", paths(len(missing)), pinnedText(missing)))
	}
	if len(there) == 0 {
		return errors.New("the rules want none of the results")
	}
	p.wanted = there
	return nil
}

// present divides paths into those that the cache has, and others.
func present(ctx context.Context, cache *bincache.Cache, all []string) (there, missing []string, err error) {
	for i, f := range cache.Find(ctx, all) {
		switch {
		case f.Err == nil:
			there = append(there, all[i])
		case errors.Is(f.Err, fs.ErrNotExist), errors.Is(f.Err, bincache.ErrDamaged):
			missing = append(missing, all[i])
		default:
			return nil, nil, fmt.Errorf("look for %s in the cache: %w", all[i], f.Err)
		}
	}
	return there, missing, nil
}

// pinnedText names some store paths.
func pinnedText(all []string) string {
	const most = 5
	var names []string
	for _, path := range all[:min(len(all), most)] {
		names = append(names, nixstore.Name(path))
	}
	text := strings.Join(names, ", ")
	if len(all) > most {
		text += fmt.Sprintf(" and %d more", len(all)-most)
	}
	return text
}
