// Package cachecheck finds what is wrong in a binary cache, and mends it.
//
// A quick check looks at everything but what is in NARs: that every narinfo can be read,
// and is the one of its path; that its NAR is there, and has the right size; that what it
// refers to is there; that it is signed. Contents are read only if that is asked for:
// then hashes of files and of NARs have to be those of the narinfos.
//
// What is damaged is written anew from the local store, if Nix has it with the same hash.
// Else its entry is withdrawn, with all that need it, so that clients build instead of
// failing. Nothing goes without being named.
package cachecheck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/internal/bincache"
)

// A Kind says what is wrong.
type Kind string

const (
	NarInfo   Kind = "narinfo"   // it can't be read, or is for another path
	Nar       Kind = "nar"       // it is not there, or has another size
	Contents  Kind = "contents"  // the NAR has another hash
	Reference Kind = "reference" // what an entry needs is not there
	Signature Kind = "signature" // nobody of those who are trusted has signed the entry
	Record    Kind = "record"    // of a run: it can't be read
	Pin       Kind = "pin"       // it can't be read, or keeps what is not there
	StoreDir  Kind = "store"     // the entries are for another store than the cache says
)

// A Problem is something that is wrong.
type Problem struct {
	Kind Kind
	File string // below the cache
	Path string // store path of the entry, or what a pin keeps; "" if it is unknown
	Err  error  // what is wrong

	hash    string        // first part of the entry's store path
	narHash bincache.Hash // that the entry should have, if that is known
	url     string        // of the NAR
	missing []string      // references
}

// A Checker checks a cache.
type Checker struct {
	// Cache is what is checked. It must not be nil.
	Cache *bincache.Cache

	// Bases are caches that readers use as well: what one of them has need not be in
	// this one.
	Bases []*bincache.Cache

	// Upstream says that readers have what is missing from somewhere else.
	Upstream bool

	// Keys are those that readers trust. Without any, signatures are not looked at.
	Keys []signature.PublicKey

	// Contents has NARs read.
	Contents bool

	// Share chooses which NARs are read. Nil means all.
	Share func(url string) bool

	mu       sync.Mutex
	progress Progress
}

// Progress is how far a check is.
type Progress struct {
	Done, Total int // entries, and then NARs
	Read, Bytes int64
}

// A Report is what a check found.
type Report struct {
	Entries  int       // narinfos
	Nars     int       // that were read
	Bytes    int64     // of those, in the cache
	Left     int       // references that are missing, and left to an upstream
	Problems []Problem // sorted by file
}

// Check checks.
func (c *Checker) Check(ctx context.Context) (*Report, error) {
	k := &check{Checker: c, graph: bincache.NewGraph(), nars: make(map[string][]string), damaged: make(map[string]bool)}
	hashes, err := c.Cache.Hashes()
	if err != nil {
		return nil, err
	}
	k.report.Entries = len(hashes)
	c.total(len(hashes), 0)
	if err := each(ctx, readers, hashes, k.entry); err != nil {
		return nil, err
	}
	if p, ok := k.otherStore(); ok {
		k.report.Problems = []Problem{p} // all others follow from it
		return &k.report, nil
	}
	if err := k.references(ctx); err != nil {
		return nil, err
	}
	if c.Contents {
		if err := k.contents(ctx); err != nil {
			return nil, err
		}
	}
	if err := k.notes(); err != nil {
		return nil, err
	}
	slices.SortFunc(k.report.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Path, b.Path))
	})
	return &k.report, nil
}

// Progress returns how far Check is.
func (c *Checker) Progress() Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.progress
}

func (c *Checker) total(files int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress = Progress{Total: files, Bytes: bytes}
}

func (c *Checker) did(files int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Done += files
	c.progress.Read += bytes
}

// readers is how many files are read at a time that are small.
const readers = 16

