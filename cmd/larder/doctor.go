package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/doctor"
	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixclient"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "say what is wrong with a set-up, and what to type",
		Description: "Looks at Nix's settings, the hook, the queue and the cache: those that are named, or what nix.conf and the user's queue say. " +
			"With a cache alone it looks at what larder run needs. Exits with 5 if something does not work.",
		Flags:  append([]cli.Flag{cacheFlag(), queueFlag(), trustedKeyFlag(), jsonFlag()}, keyFlags()...),
		Action: examine,
	}
}

// A doctorReport is what doctor prints.
type doctorReport struct {
	Problems int              `json:"problems"`
	Warnings int              `json:"warnings"`
	Findings []doctor.Finding `json:"findings"`
}

func examine(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	s, err := setupOf(c)
	if err != nil {
		return err
	}
	r := doctorReport{Findings: doctor.Examine(c.Context, s)}
	for _, f := range r.Findings {
		switch f.Severity {
		case doctor.Problem:
			r.Problems++
		case doctor.Warning:
			r.Warnings++
		}
	}
	if err := printResult(c, r, r.text()); err != nil || r.Problems == 0 {
		return err
	}
	return &exitCoder{exitProblems, nil}
}

// setupOf finds out what there is to look at.
func setupOf(c *cli.Context) (*doctor.Setup, error) {
	if err := checkCacheFlag(c); err != nil {
		return nil, err
	}
	s := &doctor.Setup{Dirs: nixstore.DefaultDirs()}
	askNix(c.Context, s)
	hook := configuredHook(s)
	s.Chain = chainOf(hook)
	wanted := chainOf(stillWanted(hook))
	s.HooksEnded = len(wanted) == 0
	for _, hook := range wanted {
		s.HookQueue = cmp.Or(s.HookQueue, hookQueue(hook))
	}
	findQueue(c, s)
	if s.Queue != nil {
		s.Hooks = laidDown(s.Dirs, s.Queue.File)
		if slices.ContainsFunc(s.Chain, func(hook string) bool { return ownHook(hook, s.Queue.File) != "" }) {
			s.HookQueue = s.Queue.File
		}
	}
	if err := findKeys(c, s); err != nil {
		return nil, err
	}
	cache := c.String("cache")
	if cache == "" && s.Queue != nil {
		cache = s.Queue.Settings.Cache
	}
	if cache == "" {
		return s, nil
	}
	var err error
	s.Cache, err = parseCache(cache)
	return s, err
}

// askNix asks Nix, by several of its programs at a time.
func askNix(ctx context.Context, s *doctor.Setup) {
	var tasks sync.WaitGroup
	var systemErr, versionErr error
	tasks.Go(func() { s.Nix, s.NixErr = nixclient.Ask(ctx, s.Dirs) })
	tasks.Go(func() { s.System, systemErr = nixclient.System(ctx) })
	tasks.Go(func() { s.Version, versionErr = nixclient.InPath(ctx) })
	tasks.Wait()
	if s.NixErr = cmp.Or(s.NixErr, systemErr, versionErr); s.NixErr != nil {
		s.Nix, s.System = nil, nil
	}
	// A daemon does not read the user's files.
	_, files, err := hookSettings(func(name string) string {
		if name == "NIX_CONF_DIR" {
			return os.Getenv(name)
		}
		return map[string]string{"NIX_USER_CONF_FILES": "/nonexistent"}[name]
	})
	if err != nil {
		return // (ignored) who may not read them hears of it from Nix
	}
	s.StaleDaemon, _ = staleDaemon(files) // (ignored) not every system tells when a process began
}

// findKeys finds out whose signatures count, as run and init do.
func findKeys(c *cli.Context, s *doctor.Setup) error {
	var settings queue.Settings
	if s.Queue != nil {
		settings = s.Queue.Settings
	}
	keys, err := signingKeys(c, settings)
	var usage *exitCoder
	if errors.As(err, &usage) {
		return err
	}
	s.KeyErr = err
	for _, key := range keys {
		s.PublicKeys = append(s.PublicKeys, key.ToPublicKey().String())
	}
	trusted, err := trustedKeys(c)
	for _, key := range trusted {
		s.PublicKeys = append(s.PublicKeys, key.String())
	}
	return err
}

// configuredHook returns the hook that Nix calls: with a daemon that does not trust the
// user, the system's.
func configuredHook(s *doctor.Setup) string {
	if s.Nix == nil {
		return ""
	}
	from := s.Nix
	if from.Access == nixclient.Daemon && !from.Trusted {
		from = s.System
	}
	return from.String("post-build-hook")
}

// findQueue finds the queue that is meant: the one that is named; the user's, if it is
// there and feeds the cache that is named; or the one that Nix's hook feeds.
func findQueue(c *cli.Context, s *doctor.Setup) {
	named := c.String("queue") != ""
	file, err := queueFile(c)
	standard := err == nil && !named && isThere(file)
	if !named && !standard {
		if file = s.HookQueue; file == "" {
			return
		}
	}
	q := &doctor.Queue{File: file, Default: standard}
	if name, err := queue.Resolve(file); err != nil {
		q.Err = err
	} else {
		q.File = name
		q.Err = lookInto(c.Context, q)
	}
	// A cache that no queue feeds is that of larder run.
	cache := c.String("cache")
	if dir, err := parseCache(cache); !named && q.Err == nil && cache != "" && err == nil && q.Settings.Cache != bincache.URL(dir) {
		return
	}
	s.Queue = q
}

func isThere(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, fs.ErrNotExist)
}

// lookInto opens a queue for what it says of itself.
func lookInto(ctx context.Context, found *doctor.Queue) error {
	q, err := queue.Open(ctx, found.File)
	if err != nil {
		return err
	}
	defer q.Close()
	if found.Settings, err = q.Settings(ctx); err != nil {
		return err
	}
	if found.Counts, err = q.Counts(ctx); err != nil {
		return err
	}
	found.Worker, err = q.WorkerAlive()
	return err
}

// laidDown returns the hooks that were laid down for a queue and are still there.
func laidDown(dirs nixstore.Dirs, queueFile string) []string {
	var hooks []string
	names, err := gcroot.Hooks(dirs.State).List()
	if err == nil { // (ignored) otherwise there are those beside the queue
		for _, name := range names {
			hooks = append(hooks, filepath.Join(dirs.Store, name, hookName))
		}
	}
	beside, _ := filepath.Glob(filepath.Join(filepath.Dir(queueFile), hookName+"*", hookName)) // (ignored) a name with brackets
	hooks = slices.DeleteFunc(append(hooks, beside...), func(hook string) bool {
		return hookQueue(hook) != queueFile || slices.ContainsFunc(chainOf(hook), func(h string) bool { return !doctor.Executable(h) })
	})
	slices.Sort(hooks)
	return slices.Compact(hooks)
}

func (r doctorReport) text() string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-9s%-13s%s\n", labels[f.Severity], f.Check, f.What)
		if f.Severity == doctor.Fine {
			continue
		}
		more := func(label, text string) { fmt.Fprintf(&b, "%9s%-13s%s\n", "", label, text) }
		if f.Why != "" {
			more("", f.Why)
		}
		for i, line := range f.NixConf {
			more(map[int]string{0: "  nix.conf:"}[i], line)
		}
		for i, command := range f.Run {
			more(map[int]string{0: "  type:"}[i], command)
		}
		if f.Advice != "" {
			more("", f.Advice)
		}
	}
	return b.String()
}

var labels = map[doctor.Severity]string{doctor.Problem: "PROBLEM", doctor.Warning: "warning", doctor.Fine: "ok"}
