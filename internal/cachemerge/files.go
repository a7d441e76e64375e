package cachemerge

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/nix-larder/larder/internal/bincache"
)

const (
	pins = ".larder/pins"
	runs = ".larder/runs"
)

// folders have files of which those are copied whose names the target has not.
var folders = []string{"log", runs, pins}

// unfinished are Nix's files that are not what their names say yet.
var unfinished = regexp.MustCompile(`\.tmp\.[0-9]+(\.[0-9]+)?$`)

// takeFiles copies what is neither narinfo nor NAR. It comes after those, since some of
// it is about them.
func (m *Merger) takeFiles(ctx context.Context) error {
	for i := 1; i < len(m.caches); i++ {
		names := m.listings(i)
		for _, folder := range folders {
			names = append(names, m.files(m.caches[i], folder)...)
		}
		for batch := range slices.Chunk(names, m.batch) {
			if err := m.takeBatch(ctx, m.caches[i], batch); err != nil {
				return err
			}
		}
	}
	return nil
}

// listings returns the listings of those entries of a cache that are the kept ones.
func (m *Merger) listings(cache int) []string {
	all, err := fs.ReadDir(m.caches[cache].FS(), ".")
	if err != nil {
		m.unreadable(m.caches[cache], ".", err)
	}
	var names []string
	for _, d := range all {
		hash, ok := strings.CutSuffix(d.Name(), ".ls")
		if !ok || !d.Type().IsRegular() {
			continue
		}
		if id, ok := m.ids[hash]; ok && slices.Contains(m.entries[id].homes, int16(cache)) {
			names = append(names, d.Name())
		}
	}
	return names
}

// files returns the regular files below a directory of a source.
func (m *Merger) files(from *bincache.Cache, folder string) []string {
	// Through a link to another place of the cache there would be something else.
	if info, err := fs.Lstat(from.FS(), folder); err == nil && !info.IsDir() {
		m.unreadable(from, folder, errNoFolder)
		return nil
	}
	var names []string
	_ = fs.WalkDir(from.FS(), folder, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			m.unreadable(from, name, err)
		case folder == runs && d.Type().IsRegular() && d.Name() != ".keep":
			// One at a time: a record can be large.
			if err := from.CheckRun(name); err == nil {
				names = append(names, name)
			} else if !errors.Is(err, fs.ErrNotExist) {
				m.unreadable(from, name, err)
			}
		case d.Type().IsRegular() && d.Name() != ".keep" && !unfinished.MatchString(d.Name()):
			names = append(names, name)
		}
		return nil
	})
	return names
}

var errNoFolder = errors.New("it is not a directory")

func (m *Merger) takeBatch(ctx context.Context, from *bincache.Cache, batch []string) error {
	dirs := make(map[string]bool)
	err := bincache.EachOf(batch, func(name string) error {
		err := ctx.Err()
		if err == nil {
			err = m.target().TakeFile(ctx, from, name)
		}
		switch {
		case errors.Is(err, fs.ErrExist) && path.Dir(name) == runs:
			taken, takeErr := m.target().TakeNewerRun(from, name)
			if !taken && takeErr == nil {
				return nil
			}
			err = takeErr
		case errors.Is(err, fs.ErrExist):
			if path.Dir(name) == pins {
				m.comparePins(from, name)
			}
			return nil
		}
		switch {
		case errors.Is(err, bincache.ErrDamaged):
			m.unreadable(from, name, err)
			return nil
		case err != nil:
			return err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		dirs[path.Dir(name)] = true
		m.result.Files++
		return nil
	})
	return errors.Join(err, m.sync(dirs))
}

// comparePins reports a pin that keeps other paths in a source than in the target.
func (m *Merger) comparePins(from *bincache.Cache, name string) {
	kept, err := m.target().ReadFile(name)
	other, err2 := from.ReadFile(name)
	if err = errors.Join(err, err2); err != nil {
		m.unreadable(from, name, err)
		return
	}
	if !bytes.Equal(kept, other) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.result.Conflicts = append(m.result.Conflicts, Conflict{name, m.target().Path(), from.Path()})
	}
}

func (m *Merger) unreadable(from *bincache.Cache, name string, err error) {
	m.log.Warn("left out what can't be read", "cache", from.Path(), "file", name, "err", err)
}
