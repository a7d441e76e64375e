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
	if errors.Is(err, fs.ErrPermission) || errors.As(err, new(unfit)) {
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
			case err == nil && d.Type().IsRegular() && (realisationName().MatchString(name) || buildTraceName().MatchString(name)):
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

	// Replaced are those that the cache had with other store paths, and Withdrawn those
	// that depended on them, and are gone.
	Replaced, Withdrawn []*Realisation
}

// AddRealisations publishes realisations, durably, those before that others depend on.
// Their store paths must be in the cache, or be known to be elsewhere. Keys sign them.
//
// One that is there is kept. So is one on which another one depends: where the cache has
// another store path for it, the other one is not published, since Nix gives up a build
// that it was promised something else for. One that can't be read is replaced. To add
// takes no lock; to sign and to replace does.
func (c *Cache) AddRealisations(ctx context.Context, list []*Realisation, keys []signature.SecretKey) (RealisationsAdded, error) {
	a := newAdding(c, keys)
	err := a.addAll(ctx, list)
	return a.result, err
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

// An adding is one call of AddRealisations, or of ReplaceRealisations.
type adding struct {
	cache    *Cache
	keys     []signature.SecretKey
	outPaths map[string]string // what the cache has, by file, as far as it was looked for
	result   RealisationsAdded

	replace   bool                    // what is there with other store paths
	there     map[string]*Realisation // that depend on others, by file, once that counts
	swapped   map[string]string       // new store paths of what was replaced, by ID
	withdrawn map[string]*Realisation // by file, and not published again
}

func newAdding(c *Cache, keys []signature.SecretKey) *adding {
	return &adding{
		cache: c, keys: keys, outPaths: make(map[string]string),
		swapped: make(map[string]string), withdrawn: make(map[string]*Realisation),
	}
}

func (a *adding) addAll(ctx context.Context, list []*Realisation) error {
	order, err := inOrder(list)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(order, addAtOnce) {
		if err := a.addBatch(ctx, batch); err != nil {
			return err
		}
	}
	return nil
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
	var wrote []*addition
	for _, e := range batch {
		did, err := a.add(ctx, e)
		if err != nil {
			return err
		}
		if did {
			changed[path.Dir(e.file)] = true
			wrote = append(wrote, e)
		}
	}
	if err := EachOf(slices.Collect(maps.Keys(changed)), a.cache.SyncDir); err != nil {
		return err
	}
	return a.lookAgain(ctx, wrote)
}

// prepare makes durable what has to be published.
func (a *adding) prepare(e *addition) error {
	ours, err := e.sign(a.keys)
	if err != nil {
		return err
	}
	e.sigs = slices.Concat(e.Sigs, ours)
	have, err := a.cache.Realisation(e.file)
	if err == nil && !(a.replace && have.OutPath != e.OutPath) || err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged) {
		return err
	}
	return a.write(e)
}

// write writes a realisation into an unfinished file, durably.
func (a *adding) write(e *addition) (err error) {
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
	if promised, err := a.isPromised(e); !promised || err != nil {
		if err == nil {
			a.result.Kept = append(a.result.Kept, e.Realisation)
		}
		return false, err
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

// isPromised tells whether what a realisation depends on is in the cache, as it says, as far
// as that was looked for.
func (a *adding) isPromised(e *addition) (bool, error) {
	for id, outPath := range e.Dependent {
		if id == e.ID() {
			continue
		}
		if have, err := a.outPath(fileOf(id)); err != nil || have != outPath {
			return false, err
		}
	}
	return true, nil
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

// publish publishes a realisation, unless there is one that can be read, and is not to be
// replaced.
func (a *adding) publish(ctx context.Context, e *addition) (published bool, err error) {
	if err := a.comeAgain(e); e.temp == nil || err != nil {
		return false, err
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
		have, haveErr := a.cache.Realisation(e.file)
		switch {
		case haveErr == nil && a.replace && have.OutPath != e.OutPath:
			err = a.swap(e, have)
		case errors.Is(haveErr, ErrDamaged), errors.Is(haveErr, fs.ErrNotExist):
			err = e.temp.Replace(e.file)
		default:
			return false, haveErr // another writer was faster
		}
	}
	if err != nil {
		return false, err
	}
	delete(a.withdrawn, e.file)
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
