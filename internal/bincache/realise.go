package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// maxRealisation is the largest file of a realisation that is read.
const maxRealisation = 1 << 20

// Realisation returns the realisation in a file. The error wraps [fs.ErrNotExist] if
// there is none, and [ErrDamaged] if clients can't use it.
func (c *Cache) Realisation(file string) (*Realisation, error) {
	r, _, err := c.readRealisation(file)
	return r, err
}

// readRealisation is Realisation that returns the text as well.
func (c *Cache) readRealisation(file string) (*Realisation, []byte, error) {
	text, err := c.readFile(file, maxRealisation)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := ParseRealisation(file, text)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return r, text, nil
}

// realisationFiles returns the files of all realisations.
func (c *Cache) realisationFiles() (files []string, err error) {
	for _, dir := range RealisationDirs {
		err := fs.WalkDir(c.FS(), dir, func(name string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err == nil && d.Type().IsRegular() && (realisationName.MatchString(name) || buildTraceName.MatchString(name)):
				files = append(files, name)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list realisations: %w", err)
		}
	}
	return files, nil
}

// RealisationsAdded says what AddRealisations did.
type RealisationsAdded struct {
	Added  int // that were not there
	Signed int // that were, and had not all signatures

	// Kept are those that were not added, since the cache has another store path for the
	// same output, or not what they depend on.
	Kept []*Realisation
}

// AddRealisations publishes realisations, durably, those before that others depend on.
// Their store paths must be in the cache, or be known to be elsewhere. Keys sign them.
//
// One that is there is kept. So is one on which another one depends: where the cache has
// another store path for it, the other one is not published, since Nix gives up a build
// that it was promised something else for. One that can't be read is replaced. To add
// takes no lock; to sign and to replace does.
func (c *Cache) AddRealisations(ctx context.Context, list []*Realisation, keys []signature.SecretKey) (RealisationsAdded, error) {
	a := &adding{cache: c, keys: keys, outPaths: make(map[string]string)}
	order, err := inOrder(list)
	if err != nil {
		return a.result, err
	}
	for batch := range slices.Chunk(order, addAtOnce) {
		if err := a.addBatch(ctx, batch); err != nil {
			return a.result, err
		}
	}
	return a.result, nil
}

// addAtOnce is how many files are open at a time, and share syncs.
const addAtOnce = 256

// inOrder returns realisations, each once, behind those that it depends on.
func inOrder(list []*Realisation) ([]*addition, error) {
	byFile := make(map[string]*Realisation)
	for _, r := range list {
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("add realisation of %s: %w", r.OutPath, err)
		}
		byFile[r.File()] = r
	}
	var order []*addition
	var visit func(file string)
	visit = func(file string) {
		r := byFile[file]
		if r == nil {
			return // visited, or not in the list
		}
		delete(byFile, file)
		for id := range r.Dependent {
			visit(fileOf(id))
		}
		order = append(order, &addition{Realisation: r, file: file})
	}
	for _, r := range list {
		visit(r.File())
	}
	return order, nil
}

// An adding is one call of AddRealisations.
type adding struct {
	cache    *Cache
	keys     []signature.SecretKey
	outPaths map[string]string // what the cache has, by file, as far as it was looked for
	result   RealisationsAdded
}

// An addition is a realisation that is to be added.
type addition struct {
	*Realisation
	file string
	sigs []string // that it should have
	temp *Temp    // if there is none, or a damaged one
}

func (a *adding) addBatch(ctx context.Context, batch []*addition) error {
	defer func() {
		for _, e := range batch {
			if e.temp != nil {
				e.temp.Discard()
			}
		}
	}()
	if err := EachOf(batch, a.prepare); err != nil {
		return err
	}
	changed := make(map[string]bool) // directories
	for _, e := range batch {
		wrote, err := a.add(ctx, e)
		if err != nil {
			return err
		}
		if wrote {
			changed[path.Dir(e.file)] = true
		}
	}
	return EachOf(slices.Collect(maps.Keys(changed)), a.cache.SyncDir)
}

// prepare makes durable what has to be published.
func (a *adding) prepare(e *addition) error {
	ours, err := e.sign(a.keys)
	if err != nil {
		return err
	}
	e.sigs = slices.Concat(e.Sigs, ours)
	_, err = a.cache.Realisation(e.file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged) {
		return err
	}
	signed := *e.Realisation
	signed.Sigs = e.sigs
	if e.temp, err = a.cache.TempAdded(signed.Format()); err != nil {
		return err
	}
	return e.temp.Sync()
}

// add adds a realisation, and tells whether it wrote anything. All that it depends on has
// been before, if it was to be added too.
func (a *adding) add(ctx context.Context, e *addition) (wrote bool, err error) {
	for id, outPath := range e.Dependent {
		if id == e.ID() {
			continue
		}
		have, err := a.outPath(fileOf(id))
		if err != nil {
			return false, err
		}
		if have != outPath {
			a.result.Kept = append(a.result.Kept, e.Realisation)
			return false, nil
		}
	}
	if published, err := a.publish(ctx, e); published || err != nil {
		return published, err
	}
	have, err := a.cache.Realisation(e.file)
	if err != nil {
		return false, err
	}
	if have.OutPath != e.OutPath {
		a.result.Kept = append(a.result.Kept, e.Realisation)
		return false, nil
	}
	return a.sign(ctx, e, have)
}

// outPath returns what the cache has as the store path of a realisation, or "".
func (a *adding) outPath(file string) (string, error) {
	have, ok := a.outPaths[file]
	if ok {
		return have, nil
	}
	r, err := a.cache.Realisation(file)
	switch {
	case err == nil:
		have = r.OutPath
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged):
		return "", err
	}
	a.outPaths[file] = have
	return have, nil
}

// publish publishes a realisation, unless there is one that can be read.
func (a *adding) publish(ctx context.Context, e *addition) (published bool, err error) {
	if e.temp == nil {
		return false, nil
	}
	if err := a.cache.makeDir(path.Dir(e.file)); err != nil {
		return false, err
	}
	err = e.temp.Publish(e.file)
	if errors.Is(err, fs.ErrExist) {
		var unlock func() error
		if unlock, err = a.cache.lock(ctx); err != nil {
			return false, err
		}
		defer unlock()
		if _, err := a.cache.Realisation(e.file); !errors.Is(err, ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
			return false, err // another writer was faster
		}
		err = e.temp.Replace(e.file)
	}
	if err != nil {
		return false, err
	}
	a.outPaths[e.file] = e.OutPath
	a.result.Added++
	return true, nil
}

// sign adds signatures to a realisation that is there.
func (a *adding) sign(ctx context.Context, e *addition, have *Realisation) (signed bool, err error) {
	if !lacksSigs(have.Sigs, e.sigs) {
		return false, nil
	}
	r := &rewrite{file: e.file, change: func() (before, after []byte, err error) {
		have, text, err := a.cache.readRealisation(e.file)
		if err != nil || have.OutPath != e.OutPath || !lacksSigs(have.Sigs, e.sigs) {
			return nil, nil, err
		}
		have.Sigs = slices.Concat(have.Sigs, e.sigs)
		return text, have.Format(), nil
	}}
	err = a.cache.rewriteAll(ctx, []*rewrite{r})
	if r.done {
		a.result.Signed++
	}
	return r.done, err
}

// lacksSigs tells whether one of some signatures is missing.
func lacksSigs(have, sigs []string) bool {
	return slices.ContainsFunc(sigs, func(sig string) bool { return !slices.Contains(have, sig) })
}
