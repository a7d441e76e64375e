// Package cachewriter copies closures of Nix store paths into a binary cache kept
// as plain files, which any web server can publish as it is.
//
// # Order of writes
//
// A client that sees a narinfo may fetch its NAR and everything it references. So
// files become visible in this order, each durable before the next:
//
//  1. the NAR,
//  2. the narinfos of all references,
//  3. the narinfo's listing, if there is to be one,
//  4. the narinfo.
//
// The log of the build comes last: an entry is as good without it, and nothing that is
// wrong with it is a reason for an entry not to be.
//
// A crash can leave a NAR without a narinfo, never the reverse, and never a
// narinfo whose references have none.
//
// # Pipeline
//
//	Copy ──▶ look ──▶ window ──▶ dump ──▶ publish
//
// Copy walks a closure, references first, looks which entries are missing, and
// hands those to the dumpers through a window that bounds how many are unfinished.
// A dumper reads a store path once, and in that pass hashes the NAR, compresses
// it, and hashes the file; of a path that is larger than a frame, dumpers that have
// none of their own compress some. The publisher takes whatever is dumped, and whose
// references are published or come with it, as one batch: many files, few syncs.
//
// Calls of Copy share all of it: a path that two closures need is dumped once.
//
// Realisations of content-addressed derivations come last of all, when the store path
// that they promise is there with all that it needs.
//
// A NAR is published only if its hash and size are those in Nix's database. What
// is signed is what that database says, also of entries that are there already.
//
// An entry that is there stays, also if the store has other contents by now: a build
// that is not reproducible. Only with Replace it gives way, NAR first, and the narinfo
// by a rename under the cache's lock; its own NAR stays for those who have read where
// it is. One that is said to be damaged is written anew: its NAR, by a rename over the
// damaged one if both have the same name, and then the narinfo, which keeps what others
// have written into it.
//
// What there is to write leaves the cache its reserve: see [bincache.Cache.Reserve].
// How small a NAR gets is known when it is compressed: one that turns out to be too large is
// given up, and not tried again before there is more room than it had.
//
// Memory is bounded by the window, two buffers of a frame for each dumper, and as many
// more as maxSpare; only Copy's list of a closure grows with it, by less than 200
// bytes for each path.
package cachewriter

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixstore"
)

var (
	// ErrNotInStore says that a path, or one of its closure, is not in the local
	// store, or not any more. Trying again will not help.
	ErrNotInStore = nixstore.ErrNotValid
	// ErrStoreCorrupt says that a path's contents are not what Nix registered.
	// Trying again will not help until the store is repaired.
	ErrStoreCorrupt = errors.New("the store is corrupt")
	// ErrUnavailable says that the cache can't take anything now: it is full, gone,
	// or not writable. The path has no fault in it.
	ErrUnavailable = errors.New("cache is unavailable")
	// ErrLeftOut says that a path, or one that it refers to, is to stay out of the
	// cache, and that nothing else is wrong.
	ErrLeftOut = errors.New("path is left out of the cache")
)

// window bounds how many entries are between Copy and the end of the publisher:
// enough that syncs are shared by many, and that the dumpers never wait for them.
const window = 1024

