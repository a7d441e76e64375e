package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
)

// A conflict is a path of which the store has other contents than the cache, or other
// references.
type conflict struct {
	Path  string   `json:"path"`
	Cache contents `json:"cache"`
	Store contents `json:"store"`
}

// contents are what somebody has of a path.
type contents struct {
	NarHash    string   `json:"nar_hash"`
	NarSize    int64    `json:"nar_size"`
	References []string `json:"references"`
	Signatures []string `json:"signatures"` // names of keys
}

// findConflicts yields the conflicts among some entries.
func findConflicts(ctx context.Context, store *nixstore.Store, entries []*bincache.NarInfo) iter.Seq2[*conflict, error] {
	return func(yield func(*conflict, error) bool) {
		paths := make([]string, len(entries))
		for i, n := range entries {
			paths[i] = n.StorePath
		}
		infos, err := store.Infos(ctx, paths)
		if err != nil {
			yield(nil, err)
			return
		}
		for i, info := range infos {
			if info == nil || cachewriter.SameContents(entries[i], info) {
				continue
			}
			if !yield(newConflict(entries[i], info), nil) {
				return
			}
		}
	}
}

func newConflict(n *bincache.NarInfo, info *nixstore.Info) *conflict {
	refs := make([]string, len(n.References))
	for i, ref := range n.References {
		refs[i] = filepath.Join(filepath.Dir(info.Path), ref)
	}
	slices.Sort(refs)
	return &conflict{
		Path:  info.Path,
		Cache: contents{n.NarHash.String(), n.NarSize, refs, bincache.Signers(n.Sigs)},
		Store: contents{bincache.Hash(info.NarHash).String(), info.NarSize, append([]string{}, info.References...), bincache.Signers(info.Sigs)},
	}
}

// conflictsAmong yields the conflicts among some paths.
func conflictsAmong(ctx context.Context, store *nixstore.Store, cache *bincache.Cache, paths []string) iter.Seq2[*conflict, error] {
	return func(yield func(*conflict, error) bool) {
		for some := range slices.Chunk(paths, lookAtOnce) {
			var entries []*bincache.NarInfo
			for _, f := range cache.Find(ctx, some) {
				if f.Err == nil { // what is not there, or damaged, others tell of
					entries = append(entries, f.Entry)
				}
			}
			for conflict, err := range findConflicts(ctx, store, entries) {
				if !yield(conflict, err) || err != nil {
					return
				}
			}
		}
	}
}

// conflicts prints the paths of which the store has other contents.
func (l *lister) conflicts(c *cli.Context, store *nixstore.Store) error {
	var all []*conflict
	var some []*bincache.NarInfo
	look := func() error {
		for conflict, err := range findConflicts(c.Context, store, some) {
			if err != nil {
				return err
			}
			all = append(all, conflict)
		}
		some = some[:0]
		return nil
	}
	for n := range l.usable(c.Context) {
		if some = append(some, n); len(some) < lookAtOnce {
			continue
		}
		if err := look(); err != nil {
			return err
		}
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if err := look(); err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b *conflict) int { return byName(a.Path, b.Path) })
	return l.printConflicts(c, all)
}

func (l *lister) printConflicts(c *cli.Context, all []*conflict) error {
	switch {
	case c.Bool("json"):
		encoder := json.NewEncoder(l.out)
		encoder.SetEscapeHTML(false)
		for _, conflict := range all {
			if err := encoder.Encode(conflict); err != nil {
				return err
			}
		}
	case c.Bool("long"):
		table := tabwriter.NewWriter(l.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "PATH\tIN THE CACHE\tIN THE STORE")
		for _, conflict := range all {
			fmt.Fprintf(table, "%s\t%s\t%s\n", conflict.Path, conflict.Cache.brief(), conflict.Store.brief())
		}
		return table.Flush()
	default:
		for _, conflict := range all {
			fmt.Fprintln(l.out, conflict.Path)
		}
	}
	return nil
}

// brief says what tells contents apart, for people.
func (c *contents) brief() string {
	text := fmt.Sprintf("%s, %s", c.NarHash, ibytes(c.NarSize))
	if len(c.Signatures) > 0 {
		text += printable(", signed by " + strings.Join(c.Signatures, " "))
	}
	return text
}
