package gcroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Links are the roots of a user who may not write below gcroots: symbolic links in a
// directory of the user's own, which Nix knows of (indirect roots).
//
// They are weaker than files. It takes a process of Nix to make them, for many at a
// time, so that between a path's registration and its root a collector has more
// time; and whoever deletes the directory, deletes the roots.
type Links struct {
	dir string

	mu    sync.Mutex          // guards what is below
	links map[string][]string // names of links, by base name of the store path; nil if not read
}

// OpenLinks returns the links in a directory. It does not look whether there are any.
func OpenLinks(dir string) *Links { return &Links{dir: dir} }

// batch is how many roots a process makes.
const batch = 500

// Protect makes roots for those of the paths that are valid.
func (l *Links) Protect(ctx context.Context, paths ...string) error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return fmt.Errorf("make roots: %w", err)
	}
	nixStore, err := program()
	if err != nil {
		return fmt.Errorf("make roots: %w", err)
	}
	var drvs, others []string
	for _, path := range paths {
		if strings.HasSuffix(path, ".drv") {
			drvs = append(drvs, path)
		} else {
			others = append(others, path)
		}
	}
	for some := range slices.Chunk(others, batch) {
		err = errors.Join(err, l.add(ctx, nixStore, some, realise))
	}
	for some := range slices.Chunk(drvs, batch) {
		err = errors.Join(err, l.add(ctx, nixStore, some, instantiate))
	}
	if err != nil {
		return fmt.Errorf("make roots: %w", err)
	}
	return nil
}

// A rooter returns a command that makes roots for paths. Nix names the links NAME,
// NAME-2, NAME-3, …
type rooter func(nixStore, name string, paths []string) []string

// realise is for all but derivations: of those it would build the outputs, and make
// roots for these.
func realise(nixStore, name string, paths []string) []string {
	return append([]string{
		nixStore, "--realise", "--add-root", name, "--indirect", "--option", "substitute", "false", "--max-jobs", "0",
	}, paths...)
}

// instantiate has derivations evaluated, as which their paths do.
func instantiate(nixStore, name string, paths []string) []string {
	return []string{
		filepath.Join(filepath.Dir(nixStore), "nix-instantiate"), "--add-root", name, "--indirect", "--expr",
		`map (drvPath: { type = "derivation"; name = "x"; outputName = "out"; inherit drvPath; }) [ "` + strings.Join(paths, `" "`) + `" ]`,
	}
}

func (l *Links) add(ctx context.Context, nixStore string, paths []string, command rooter) error {
	name := strconv.FormatInt(time.Now().UnixNano(), 36) + "." + strconv.Itoa(os.Getpid())
	_, err := run(ctx, command(nixStore, filepath.Join(l.dir, name), paths))
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.links = nil // to be read again
		return nil
	}
	// One that is gone keeps Nix from making any root.
	invalid, checkErr := run(ctx, append([]string{nixStore, "--check-validity", "--print-invalid"}, paths...))
	valid := slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return slices.Contains(invalid, path) })
	if checkErr != nil || len(valid) == len(paths) {
		return err
	}
	if len(valid) == 0 {
		return nil
	}
	return l.add(ctx, nixStore, valid, command)
}

// Remove removes the roots of a store path. To have none is success. One that
// another process has made since List was called stays until after the next time.
func (l *Links) Remove(storePath string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	base := filepath.Base(storePath)
	if len(l.links[base]) == 0 { // it may be new
		if err := l.read(); err != nil {
			return err
		}
	}
	for _, name := range l.links[base] {
		if err := os.Remove(filepath.Join(l.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove root: %w", err)
		}
	}
	delete(l.links, base)
	return nil
}

// List returns the base names of all store paths that have a root. A directory that
// is not there has none.
func (l *Links) List() ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.read(); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(l.links))
	for base := range l.links {
		names = append(names, base)
	}
	return names, nil
}

// read reads the directory. The mutex is held.
func (l *Links) read() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list roots: %w", err)
	}
	l.links = make(map[string][]string)
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(l.dir, e.Name()))
		if err != nil {
			continue // (ignored) removed meanwhile, or nothing of ours
		}
		base := filepath.Base(target)
		l.links[base] = append(l.links[base], e.Name())
	}
	return nil
}

// RemoveAll removes all links, and their directory.
func (l *Links) RemoveAll() error {
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("remove roots: %w", err)
	}
	return nil
}

// program returns nix-store: from the PATH, or, since services often have next to
// none, from where installers put it.
func program() (string, error) {
	path, err := exec.LookPath("nix-store")
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin"} {
		path := filepath.Join(dir, "nix-store")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", err
}

// run runs a command and returns the lines that it printed.
func run(ctx context.Context, command []string) ([]string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(command[0]), command[1], err, strings.TrimSpace(stderr.String()))
	}
	return strings.Fields(string(out)), nil
}