// Options tell New what to do. The zero value of every optional field is a
// sensible default.
type Options struct {
	// Cache is where entries go. It must not be nil.
	Cache *bincache.Cache

	// Store is where paths come from. It must not be nil.
	Store *nixstore.Store

	// Compression of new NARs. The zero value means [compress.Default].
	Compression compress.Method

	// Keys sign every entry that Copy comes to, also those that are there already, if
	// their contents are those in the store. What Nix's database has of signatures is
	// kept, with keys and without.
	Keys []signature.SecretKey

	// Replace puts what the store has in place of entries with other contents, and of
	// realisations with other store paths. Without it they are kept: the first build of a
	// path is as good as the second.
	Replace bool

	// Workers is how many paths are dumped at a time. Zero means one per core.
	Workers int

	// Background makes dumping and compressing give way to everything else on the
	// machine.
	Background bool

	// Rewrite tells of an entry that looks as it should whether it is written anew all the
	// same, with its NAR: somebody has found it damaged. Nil means that none is. It may be
	// called by several goroutines.
	Rewrite func(have *bincache.NarInfo) bool

	// Elsewhere tells whether all who read the cache have a path from somewhere else,
	// with all that it refers to. It then counts as present. Nil means that they have
	// none. It may be called by several goroutines, as Cut may.
	Elsewhere func(ctx context.Context, info *nixstore.Info) (bool, error)

	// Cut returns why a path that is not present must stay out of the cache, and with
	// it all that refers to it, or "" if it need not. Nil means that none must.
	Cut func(info *nixstore.Info) string

	// Published, if it is not nil, is told of every entry that was written, and by no
	// other writer before, when it is durable. It is called by one goroutine at a time, and must not call the Writer.
	Published func(*bincache.NarInfo)

	// Kept, if it is not nil, is told once of every entry that was kept although the store
	// has other contents: n. It may be called by several goroutines, and must not call
	// the Writer.
	Kept func(have, n *bincache.NarInfo)

	// Extras are what entries have besides. The zero value means nothing.
	Extras Extras

	// CaseHack is Nix's setting use-case-hack. Nil means Nix's default.
	CaseHack *bool

	// Log gets what a person should know. Nil means nobody wants to.
	Log *slog.Logger
}

// A Writer writes to a cache. It is safe for use by several goroutines, and the
// cache by several processes.
type Writer struct {
	cache       *bincache.Cache
	store       *nixstore.Store
	compression compress.Method
	keys        []signature.SecretKey
	extras      Extras
	elsewhere   func(context.Context, *nixstore.Info) (bool, error)
	cut         func(*nixstore.Info) string
	replace     bool
	rewrite     func(*bincache.NarInfo) bool
	published   func(*bincache.NarInfo)
	kept        func(have, n *bincache.NarInfo)
	caseHack    *bool
	log         *slog.Logger

	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	tasks      sync.WaitGroup // dumpers and publisher
	room       chan struct{}  // holds a token for every entry in the window
	background atomic.Bool
	workers    int

	realised realised
	round    sync.RWMutex // held by calls of Copy while they rely on complete, and to clear it

	mu         sync.Mutex    // guards what is below, and every entry and call
	foreground chan struct{} // closed while background is false
	changed    *sync.Cond    // todo or ready has grown, a frame was left, or ctx has ended
	exchange   *compress.Exchange
	complete   map[int64]struct{}
	said       map[string]bool  // of what the cache has that is not what the store has
	needs      map[int64]int64  // bytes for which there was no room, by row of Nix's database
	open       map[int64]*entry // in the window, by row of Nix's database
	word       string           // of removals, when nothing of complete had been found yet
	todo       []*entry         // to be dumped
	ready      []*entry         // dumped or present, with all references published or in a batch
	unlooked   int              // paths that calls have not come to; some of them may be the same
	narBytes   int64            // copied
}

// New returns a Writer. It must be closed.
func New(o Options) *Writer {
	if o.Compression == (compress.Method{}) {
		o.Compression = compress.Default
	}
	if o.Workers == 0 {
		o.Workers = runtime.NumCPU()
	}
	if o.Elsewhere == nil {
		o.Elsewhere = func(context.Context, *nixstore.Info) (bool, error) { return false, nil }
	}
	if o.Rewrite == nil {
		o.Rewrite = func(*bincache.NarInfo) bool { return false }
	}
	if o.Cut == nil {
		o.Cut = func(*nixstore.Info) string { return "" }
	}
	if o.Published == nil {
		o.Published = func(*bincache.NarInfo) {}
	}
	if o.Kept == nil {
		o.Kept = func(have, n *bincache.NarInfo) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	room := window
	if o.Extras.Listings {
		room /= 2 // or there would be more files open than some systems allow
	}
	w := &Writer{
		cache:       o.Cache,
		store:       o.Store,
		compression: o.Compression,
		keys:        o.Keys,
		extras:      o.Extras,
		elsewhere:   o.Elsewhere,
		cut:         o.Cut,
		replace:     o.Replace,
		rewrite:     o.Rewrite,
		published:   o.Published,
		kept:        o.Kept,
		caseHack:    o.CaseHack,
		log:         o.Log,
		room:        make(chan struct{}, room),
		complete:    make(map[int64]struct{}),
		said:        make(map[string]bool),
		needs:       make(map[int64]int64),
		open:        make(map[int64]*entry),
	}
	w.workers = o.Workers
	w.changed = sync.NewCond(&w.mu)
	w.exchange = compress.NewExchange(o.Compression, w.changed, o.Workers)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	context.AfterFunc(w.ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed.Broadcast()
	})
	w.setBackground(o.Background)
	for range o.Workers {
		w.tasks.Go(w.dumpAll)
	}
	w.tasks.Go(w.publishAll)
	return w
}

