package gcroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// OutLinks returns the store paths that those links mean that Nix has made since some time
// for people who wanted a result, such as ./result of nix build: Nix makes them anew also
// when they meant the same before. Derivations are not among them, nor are what [Links]
// keep.
func OutLinks(stateDir, storeDir string, since time.Time) (paths []string, err error) {
	dir := filepath.Join(stateDir, "gcroots", "auto")
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read links to results: %w", err)
	}
	for _, d := range all {
		link, err := os.Readlink(filepath.Join(dir, d.Name()))
		if err != nil || isOfQueue(filepath.Dir(link)) {
			continue // (ignored) it has just gone
		}
		info, err := os.Lstat(link)
		if err != nil || info.Mode().Type() != fs.ModeSymlink || info.ModTime().Before(since) {
			continue // (ignored) gone, or out of sight
		}
		path, err := os.Readlink(link)
		if err == nil && filepath.Dir(path) == storeDir && !strings.HasSuffix(path, ".drv") {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// LinksOf returns the directory of the links of a queue, by the name of its database.
func LinksOf(queue string) string { return queue + linksEnding }

const linksEnding = "-roots"

// isOfQueue tells whether a directory is one of LinksOf.
func isOfQueue(dir string) bool {
	queue, ok := strings.CutSuffix(dir, linksEnding)
	if !ok {
		return false
	}
	_, err := os.Lstat(queue)
	return err == nil
}
