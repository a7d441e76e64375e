package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name:  "uninstall",
		Usage: "take back what init laid down; the cache stays",
		Description: "Nix fails builds whose post-build-hook is gone. So nothing is taken back while nix.conf names the hook, " +
			"or a nix-daemon runs that has not read nix.conf since it last changed.",
		Flags:  []cli.Flag{queueFlag(), &cli.BoolFlag{Name: "force", Usage: "go on if jobs are left, which are then forgotten, or where processes can't be looked at (macOS)"}},
		Action: uninstall,
	}
}

func uninstall(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	q, settings, err := openQueue(c, false)
	if err != nil {
		return err
	}
	defer q.Close()
	lock, err := q.Lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := nothingLeft(c, q); err != nil {
		return err
	}
	if err := notConfigured(c, q.File()); err != nil {
		return err
	}

	// From the outside in: first what keeps paths, then the hook, which nobody
	// calls any more, and the queue last, so that after an error there is
	// something to call uninstall for again.
	dirs := nixstore.DefaultDirs()
	if err := rootsOf(q).RemoveAll(); err != nil {
		return err
	}
	nexts, err := removeHook(dirs, q.File())
	if err != nil {
		return err
	}
	if err := q.Remove(); err != nil {
		return err
	}
	words, err := lastWords(nexts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "removed queue %s and its hook; the cache %s is as it was\n%s", q.File(), settings.Cache, words)
	return err
}

func nothingLeft(c *cli.Context, q *queue.Queue) error {
	counts, err := q.Counts(c.Context)
	if err != nil || c.Bool("force") {
		return err
	}
	if left := counts.Left() + counts.Dead; left > 0 {
		return withHint(fmt.Errorf("uninstall: %d jobs are left in the queue", left), "larder drain copies them; larder uninstall --force forgets them")
	}
	return nil
}

// notConfigured returns an error if Nix may still call the queue's hook.
func notConfigured(c *cli.Context, queueFile string) error {
	settings, files, err := hookSettings(os.Getenv)
	if err != nil {
		return err
	}
	for _, s := range settings {
		if err := errStillCalled(s, queueFile); err != nil {
			return err
		}
	}
	pid, err := staleDaemon(files)
	if errors.Is(err, errors.ErrUnsupported) {
		if c.Bool("force") {
			return nil
		}
		return withHint(fmt.Errorf("uninstall: look for nix-daemon: %w", err),
			"restart it, wait for builds that are under way, and run larder uninstall --force")
	}
	if err != nil {
		return err
	}
	if pid != 0 {
		return withHint(fmt.Errorf("uninstall: nix-daemon (process %d) started before nix.conf was last changed, or serves a build that did, and may still call the hook", pid),
			"restart it (systemctl restart nix-daemon), wait for builds that are under way, and run this again")
	}
	return nil
}

// removeHook removes the queue's hooks beside the queue, and the roots of those in
// the Nix store, which are Nix's to collect. It returns the hooks that they called.
func removeHook(dirs nixstore.Dirs, queueFile string) (nexts []string, err error) {
	roots := gcroot.Hooks(dirs.State)
	names, err := roots.List()
	if err != nil {
		return nil, fmt.Errorf("uninstall: %w", err)
	}
	var ours, others []string // store paths
	for _, name := range names {
		dir := filepath.Join(dirs.Store, name)
		hook := filepath.Join(dir, hookName)
		next := hookNext(hook)
		paths := slices.DeleteFunc([]string{dir, nextPath(dirs, next)}, func(path string) bool { return path == "" })
		switch hookQueue(hook) {
		case "": // one that is called by others
		case queueFile:
			ours, nexts = append(ours, paths...), append(nexts, next)
		default:
			others = append(others, paths...)
		}
	}
	for _, path := range ours {
		if slices.Contains(others, path) {
			continue
		}
		if err := roots.Remove(path); err != nil {
			return nil, fmt.Errorf("uninstall: %w", err)
		}
	}
	beside, err := filepath.Glob(filepath.Join(filepath.Dir(queueFile), hookName+"*"))
	if err != nil {
		return nil, fmt.Errorf("uninstall: %w", err)
	}
	for _, name := range beside {
		hook := filepath.Join(name, hookName)
		if hookQueue(hook) != queueFile {
			continue
		}
		next := hookNext(hook)
		nexts = append(nexts, next)
		// A link to the Nix store, which Nix takes for a root, or a directory.
		err := os.RemoveAll(name)
		if path := nextPath(dirs, next); path != "" {
			err = errors.Join(err, os.RemoveAll(hookLink(queueFile, path)))
		}
		if err != nil {
			return nil, fmt.Errorf("uninstall: %w", err)
		}
	}
	slices.Sort(nexts)
	return slices.DeleteFunc(slices.Compact(nexts), func(next string) bool { return next == "" }), nil
}