// Close ends all work and waits for it. Calls of Copy that are under way return
// an error.
func (w *Writer) Close() {
	w.cancel()
	w.tasks.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.open {
		w.finish(e, context.Canceled)
	}
}

// SetBackground begins or ends the Background of the options: from now on dumping and
// compressing give way to everything else, or compete with it. What is being dumped is
// finished first.
func (w *Writer) SetBackground(background bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.background.Load() != background {
		w.setBackground(background)
		w.changed.Broadcast()
	}
}

// setBackground is SetBackground where nobody waits for it yet.
func (w *Writer) setBackground(background bool) {
	w.background.Store(background)
	if w.foreground == nil || background {
		w.foreground = make(chan struct{})
	}
	if !background {
		close(w.foreground)
	}
}

// Forget makes the Writer look at the cache again before it takes an entry for
// present. It does nothing while something is copied. Whoever keeps a Writer for
// long calls it now and then: somebody may have deleted entries.
func (w *Writer) Forget() {
	if !w.round.TryLock() {
		return
	}
	defer w.round.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.complete)
}

// sayOnce tells whether it was not called with that before.
func (w *Writer) sayOnce(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	said := w.said[what]
	w.said[what] = true
	return !said
}

// Result counts what a call of Copy did.
type Result struct {
	Paths     int   // looked at; those known from an earlier call are not
	Copied    int   // written to the cache by this process
	Replaced  int   // of those: in place of entries with other contents
	Realised  int   // realisations that took the place of others
	Signed    int   // there already, and given signatures that they had not
	Listed    int   // there already, and given the listing that they had not
	NarBytes  int64 // of those: sizes of their NARs
	FileBytes int64 // of those: sizes in the cache
}

// Plus returns what two calls for different paths did.
func (r Result) Plus(o Result) Result {
	paths := r.Paths + o.Paths
	r.add(o)
	r.Paths = paths
	return r
}

func (r *Result) add(o Result) {
	r.Paths = max(r.Paths, o.Paths) // the second time it looks at the same paths
	r.Copied += o.Copied
	r.Replaced += o.Replaced
	r.Realised += o.Realised
	r.Signed += o.Signed
	r.Listed += o.Listed
	r.NarBytes += o.NarBytes
	r.FileBytes += o.FileBytes
}

// Progress is how far all calls of Copy together are.
type Progress struct {
	Paths    int    // to look at, as far as known
	Done     int    // of those: in the cache
	NarBytes int64  // to copy, as far as known: sizes of NARs
	Read     int64  // of those
	Current  string // one of the paths that are being dumped, or ""
}

// Progress returns how far all calls of Copy together are.
func (w *Writer) Progress() Progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := Progress{
		Paths:    len(w.complete) + len(w.open) + w.unlooked,
		Done:     len(w.complete),
		NarBytes: w.narBytes,
		Read:     w.narBytes,
	}
	var largest int64
	for _, e := range w.open {
		if e.present {
			continue
		}
		p.NarBytes += e.info.NarSize
		p.Read += e.read.Load()
		if e.cancel != nil && e.info.NarSize > largest { // the one that people wait for
			p.Current, largest = e.info.Path, e.info.NarSize
		}
	}
	return p
}
