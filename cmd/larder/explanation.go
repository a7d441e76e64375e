package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/drvdiff"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

// An explanation is all that is known of a store path and the cache.
type explanation struct {
	Path    string `json:"path"`
	State   string `json:"state"`   // for machines: one word of states below
	Verdict string `json:"verdict"` // for people

	Store *storeFacts `json:"store"` // null if it is not in the store

	Rule     string `json:"rule,omitempty"`     // why it is not queued by itself
	Cut      []cut  `json:"cut,omitempty"`      // what keeps it out: itself, or something in its closure
	Upstream string `json:"upstream,omitempty"` // the key that has signed it
	Base     string `json:"base,omitempty"`     // the cache that has it

	Job    *queue.Row `json:"job"` // null if it has none
	Rooted bool       `json:"rooted"`

	Entry             *entryFacts `json:"entry"`                        // null if it has none
	Damaged           string      `json:"damaged,omitempty"`            // what is wrong with its entry
	MissingReferences []string    `json:"missing_references,omitempty"` // of the entry, themselves not in the cache
	Missing           []string    `json:"missing,omitempty"`            // of its closure in the store

	SameName     []other `json:"same_name,omitempty"`      // some entries, if it has none
	SameNameMore int     `json:"same_name_more,omitempty"` // how many there are besides those
}

// storeFacts are what Nix's database says.
type storeFacts struct {
	Class     rules.Class `json:"class"`
	NarSize   int64       `json:"nar_size"`
	Deriver   string      `json:"deriver,omitempty"`
	Closure   int         `json:"closure"`    // paths in it
	LookedAt  bool        `json:"looked_at"`  // by the watcher
	WasBefore bool        `json:"was_before"` // it was there before the queue
}

type entryFacts struct {
	URL         string `json:"url"`
	Compression string `json:"compression"`
	FileSize    int64  `json:"file_size"`
	OtherBuild  bool   `json:"other_build"` // its contents are not those of the path in the store
}

// A cut is a path that stays out.
type cut struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// An other is an entry with the same name and another hash.
type other struct {
	Path       string `json:"path"`
	Difference string `json:"difference,omitempty"` // between the derivations, if both are in the store
}

// explainPath finds out all about a path.
func explainPath(ctx context.Context, q *queue.Queue, v *view, mode, path string) (*explanation, error) {
	e := &explanation{Path: path}
	cursor, err := q.Cursor(ctx)
	if err != nil {
		return nil, err
	}
	if e.Job, err = q.Find(ctx, path); err != nil {
		return nil, err
	}
	if e.Rooted, err = isRooted(q, path); err != nil {
		return nil, err
	}
	if err := e.lookInStore(ctx, v, cursor); err != nil {
		return nil, err
	}
	if err := e.lookInCache(ctx, v); err != nil {
		return nil, err
	}
	e.State, e.Verdict = e.judge(mode)
	return e, nil
}

func isRooted(q *queue.Queue, path string) (bool, error) {
	names, err := rootsOf(q).List()
	return slices.Contains(names, filepath.Base(path)), err
}

func (e *explanation) lookInStore(ctx context.Context, v *view, cursor *queue.Cursor) error {
	reg, err := v.store.Registration(ctx, e.Path)
	if errors.Is(err, nixstore.ErrNotValid) {
		return nil
	}
	if err != nil {
		return err
	}
	hooked := e.Job != nil && e.Job.Drv != ""
	e.Store = &storeFacts{
		Class:     rules.ClassOf(reg, hooked),
		NarSize:   reg.NarSize,
		Deriver:   reg.Deriver,
		LookedAt:  cursor != nil && reg.ID <= cursor.Last,
		WasBefore: cursor != nil && reg.ID <= cursor.Start,
	}
	e.Rule = v.rules.Unwanted(reg, hooked)
	e.Upstream = v.rules.Upstream(reg.Sigs)
	closure, err := v.store.Closure(ctx, []string{e.Path}, func(int64) bool { return false })
	if err != nil {
		return err
	}
	e.Store.Closure = len(closure)
	infos, err := v.store.NodeInfos(ctx, closure)
	if err != nil {
		return err
	}
	if slices.Contains(infos, nil) {
		return fmt.Errorf("read closure of %s: %w", e.Path, nixstore.ErrNotValid) // it has been collected
	}
	paths := make([]string, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
	}
	present := v.present(ctx, paths)
	for i, info := range infos {
		if present[i] || v.rules.Upstream(info.Sigs) != "" {
			continue
		}
		e.Missing = append(e.Missing, info.Path)
		if reason := v.cut(info); reason != "" {
			e.Cut = append(e.Cut, cut{info.Path, reason})
		}
	}
	return nil
}

