package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
		Flags:  []cli.Flag{queueFlag(), &cli.BoolFlag{Name: "force", Usage: "also if jobs are left, which are then forgotten, or where processes can't be looked at (macOS)"}},
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
	if err := removeHook(dirs, q.File()); err != nil {
		return err
	}
	if err := q.Remove(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "removed queue %s and its hook; the cache %s is as it was\n", q.File(), settings.Cache)
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
		if hookQueue(s.hook) == queueFile {
			return withHint(fmt.Errorf("uninstall: %s still has post-build-hook = %s", s.where, s.hook),
				"remove that line, restart nix-daemon if there is one, and run this again")
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

// hookQueue returns the queue that an installed hook is for, or "".
func hookQueue(hook string) string {
	text, err := os.ReadFile(hook + ".queue")
	if err != nil {
		return "" // (ignored) not one that init has laid down
	}
	return string(bytes.TrimSuffix(text, []byte("\n")))
}

// removeHook removes the roots of the queue's hooks, and hooks beside the queue.
// Those in the Nix store are Nix's to collect.
func removeHook(dirs nixstore.Dirs, queueFile string) error {
	hooks := gcroot.Hooks(dirs.State)
	names, err := hooks.List()
	if err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	for _, name := range names {
		if hookQueue(filepath.Join(dirs.Store, name, hookName)) != queueFile {
			continue
		}
		if err := hooks.Remove(name); err != nil {
			return fmt.Errorf("uninstall: %w", err)
		}
	}
	beside, err := filepath.Glob(filepath.Join(filepath.Dir(queueFile), hookName+"*"))
	if err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	for _, name := range beside {
		if hookQueue(filepath.Join(name, hookName)) != queueFile {
			continue
		}
		// A link to the Nix store, which Nix takes for a root, or a directory.
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("uninstall: %w", err)
		}
	}
	return nil
}
