package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

// A view is the store, the cache, and what the rules say of them.
type view struct {
	store *nixstore.Store
	cache *bincache.Cache
	rules rules.Rules
	bases []*bincache.Cache
	keys  []signature.SecretKey // with which entries are to be signed

	extras cachewriter.Extras // without which an entry does not count as present
}

// openView opens what a command only looks at.
func openView(c *cli.Context, s queue.Settings) (*view, error) {
	return newView(s, func(store *nixstore.Store) (*bincache.Cache, error) { return openReadOnly(c, s, store.Dirs().Store) })
}

// openReadOnly opens the cache of the command line or of the queue's settings. An
// empty storeDir stands for the one that the cache itself names.
func openReadOnly(c *cli.Context, s queue.Settings, storeDir string) (*bincache.Cache, error) {
	url, err := cacheURL(c, s)
	if err != nil {
		return nil, err
	}
	dir, err := parseCache(url)
	if err != nil {
		return nil, err
	}
	cache, err := bincache.OpenReadOnly(dir, storeDir)
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, hintNoCache(dir))
	}
	return cache, orHint(err, hintCache)
}

// openJobView is openView for those who look what there is to do, be it only to sign.
func openJobView(c *cli.Context, s queue.Settings) (*view, error) {
	keys, err := signingKeys(c, s)
	if err != nil {
		return nil, err
	}
	v, err := openView(c, s)
	if err == nil {
		v.keys = keys
	}
	return v, err
}

func newView(s queue.Settings, openCache func(*nixstore.Store) (*bincache.Cache, error)) (_ *view, err error) {
	v := &view{}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.rules, err = rules.Parse(s.Rules); err != nil {
		return nil, err
	}
	if v.store, err = openStore(); err != nil {
		return nil, err
	}
	for _, url := range v.rules.Bases {
		base, err := openBase(url, v.store.Dirs().Store)
		if err != nil {
			return nil, err
		}
		v.bases = append(v.bases, base)
	}
	v.cache, err = openCache(v.store)
	return v, err
}

// openBase opens a cache that is only read.
func openBase(url, storeDir string) (*bincache.Cache, error) {
	dir, err := parseCache(url)
	if err != nil {
		return nil, err
	}
	base, err := bincache.OpenReadOnly(dir, storeDir)
	if err != nil {
		return nil, withHint(fmt.Errorf("open base %s: %w", url, err), "is its disk mounted? larder init --base sets other ones, and --base '' none")
	}
	return base, nil
}

func (v *view) close() {
	for _, base := range v.bases {
		base.Close()
	}
	if v.cache != nil {
		v.cache.Close()
	}
	if v.store != nil {
		v.store.Close()
	}
}

// caches returns the cache and its bases.
func (v *view) caches() []*bincache.Cache { return append([]*bincache.Cache{v.cache}, v.bases...) }

// identity names what was opened.
func (v *view) identity() string {
	var names []string
	for _, cache := range v.caches() {
		names = append(names, "cache "+cache.Identity())
	}
	return strings.Join(names, ", ")
}

// replaced returns the directory of a cache that is gone, or another one than was
// opened, or "".
func (v *view) replaced() string {
	for _, cache := range v.caches() {
		if cache.Replaced() {
			return cache.Path()
		}
	}
	return ""
}

// present tells which of some paths need not come into the cache, as far as that can be
// found out.
func (v *view) present(ctx context.Context, paths []string) []bool {
	present := make([]bool, 0, len(paths))
	for some := range slices.Chunk(paths, lookAtOnce) { // a cache's answers are larger than a path
		present = append(present, v.presentOf(ctx, some)...)
	}
	return present
}

const lookAtOnce = 256

func (v *view) presentOf(ctx context.Context, paths []string) []bool {
	present := make([]bool, len(paths))
	var signing errgroup.Group // to see whether a signature is there takes a processor
	signing.SetLimit(runtime.NumCPU())
	var missing []string
	var of []int // where in paths they are
	for i, f := range v.cache.Find(ctx, paths) {
		switch {
		case f.Err != nil:
			missing, of = append(missing, paths[i]), append(of, i)
		case len(v.keys) == 0:
			present[i] = !v.lacking(f)
		default:
			signing.Go(func() error {
				present[i] = !v.unsigned(f.Entry) && !v.lacking(f)
				return nil
			})
		}
	}
	_ = signing.Wait() // (ignored) it has none
	for _, base := range v.bases {
		for n, f := range base.Find(ctx, missing) {
			present[of[n]] = present[of[n]] || f.Err == nil
		}
	}
	return present
}

// unsigned tells whether an entry lacks a signature that we would add.
func (v *view) unsigned(have *bincache.NarInfo) bool {
	if signed, err := have.SignedBy(v.keys); signed || err != nil {
		return false
	}
	return v.sameInStore(have)
}

// sameInStore tells whether the store has the contents of an entry.
func (v *view) sameInStore(have *bincache.NarInfo) bool {
	info, err := v.store.Info(context.Background(), have.StorePath)
	return err == nil && cachewriter.SameContents(have, info)
}

