package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// ReplaceRealisations is AddRealisations for what was built anew: where the cache has another
// store path for an output, it has the new one from then on. Those that depend on the other
// one go before that, since Nix gives up a build that it was promised something else for, and
// come again if they are in the list.
func (c *Cache) ReplaceRealisations(ctx context.Context, list []*Realisation, keys []signature.SecretKey) (RealisationsAdded, error) {
	a := newAdding(c, keys)
	a.replace = true
	err := a.addAll(ctx, list)
	if err == nil {
		err = a.withdrawLate(ctx)
	}
	for _, file := range slices.Sorted(maps.Keys(a.withdrawn)) {
		a.result.Withdrawn = append(a.result.Withdrawn, a.withdrawn[file])
	}
	return a.result, err
}

// swap puts a realisation in the place of one with another store path. At each moment what
// depends on it depends on what it is. The cache's lock is held.
func (a *adding) swap(e *addition, have *Realisation) error {
	if a.there == nil {
		var err error
		if a.there, err = a.cache.dependentRealisations(); err != nil {
			return err
		}
	}
	if err := a.withdraw(a.there, map[string]string{e.ID(): e.OutPath}); err != nil {
		return err
	}
	if err := e.temp.Replace(e.file); err != nil {
		return err
	}
	delete(a.there, e.file)
	a.swapped[e.ID()] = e.OutPath
	a.result.Replaced = append(a.result.Replaced, have)
	return nil
}

// withdrawLate withdraws what others have added while what it depends on was swapped. Whoever
// comes still later sees that himself.
func (a *adding) withdrawLate(ctx context.Context) error {
	if len(a.swapped) == 0 {
		return nil
	}
	unlock, err := a.cache.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	there, err := a.cache.dependentRealisations()
	if err != nil {
		return err
	}
	return a.withdraw(there, a.swapped)
}

// dependentRealisations returns those realisations that depend on others, by their files.
func (c *Cache) dependentRealisations() (map[string]*Realisation, error) {
	files, err := c.realisationFiles()
	if err != nil {
		return nil, err
	}
	there := make(map[string]*Realisation)
	for _, file := range files {
		r, err := c.Realisation(file)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrDamaged): // it promises nothing
		case err != nil:
			return nil, err
		case len(r.Dependent) > 0:
			there[file] = r
		}
	}
	return there, nil
}

// withdraw removes those realisations that depend on one of some others, by their IDs, as
// another store path than it is to be, and all that depend on them, before them. The cache's
// lock is held.
func (a *adding) withdraw(there map[string]*Realisation, outPaths map[string]string) error {
	on := make(map[string][]string) // what depends on it, by ID: files
	var todo []string
	for file, r := range there {
		for id, is := range r.Dependent {
			on[id] = append(on[id], file)
			if is2, ok := outPaths[id]; ok && is2 != is && id != r.ID() {
				todo = append(todo, file)
			}
		}
	}
	if len(todo) == 0 {
		return nil
	}
	var visit func(file string) error
	visit = func(file string) error {
		r := there[file]
		if r == nil {
			return nil // it is gone
		}
		delete(there, file)
		for _, other := range on[r.ID()] {
			if err := visit(other); err != nil {
				return err
			}
		}
		if err := ignoreNotExist(a.cache.root.Remove(file)); err != nil {
			return fmt.Errorf("withdraw realisation: %w", err)
		}
		a.withdrawn[file] = r
		delete(a.outPaths, file)
		return nil
	}
	slices.Sort(todo)
	for _, file := range todo {
		if err := visit(file); err != nil {
			return err
		}
	}
	return a.cache.SyncDir(realisationsDir)
}

// comeAgain prepares a realisation that was there, and was withdrawn. Others may have signed
// it.
func (a *adding) comeAgain(e *addition) error {
	was := a.withdrawn[e.file]
	if was == nil || e.temp != nil {
		return nil
	}
	if was.OutPath == e.OutPath && maps.Equal(was.Dependent, e.Dependent) {
		e.sigs = slices.Concat(e.sigs, was.Sigs)
	}
	return a.write(e)
}

// lookAgain takes back what depends on a realisation that somebody has swapped while it was
// added.
func (a *adding) lookAgain(ctx context.Context, published []*addition) error {
	for _, e := range published {
		if len(e.Dependent) == 0 {
			continue
		}
		fits, err := a.fits(e)
		if err != nil {
			return err
		}
		if !fits {
			if err := a.takeBack(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// fits tells whether what a realisation depends on is in the cache, as it says.
func (a *adding) fits(e *addition) (bool, error) {
	for id := range e.Dependent {
		delete(a.outPaths, fileOf(id)) // it may have changed
	}
	return a.isPromised(e)
}

func (a *adding) takeBack(ctx context.Context, e *addition) error {
	unlock, err := a.cache.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	have, err := a.cache.Realisation(e.file)
	if err != nil || !maps.Equal(have.Dependent, e.Dependent) {
		return nil // (ignored) it is another one by now
	}
	if fits, err := a.fits(e); fits || err != nil {
		return err
	}
	a.result.Added--
	a.result.Kept = append(a.result.Kept, e.Realisation)
	delete(a.outPaths, e.file)
	return ignoreNotExist(a.cache.root.Remove(e.file))
}

// WithdrawRealisation removes a realisation that is of no use, if it still is so, and all that
// depend on it, before it, under the cache's lock. It returns which: none if it did not.
func (c *Cache) WithdrawRealisation(ctx context.Context, file string, useless func() (bool, error)) (gone []*Realisation, withdrawn bool, err error) {
	a := newAdding(c, nil)
	withdrawn, err = c.RemoveExtra(ctx, file, func() (bool, error) {
		bad, err := useless()
		if !bad || err != nil {
			return false, err
		}
		there, err := c.dependentRealisations()
		if err != nil {
			return false, err
		}
		delete(there, file)
		id, isFirst := strings.CutPrefix(strings.TrimSuffix(file, ".doi"), realisationsDir+"/")
		if !isFirst {
			return true, nil
		}
		return true, a.withdraw(there, map[string]string{id: ""}) // it is to be nothing
	})
	for _, file := range slices.Sorted(maps.Keys(a.withdrawn)) {
		gone = append(gone, a.withdrawn[file])
	}
	return gone, withdrawn, err
}
