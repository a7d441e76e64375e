package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

// hookProgram returns the larder-hook to lay down. Where there is none it is larder,
// which is the hook if it is called so.
func hookProgram(named string) (string, error) {
	if named == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find larder-hook: %w", err)
		}
		named = filepath.Join(filepath.Dir(self), hookName)
		if _, err := os.Stat(named); errors.Is(err, fs.ErrNotExist) {
			named = self
		}
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

// installHook puts the hook, and the files that name its queue and the next hook,
// where Nix can run it, and returns that place: the Nix store if there is one, since
// a daemon in another mount namespace sees that too. What an earlier init laid down
// stays: nix.conf may still name it, and Nix fails builds whose hook is gone.
func installHook(ctx context.Context, dirs nixstore.Dirs, program, next string, q *queue.Queue) (string, error) {
	staging, err := os.MkdirTemp("", "larder-")
	if err != nil {
		return "", fmt.Errorf("install hook: %w", err)
	}
	defer os.RemoveAll(staging)
	dir := filepath.Join(staging, hookName)
	if err := writeHook(dir, program, q.File(), next); err != nil {
		return "", fmt.Errorf("install hook: %w", err)
	}
	nixStore, err := exec.LookPath("nix-store")
	if err != nil {
		dir := filepath.Join(filepath.Dir(q.File()), hookName)
		if err := writeHook(dir, program, q.File(), next); err != nil {
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
	// Until now what nix.conf belongs to may have kept it.
	if path := nextPath(dirs, next); path != "" {
		if err := rootHook(ctx, dirs, nixStore, path, q); err != nil {
			return "", fmt.Errorf("install hook: %w", err)
		}
	}
	return filepath.Join(path, hookName), nil
}

// nextPath returns the store path that has the next hook in it, or "".
func nextPath(dirs nixstore.Dirs, next string) string {
	if next == "" {
		return ""
	}
	path, err := nixstore.ParsePath(dirs.Store, next)
	if err != nil {
		return "" // (ignored) it is elsewhere, or not there
	}
	return path
}

// writeHook makes the directory of a hook: the program, and beside it the files that
// name its queue and, unless that is "", the next hook.
func writeHook(dir, program, queueFile, next string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	hook := filepath.Join(dir, hookName)
	if err := writeBeside(hook, queueFile, next); err != nil {
		return err
	}
	return replaceFile(hook, text, 0o755)
}

// writeBeside writes the files beside a hook that name its queue and, unless that is "",
// the next hook.
func writeBeside(hook, queueFile, next string) error {
	if err := replaceFile(hook+".queue", []byte(queueFile+"\n"), 0o644); err != nil {
		return err
	}
	if next != "" {
		return replaceFile(hook+".next", []byte(next+"\n"), 0o644)
	}
	if err := os.Remove(hook + ".next"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// layHook puts a program where a session's hook is to be. Nix fails builds whose hook is
// gone, and nobody knows how long somebody will call it, so it should not depend on what
// becomes of larder. The hooks that sessions left are one file if they can be.
func layHook(program, hook string) error {
	if shareHook(program, hook) || copyProgram(program, hook) == nil && unix.Access(hook, unix.X_OK) == nil {
		return nil
	}
	// A full disk, or one from which nothing is executed.
	if err := os.Remove(hook); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(program, hook)
}

// shareHook makes the hook another name of one that an earlier session has, if that is
// the same program.
func shareHook(program, hook string) bool {
	info, err := os.Stat(program)
	if err != nil {
		return false
	}
	others, _ := sessionDirs(filepath.Dir(filepath.Dir(hook))) // (ignored) a copy does
	for _, other := range others {
		other = filepath.Join(other, hookName)
		have, err := os.Lstat(other)
		if err == nil && have.Mode() == 0o755 && have.Size() == info.Size() && have.ModTime().Equal(info.ModTime()) && os.Link(other, hook) == nil {
			return true
		}
	}
	return false
}

func copyProgram(program, to string) error {
	from, err := os.Open(program)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	err = errors.Join(err, f.Close(), os.Chtimes(to, time.Time{}, info.ModTime()))
	if err != nil {
		return err
	}
	// Last: only a finished one is shared. Whatever our umask is, those who build have to
	// execute it.
	return os.Chmod(to, 0o755)
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
	_, err = runNix(ctx, nixStore, "--realise", path, "--add-root", hookLink(q.File(), path), "--indirect")
	return err
}

func hookLink(queueFile, path string) string {
	return filepath.Join(filepath.Dir(queueFile), hookName+"-"+nixstore.HashPart(path))
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
