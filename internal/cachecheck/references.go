package cachecheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/nix-larder/larder/internal/bincache"
)

// missing returns those of some store paths that neither the cache nor one of its bases has.
// What the cache has damaged is named, and not among them.
func (k *check) missing(ctx context.Context, storePaths []string) ([]string, error) {
	var missing []string
	for i, f := range k.Cache.Find(ctx, storePaths) { // it may have come meanwhile
		p := storePaths[i]
		switch hash := bincache.HashPart(p); {
		case f.Err == nil || k.damaged[hash]:
		case errors.Is(f.Err, fs.ErrNotExist), damaged(f.Err): // by another name, too: one of both is wrong
			missing = append(missing, p)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			k.cantRead(hash+".narinfo", Problem{Path: p, hash: hash}, f.Err)
		}
	}
	return NotInBases(ctx, k.Bases, missing)
}

// NotInBases returns those of some store paths that no base has. That one can't be looked
// at is an error: then nobody knows.
func NotInBases(ctx context.Context, bases []*bincache.Cache, storePaths []string) ([]string, error) {
	for _, base := range bases {
		var left []string
		for i, f := range base.Find(ctx, storePaths) {
			if f.Err != nil && !errors.Is(f.Err, fs.ErrNotExist) && !damaged(f.Err) {
				return nil, fmt.Errorf("look into base %s: %w", base.Path(), f.Err)
			}
			if f.Err != nil {
				left = append(left, storePaths[i])
			}
		}
		if base.Replaced() {
			return nil, fmt.Errorf("look into base %s: it is gone, or another one", base.Path())
		}
		storePaths = left
	}
	return storePaths, nil
}

// references looks whether what entries refer to is there.
func (k *check) references(ctx context.Context) error {
	var unknown []string // store paths
	for id := range int32(k.graph.Len()) {
		name := k.graph.Name(id)
		if !k.graph.Has(id) && !k.damaged[bincache.HashPart(name)] {
			unknown = append(unknown, k.Cache.StoreDir()+"/"+name)
		}
	}
	missing, err := k.missing(ctx, unknown)
	if err != nil {
		return err
	}
	if k.Upstream {
		k.report.Left += len(missing)
		return nil
	}
	if len(missing) == 0 {
		return nil
	}
	absent := make(map[string]bool, len(missing))
	for _, p := range missing {
		absent[path.Base(p)] = true
	}
	for id := range int32(k.graph.Len()) {
		if !k.graph.Has(id) {
			continue
		}
		var lacks []string
		for _, ref := range k.graph.References(id) {
			if name := k.graph.Name(ref); absent[name] {
				lacks = append(lacks, k.Cache.StoreDir()+"/"+name)
			}
		}
		if len(lacks) == 0 {
			continue
		}
		hash := bincache.HashPart(k.graph.Name(id))
		n, _, err := k.Cache.Read(hash)
		if err != nil || !slices.Contains(n.References, path.Base(lacks[0])) {
			continue // removed or changed meanwhile, or named already
		}
		k.found(Problem{
			Kind: Reference, File: hash + ".narinfo", Path: n.StorePath, hash: hash, entry: n, missing: lacks,
			Err: fmt.Errorf("it refers to %s, which the cache has not", strings.Join(lacks, ", ")),
		})
	}
	return ctx.Err()
}