// each does something to each of a list, several at a time.
func each[T any](ctx context.Context, workers int, list []T, do func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(workers, len(list)) {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := do(ctx, list[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// A check is one call of Check. The Checker's mutex guards it.
type check struct {
	*Checker
	report  Report
	graph   *bincache.Graph
	nars    map[string][]string // hashes of the entries that name it, by URL
	bytes   int64               // of NARs that are to be read
	damaged map[string]bool     // hashes of entries that have been named already
	others  map[string]int      // entries for other stores, by store directory
}

func (k *check) found(p Problem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.hash != "" {
		k.damaged[p.hash] = true
	}
	k.report.Problems = append(k.report.Problems, p)
}

// entry looks at a narinfo, and at the file that it names.
func (k *check) entry(_ context.Context, hash string) error {
	defer k.did(1, 0)
	n, _, err := k.Cache.Read(hash)
	file := hash + ".narinfo"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // removed meanwhile
	case err != nil && n == nil:
		k.noteStore(file)
		k.found(Problem{Kind: NarInfo, File: file, Err: err, hash: hash})
		return nil
	}
	k.mu.Lock()
	k.graph.Add(path.Base(n.StorePath), n.References)
	k.mu.Unlock()
	p := Problem{File: file, Path: n.StorePath, hash: hash, narHash: n.NarHash, url: n.URL}
	if err != nil {
		p.Kind, p.Err = Nar, err
		k.found(p)
		return nil
	}
	if len(k.Keys) > 0 {
		if s := n.SignatureState(k.Keys); s == bincache.Invalid || s == bincache.Unsigned {
			p.Kind, p.Err = Signature, fmt.Errorf("signature is %s by the keys that are trusted", s)
			k.found(p)
		}
	}
	if k.Contents && (k.Share == nil || k.Share(n.URL)) {
		k.mu.Lock()
		if k.nars[n.URL] == nil {
			k.bytes += n.FileSize
		}
		k.nars[n.URL] = append(k.nars[n.URL], hash)
		k.mu.Unlock()
	}
	return nil
}

// noteStore notes for which store a narinfo is that is not for the cache's.
func (k *check) noteStore(file string) {
	n, err := k.Cache.ParseFile(file)
	if err != nil {
		return
	}
	if dir := path.Dir(n.StorePath); dir != k.Cache.StoreDir() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.others == nil {
			k.others = make(map[string]int)
		}
		k.others[dir]++
	}
}

// otherStore tells whether not a single entry is for the store that the cache names, but
// all for another one: then not they are wrong.
func (k *check) otherStore() (Problem, bool) {
	if k.graph.Len() > 0 || len(k.others) != 1 {
		return Problem{}, false
	}
	for dir, count := range k.others {
		err := fmt.Errorf("it says that the store is %s, and all %d entries that can be read are for %s", k.Cache.StoreDir(), count, dir)
		return Problem{Kind: StoreDir, File: "nix-cache-info", Err: err}, true
	}
	return Problem{}, false
}

// references looks whether what entries refer to is there.
func (k *check) references(ctx context.Context) error {
	var missing []string // store paths
	for id := range int32(k.graph.Len()) {
		name := k.graph.Name(id)
		if !k.graph.Has(id) && !k.damaged[bincache.HashPart(name)] {
			missing = append(missing, k.Cache.StoreDir()+"/"+name)
		}
	}
	absent := make(map[string]bool, len(missing))
	for _, p := range missing {
		absent[path.Base(p)] = true
	}
	for _, base := range k.Bases {
		for i, f := range base.Find(ctx, missing) {
			if f.Err == nil {
				delete(absent, path.Base(missing[i]))
			}
		}
	}
	if k.Upstream {
		k.report.Left = len(absent)
		return ctx.Err()
	}
	if len(absent) == 0 {
		return ctx.Err()
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
		storePath := k.Cache.StoreDir() + "/" + k.graph.Name(id)
		hash := bincache.HashPart(storePath)
		if _, err := k.Cache.Entry(storePath); errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		k.found(Problem{
			Kind: Reference, File: hash + ".narinfo", Path: storePath, hash: hash, missing: lacks,
			Err: fmt.Errorf("it refers to %s, which the cache has not", strings.Join(lacks, ", ")),
		})
	}
	return ctx.Err()
}

// contents reads NARs.
func (k *check) contents(ctx context.Context) error {
	urls := make([]string, 0, len(k.nars))
	for url := range k.nars {
		urls = append(urls, url)
	}
	slices.Sort(urls)
	k.total(len(urls), k.bytes)
	return each(ctx, runtime.GOMAXPROCS(0), urls, k.nar)
}

// notes looks at what is kept about entries.
func (k *check) notes() error {
	for _, err := range k.Cache.Runs() {
		var damaged *bincache.RecordError
		if errors.As(err, &damaged) {
			k.found(Problem{Kind: Record, File: damaged.File, Err: damaged.Err})
		} else if err != nil {
			return err
		}
	}
	pins, err := k.Cache.Pins()
	if err != nil {
		k.found(Problem{Kind: Pin, File: ".larder/pins", Err: err})
		return nil
	}
	for _, pin := range pins {
		for _, p := range pin.Paths() {
			if _, ok := k.graph.Find(p); !ok && !k.damaged[bincache.HashPart(p)] {
				k.found(Problem{Kind: Pin, File: ".larder/pins/" + pin.Name, Path: p, Err: fmt.Errorf("%s keeps %s, which is not there", pin.Name, p)})
			}
		}
	}
	return nil
}