// base returns the base that has a path, or nil.
func (v *view) base(path string) (*bincache.Cache, error) {
	for _, base := range v.bases {
		_, err := base.Entry(path)
		if err == nil {
			return base, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bincache.ErrDamaged) {
			return nil, fmt.Errorf("look into base %s: %w", base.Path(), err)
		}
		if base.Replaced() {
			return nil, fmt.Errorf("look into base %s: it is gone, or another one", base.Path())
		}
	}
	return nil, nil
}

// elsewhere tells whether an upstream or a base has a path.
func (v *view) elsewhere(_ context.Context, info *nixstore.Info) (bool, error) {
	if v.rules.Upstream(info.Sigs) != "" {
		return true, nil
	}
	base, err := v.base(info.Path)
	return base != nil, err
}

// upstreamHas tells whether a path in the store is signed by an upstream.
func (v *view) upstreamHas(ctx context.Context, path string) bool {
	reg, err := v.store.Registration(ctx, path)
	if errors.Is(err, nixstore.ErrNotValid) {
		return len(v.rules.SkipSignedBy) > 0 // nobody knows any more
	}
	return err == nil && v.rules.Upstream(reg.Sigs) != ""
}

func (v *view) cut(info *nixstore.Info) string { return v.rules.Cut(info.Path, info.NarSize) }

// A target is where a command copies to.
type target struct {
	*view
	writer *cachewriter.Writer
	tell   func(runner.Event)
	log    *slog.Logger
	forgot time.Time // when the writer last did
}

// forgetEvery is how long it is remembered what is in the cache.
const forgetEvery = time.Minute

// forget makes the writer look at the cache again, every now and then: it is for the
// rounds of a worker.
func (t *target) forget() {
	if time.Since(t.forgot) > forgetEvery {
		t.writer.Forget()
		_ = cachegc.Heal(context.Background(), t.cache) // (ignored) what is wrong with the cache, the next job says
		t.forgot = time.Now()
	}
}

// targetOptions say how openTarget's writer works.
type targetOptions struct {
	background bool
	wanted     []string                          // paths without which there is nothing to do, and no cache to be made
	tell       func(runner.Event)                // hears what happens; nil means that nobody wants to
	replace    bool                              // entries with other contents
	rewrite    func(have *bincache.NarInfo) bool // entries that are damaged although they look whole; may be nil
	log        *slog.Logger
}

// openTarget opens the store, the cache, and a writer between them.
func openTarget(c *cli.Context, s queue.Settings, o targetOptions) (*target, error) {
	if o.tell == nil {
		o.tell = func(runner.Event) {}
	}
	url, err := cacheURL(c, s)
	if err != nil {
		return nil, err
	}
	given, err := givenCompression(c, s)
	if err != nil {
		return nil, err
	}
	if err := checkCompression(given); err != nil {
		return nil, err // before a cache is made for nothing
	}
	keys, err := signingKeys(c, s)
	if err != nil {
		return nil, err
	}
	if err := checkWorkers(c); err != nil {
		return nil, err
	}
	bounds, err := givenBounds(c, s)
	if err != nil {
		return nil, err
	}
	v, err := newView(s, func(store *nixstore.Store) (*bincache.Cache, error) {
		if err := store.Check(c.Context, o.wanted); err != nil {
			return nil, err
		}
		return openCache(url, makeNamed(c, given), store.Dirs().Store)
	})
	if err != nil {
		return nil, err
	}
	v.keys = keys
	compression, err := chooseCompression(given, v.cache, o.log)
	if err != nil {
		v.close()
		return nil, err
	}
	if err := lookAfter(c.Context, v.cache); err != nil {
		v.close()
		return nil, err
	}
	v.cache.Reserve(bounds.MinFree)
	caseHack, _ := useCaseHack(os.Getenv) // (ignored) what can't be read, Nix does without as well
	t := &target{view: v, tell: o.tell, log: o.log, forgot: time.Now()}
	t.writer = cachewriter.New(cachewriter.Options{
		Cache:       v.cache,
		Store:       v.store,
		Compression: compression,
		Keys:        keys,
		Extras:      extrasOf(c, s),
		Workers:     c.Int("workers"),
		Background:  o.background,
		Elsewhere:   v.elsewhere,
		Cut:         v.cut,
		CaseHack:    caseHack,
		Published:   t.added,
		Kept:        t.kept,
		Replace:     o.replace,
		Rewrite:     o.rewrite,
		Log:         o.log,
	})
	return t, nil
}

func (t *target) close() {
	t.writer.Close()
	t.view.close()
}

// added tells of an entry that was written.
func (t *target) added(n *bincache.NarInfo) {
	t.tell(runner.Event{Kind: runner.Added, Path: n.StorePath, NarBytes: n.NarSize, FileBytes: n.FileSize})
}

// kept tells of an entry that was kept although the store has other contents.
func (t *target) kept(have, n *bincache.NarInfo) {
	t.tell(runner.Event{Kind: runner.Kept, Path: n.StorePath, CacheNarHash: have.NarHash.String(), StoreNarHash: n.NarHash.String()})
}

// progress tells how far the writer is.
func (t *target) progress() progress {
	p := t.writer.Progress()
	return progress{done: p.Done, total: p.Paths, read: p.Read, bytes: p.NarBytes, current: p.Current}
}
