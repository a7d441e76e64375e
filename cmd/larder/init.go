package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make a cache and its queue, lay the hook down, and print the lines for nix.conf",
		Flags: []cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), jsonFlag(),
			&cli.StringFlag{Name: "mode", Usage: "mode of the cache's files (default: 0644, for all to read)"},
			&cli.StringFlag{Name: "group", Usage: "group of the cache's files"},
			&cli.StringFlag{Name: "hook", Usage: "the larder-hook `PROGRAM` (default: the one beside larder)"},
		},
		Action: initialize,
	}
}

func initialize(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	options, err := cacheOptions(c)
	if err != nil {
		return err
	}
	if _, err := parseCompression(c, queue.Settings{}); err != nil {
		return err
	}
	if err := checkCacheFlag(c); err != nil {
		return err
	}
	program, err := hookProgram(c.String("hook"))
	if err != nil {
		return err
	}
	// Everything that can be wrong is found before anything is made.
	url, err := initCache(c)
	if err != nil {
		return err
	}
	dirs := nixstore.DefaultDirs()
	dir, err := parseCache(url)
	if err != nil {
		return err
	}
	cache, err := makeCache(dir, dirs.Store, options)
	if err != nil {
		return err
	}
	defer cache.Close()

	q, settings, err := openQueue(c, true)
	if err != nil {
		return err
	}
	defer q.Close()
	compression, err := parseCompression(c, settings)
	if err != nil {
		return err
	}
	settings.Compression = compression.String()
	if err := q.SetSettings(c.Context, settings); err != nil {
		return err
	}
	if _, err := openRoots(q); err != nil {
		return err
	}
	hook, err := installHook(c.Context, dirs, program, q)
	if err != nil {
		return err
	}
	result := struct {
		Queue       string `json:"queue"`
		Cache       string `json:"cache"`
		Hook        string `json:"hook"`
		Substituter string `json:"substituter"`
	}{q.File(), bincache.URL(dir), hook, bincache.SubstituterURL(dir)}
	fmt.Fprintf(c.App.ErrWriter, "larder: queue %s feeds cache %s; put these lines into nix.conf, restart nix-daemon if there is one, and run larder daemon\n", result.Queue, result.Cache)
	return printResult(c, result, fmt.Sprintf("post-build-hook = %s\nextra-substituters = %s\n", result.Hook, result.Substituter))
}

// initCache returns the cache of the command line, or that of the queue if there
// is one already. If there is none, it sees to it that one can be made.
func initCache(c *cli.Context) (url string, err error) {
	file, err := queueFile(c)
	if err != nil {
		return "", orHint(err, "name a queue with --queue FILE")
	}
	_, err = os.Stat(file)
	if err == nil {
		q, settings, err := openQueue(c, false)
		if err != nil {
			return "", err
		}
		defer q.Close()
		return cacheURL(c, settings)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if url, err = cacheURL(c, queue.Settings{}); err != nil {
			return "", err
		}
		err = canMake(file)
	}
	return url, orHint(err, hintQueue)
}

// canMake returns an error if a file can't be made: if the nearest directory above
// it that exists may not be written.
func canMake(file string) error {
	dir := filepath.Dir(file)
	err := unix.Access(dir, unix.W_OK)
	if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		return canMake(dir)
	}
	if err != nil {
		return &fs.PathError{Op: "write to", Path: dir, Err: err}
	}
	return nil
}

func cacheOptions(c *cli.Context) (bincache.Options, error) {
	o := bincache.Options{Group: c.String("group")}
	if text := c.String("mode"); text != "" {
		mode, err := strconv.ParseUint(text, 8, 32)
		if err != nil || mode&^0o666 != 0 || mode&0o600 != 0o600 {
			return o, usageError(fmt.Sprintf("--mode is %q, want the mode of a file", text), "for example --mode 0664")
		}
		o.Mode = fs.FileMode(mode)
	}
	return o, nil
}

// hookProgram returns the larder-hook to lay down.
func hookProgram(named string) (string, error) {
	if named == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find larder-hook: %w", err)
		}
		named = filepath.Join(filepath.Dir(self), "larder-hook")
	}
	info, err := os.Stat(named)
	if err == nil && (info.IsDir() || info.Mode()&0o111 == 0) {
		err = fmt.Errorf("%s is not a program", named)
	}
	if err != nil {
		return "", withHint(fmt.Errorf("find larder-hook: %w", err), "put it beside larder, or name it with --hook PROGRAM")
	}
	return named, nil
}

// hookName is what the hook's directory is called in the Nix store.
const hookName = "larder-hook"

// installHook puts the hook, and the file that names its queue, where Nix can run
// it, and returns that place: the Nix store if there is one, since a daemon in
// another mount namespace sees that too. What an earlier init laid down stays:
// nix.conf may still name it, and Nix fails builds whose hook is gone.
func installHook(ctx context.Context, dirs nixstore.Dirs, program string, q *queue.Queue) (string, error) {
	staging, err := os.MkdirTemp("", "larder-")
	if err != nil {
		return "", fmt.Errorf("install hook: %w", err)
	}
	defer os.RemoveAll(staging)
	dir := filepath.Join(staging, hookName)
	if err := writeHook(dir, program, q.File()); err != nil {
		return "", fmt.Errorf("install hook: %w", err)
	}
	nixStore, err := exec.LookPath("nix-store")
	if err != nil {
		dir := filepath.Join(filepath.Dir(q.File()), hookName)
		if err := writeHook(dir, program, q.File()); err != nil {
			return "", fmt.Errorf("install hook: %w", err)
		}
		return filepath.Join(dir, hookName), nil
	}
	path, err := runNix(ctx, nixStore, "--add", dir)
	if err != nil {
		return "", fmt.Errorf("install hook: %w", err)
	}
	if err := rootHook(ctx, dirs, nixStore, path, q); err != nil {
		return "", fmt.Errorf("install hook: %w", err)
	}
	return filepath.Join(path, hookName), nil
}

func writeHook(dir, program, queueFile string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, hookName+".queue"), []byte(queueFile+"\n"), 0o644); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, hookName), text, 0o755)
}

// replaceFile writes a file that may be in use: at any moment there is one.
func replaceFile(name string, text []byte, mode fs.FileMode) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return err
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// rootHook keeps the hook from Nix's collector: by a root of ours if we may make
// one, or by one that Nix makes for a link of the user's.
func rootHook(ctx context.Context, dirs nixstore.Dirs, nixStore, path string, q *queue.Queue) error {
	err := gcroot.AddHook(dirs.State, path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	link := filepath.Join(filepath.Dir(q.File()), hookName+"-"+nixstore.HashPart(path))
	_, err = runNix(ctx, nixStore, "--realise", path, "--add-root", link, "--indirect")
	return err
}

// runNix runs one of Nix's programs and returns the line that it printed.
func runNix(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
