package bincache

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// isRetirable tells whether a file may be removed once nobody needs it.
func isRetirable(name string) bool {
	hash, isListing := strings.CutSuffix(name, listingEnding)
	return isNarPlace(name) || isListing && len(hash) == hashLen && !strings.Contains(hash, "/") ||
		path.Dir(name) == logsDir && path.Base(name) != ".keep" || realisationName().MatchString(name) || buildTraceName().MatchString(name)
}

// Known is what somebody has read of entries since he took the cache's lock, which he still
// holds. So none of them has changed that is whole: who adds leaves that alone. But who finds
// a damaged one may mend it, with another NAR, and what was withdrawn may be there again.
type Known struct {
	Hashes map[string]bool        // of entries that were read, are whole, and were not withdrawn since
	Needs  func(file string) bool // whether one of them may need a NAR or a log, by its name
}

// needs are what all entries need that there were at the last look.
type needs struct {
	cache    *Cache
	known    Known
	files    map[string]bool // other narinfos that were read
	urls     map[string]bool // of those
	derivers map[string]bool
}

func newNeeds(c *Cache, known Known) *needs {
	return &needs{c, known, make(map[string]bool), make(map[string]bool), make(map[string]bool)}
}

// look reads what is new. It is an error if a narinfo can't be read. The cache's lock is
// held, so that none changes.
func (n *needs) look(ctx context.Context) error {
	names, err := n.cache.readDir(".")
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !isNarInfo(name) || n.has(name) })
	for need, err := range inParallel(ctx, names, n.cache.needOf) {
		if err != nil {
			return err
		}
		n.urls[path.Clean(need.url)] = true
		n.derivers[need.deriver] = true
	}
	for _, name := range names {
		n.files[name] = true
	}
	return ctx.Err()
}

// has tells whether there was an entry with a narinfo of this name.
func (n *needs) has(name string) bool {
	return n.files[name] || n.known.Hashes[strings.TrimSuffix(name, narInfoEnding)]
}

// nar tells whether a NAR is needed.
func (n *needs) nar(name string) bool {
	name = path.Clean(name)
	return n.urls[name] || n.byKnown(name)
}

func (n *needs) byKnown(name string) bool { return n.known.Needs != nil && n.known.Needs(name) }

// extra tells whether a listing, log or realisation is needed.
func (n *needs) extra(name string) bool {
	if hash, ok := strings.CutSuffix(name, listingEnding); ok {
		return n.has(hash + narInfoEnding)
	}
	if path.Dir(name) == logsDir {
		return n.derivers[path.Base(name)] || n.byKnown(name)
	}
	r, err := n.cache.Realisation(name)
	return err != nil || n.has(narInfoName(r.OutPath)) // what can't be read is not ours to judge
}

// A need is what an entry needs beside its narinfo.
type need struct{ url, deriver string }

// needOf returns what an entry needs, which is nothing if clients can't read it.
func (c *Cache) needOf(name string) (_ need, size int, err error) {
	text, err := c.readFile(name, maxNarInfo)
	if errors.As(err, new(unfit)) {
		return need{}, 0, nil
	}
	if err != nil {
		return need{}, 0, err
	}
	n, err := ParseNarInfo(text)
	if err != nil {
		return need{}, 0, nil
	}
	return need{strings.Clone(n.URL), strings.Clone(n.Deriver)}, 0, nil
}

// Files returns the files of the cache that belong to entries, beside narinfos: NARs below
// nar, with a size of zero, and listings and logs, with their sizes.
func (c *Cache) Files() (nars []string, extras map[string]int64, err error) {
	names, err := c.readDir("nar")
	if err = ignoreNotExist(err); err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if isNarPlace("nar/" + name) {
			nars = append(nars, "nar/"+name)
		}
	}
	extras = make(map[string]int64)
	top, err := c.readDir(".")
	if err != nil {
		return nil, nil, err
	}
	logs, err := c.readDir(logsDir)
	if err = ignoreNotExist(err); err != nil {
		return nil, nil, err
	}
	for i := range logs {
		logs[i] = logsDir + "/" + logs[i]
	}
	for _, name := range append(top, logs...) {
		if isNarPlace(name) || !isRetirable(name) {
			continue
		}
		info, err := c.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		extras[name] = info.Size()
	}
	return nars, extras, nil
}

// RealisationsOf returns the files of realisations whose store paths are among some, by
// their base names.
func (c *Cache) RealisationsOf(gone map[string]bool) (files []string, err error) {
	all, err := c.realisationFiles()
	if err != nil {
		return nil, err
	}
	for _, file := range all {
		if r, err := c.Realisation(file); err == nil && gone[path.Base(r.OutPath)] {
			files = append(files, file)
		}
	}
	return files, nil
}