func (e *explanation) lookInCache(ctx context.Context, v *view) error {
	entry, err := v.cache.Entry(e.Path)
	switch {
	case errors.Is(err, bincache.ErrDamaged):
		e.Damaged = err.Error()
	case err == nil:
		e.Entry = &entryFacts{URL: entry.URL, Compression: entry.Compression, FileSize: entry.FileSize}
		refs := make([]string, len(entry.References))
		for i, ref := range entry.References {
			refs[i] = filepath.Join(v.store.Dirs().Store, ref)
		}
		present := v.present(ctx, refs)
		for i, ref := range refs {
			if !present[i] && !v.upstreamHas(ctx, ref) {
				e.MissingReferences = append(e.MissingReferences, ref)
			}
		}
		info, err := v.store.Info(ctx, e.Path)
		e.Entry.OtherBuild = err == nil && !cachewriter.SameContents(entry, info)
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return orHint(err, hintCache)
	}
	base, err := v.base(e.Path)
	if err != nil {
		return err
	}
	if base != nil {
		e.Base = bincache.URL(base.Path())
		return nil
	}
	return e.lookForName(ctx, v)
}

// lookForName finds entries that would have been this path, had some input been
// another one.
func (e *explanation) lookForName(ctx context.Context, v *view) error {
	paths, err := v.cache.Named(ctx, nixstore.Name(e.Path))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	drvs, err := v.store.Derivers(ctx, e.Path)
	if err != nil {
		return err
	}
	if e.Store != nil && e.Store.Deriver != "" {
		drvs = append(drvs, e.Store.Deriver)
	}
	for i, path := range paths {
		if len(e.SameName) == maxListed {
			e.SameNameMore = len(paths) - i
			break
		}
		if path == e.Path {
			continue // its damaged entry
		}
		entry, err := v.cache.Entry(path)
		if err != nil {
			continue // (ignored) no help to anybody
		}
		o := other{Path: path}
		if entry.Deriver != "" {
			o.Difference = difference(v.store.Dirs().Store, drvs, filepath.Join(v.store.Dirs().Store, entry.Deriver))
		}
		e.SameName = append(e.SameName, o)
	}
	return nil
}

// difference tells in what the first of some derivations that is in the store differs
// from another one, or "" if it is not to be found out.
func difference(storeDir string, drvs []string, other string) string {
	for _, drv := range drvs {
		d, err := drvdiff.Find(storeDir, drv, other)
		if err != nil {
			continue // (ignored) not in the store, or not to be read
		}
		if d == nil {
			return "the derivations are the same"
		}
		return describeDifference(d)
	}
	return ""
}

func describeDifference(d *drvdiff.Difference) string {
	return fmt.Sprintf("%s of %s differs:\nhere  %s\nthere %s", printable(d.What), nixstore.Name(d.Drvs[0]), printable(d.Values[0]), printable(d.Values[1]))
}

// printable returns a text from a derivation as a terminal can show it.
func printable(text string) string {
	if text == "" {
		return "(none)"
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return strconv.Quote(text)
	}
	return text
}

// judge says in a word, and in a sentence, how it stands.
func (e *explanation) judge(mode string) (state, verdict string) {
	switch {
	case e.Entry != nil && len(e.MissingReferences) > 0:
		return "broken", "in the cache, but something that it refers to is not: larder push mends it"
	case e.Entry != nil:
		return "cached", "in the cache"
	case e.Base != "":
		return "base", "left to a base, which has it"
	case e.Upstream != "":
		return "upstream", "left to an upstream, which has signed it"
	case e.Job != nil && e.Job.State != queue.Dead && (e.Rule != "" || len(e.Cut) > 0):
		return "queued", "queued, but it will be left out when its turn comes"
	case e.Job != nil:
		return string(e.Job.State), states[e.Job.State]
	case e.Store == nil:
		return "unknown", "neither in the store nor in the cache"
	case e.Rule != "":
		return "left out", "not queued by itself: a rule leaves it out; it may come with what refers to it"
	case len(e.Cut) > 0:
		return "left out", "left out, since its closure could not be complete"
	case e.Rooted:
		return "queued", "it has a root: it will be queued"
	case e.Store.WasBefore:
		return "before", "was in the store before the queue: larder sync queues it"
	case mode == hookOnly:
		return "missing", "not in the cache: its hook did not tell, and with --hook-only nobody else does; larder sync queues it"
	case !e.Store.LookedAt:
		return "unseen", "not looked at yet: larder daemon or larder drain will queue it"
	}
	return "missing", "not in the cache, though it was queued once; larder sync queues it again"
}
