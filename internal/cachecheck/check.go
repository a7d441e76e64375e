// Package cachecheck finds what is wrong in a binary cache, and mends it.
//
// # What it looks at
//
// A quick check looks at everything but what is in NARs: that every narinfo can be read,
// and is the one of its path; that its NAR is there, and has the right size; that what it
// refers to is there; that it is signed. Contents are read only if that is asked for:
// then hashes of files and of NARs have to be those of the narinfos, and listings those of the
// NARs. Nothing is changed, and no lock is taken: others may add and remove, so what looks
// wrong is looked at twice.
//
// What an entry can do without is looked at, too. A listing has to be one, and to belong to an
// entry; one that belongs to none does no harm. A realisation promises store paths: its own,
// and what others are that it depends on; these have to be as it says. Logs may be of builds
// that failed, and belong to nothing; one that is compressed has to be whole.
//
// # How it is mended
//
// What is damaged is written anew from the local store, if Nix has it with the same hash.
// Files are only ever replaced, by a rename over what is damaged; a narinfo about the same
// contents keeps what others have written into it. Else the entry is withdrawn, with all
// that need it, so that clients build instead of failing: its narinfo goes to the trash.
// That is decided under the cache's lock, and each one is looked at once more.
//
// What can't be judged is left as it is, and told: what may not be read, or can't be at
// this moment; entries for another store; records of a newer larder; whatever could not be
// copied for a reason that may pass, such as a full disk or a locked database; and missing
// references, if nobody has said that the cache relies on no other one. What is withdrawn
// needs what can't be read to be known, so then nothing is.
//
// A NAR is removed only if its entry was withdrawn, nothing says that it is right, and it is
// the very file that was read.
//
// What an entry can do without is mended last: listings are made of their NARs, or removed,
// realisations withdrawn with all that depend on them, and broken logs removed.
//
// Killed at any moment, it goes on when it is called again.
package cachecheck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"syscall"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nar"
)

// A Kind says what is wrong.
type Kind string

const (
	NarInfo    Kind = "narinfo"     // it can't be read, or is for another path
	Nar        Kind = "nar"         // it is not there, or has another size
	Contents   Kind = "contents"    // the NAR has another hash
	Reference  Kind = "reference"   // what an entry needs is not there
	Signature  Kind = "signature"   // nobody of those who are trusted has signed the entry
	Record     Kind = "record"      // of a run: it can't be read
	Pin        Kind = "pin"         // it can't be read, or keeps what is not there
	State      Kind = "state"       // what the cache remembers of itself: it can't be read
	Listing    Kind = "listing"     // it can't be read, or says something else than the NAR
	Realised   Kind = "realisation" // it can't be read, or promises what is not there
	Log        Kind = "log"         // it can't be read, or unpacked
	StoreDir   Kind = "store"       // it is for another store than the cache says
	Layout     Kind = "layout"      // something is gone without which clients can't use the cache
	Unreadable Kind = "unreadable"  // nobody knows whether it is damaged
)

// A Problem is something that is wrong.
type Problem struct {
	Kind Kind
	File string // below the cache
	Path string // store path of the entry, or what a pin keeps; "" if it is unknown
	Err  error  // what is wrong

	hash    string            // first part of the entry's store path
	entry   *bincache.NarInfo // as far as it can be read; else nil
	missing []string          // store paths that it needs
	nar     *narRead          // of one whose contents are wrong
	useless bool              // a realisation that is of no use to anybody, wherever they look
}

// isExtra tells whether a problem is one of what an entry can do without.
func (p *Problem) isExtra() bool {
	return p.Kind == Listing || p.Kind == Realised || p.Kind == Log
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

	mu       sync.Mutex // guards what is below, and what a check has found
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
	Left     int       // store paths that are missing, and left to an upstream
	Problems []Problem // sorted by file
	Notes    []Problem // the same of what is no fault of the cache
}

// Check checks. An error says that it could not: what it has found by then is nothing to
// rely on.
func (c *Checker) Check(ctx context.Context) (*Report, error) {
	k := &check{
		Checker: c, graph: bincache.NewGraph(), nars: make(map[string][]string), damaged: make(map[string]bool),
		listed: make(map[string]nar.ListingSum),
	}
	hashes, err := c.Cache.Hashes()
	if err != nil {
		return nil, err
	}
	k.report.Entries = len(hashes)
	c.total(len(hashes), 0)
	if c.Cache.Look(ctx, hashes, k.entry); ctx.Err() != nil {
		return nil, ctx.Err()
	}
	k.tellOthers()
	k.layout()
	if err := k.references(ctx); err != nil {
		return nil, err
	}
	if err := k.extras(ctx); err != nil {
		return nil, err
	}
	if c.Contents {
		if err := k.contents(ctx); err != nil {
			return nil, err
		}
	}
	k.records()
	k.state()
	if err := k.pins(ctx); err != nil {
		return nil, err
	}
	k.tellUnreadable()
	if c.Cache.Replaced() {
		return nil, fmt.Errorf("check cache: %s is gone, or another one", c.Cache.Path())
	}
	for _, list := range [][]Problem{k.report.Problems, k.report.Notes} {
		slices.SortFunc(list, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Path, b.Path))
		})
	}
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

// damaged tells whether an error says that something is damaged, and not that it can't be
// looked at: for that there is an error of the system's.
func damaged(err error) bool {
	return errors.Is(err, bincache.ErrDamaged) && !errors.As(err, new(syscall.Errno))
}

// A check is one call of Check.
type check struct {
	*Checker
	report     Report
	graph      *bincache.Graph
	nars       map[string][]string // hashes of the entries that name it, by URL
	bytes      int64               // of NARs that are to be read
	damaged    map[string]bool     // hashes of entries that have been named already
	unreadable map[string]*Problem // by file, or by directory
	hidden     map[string]int      // how many entries need what can't be read there
	others     []Problem           // entries for other stores

	listed map[string]nar.ListingSum // what listings say, by the hashes of their entries
}

func (k *check) found(p Problem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.hash != "" && !p.isExtra() {
		k.damaged[p.hash] = true
	}
	k.report.Problems = append(k.report.Problems, p)
}

// entry looks at a narinfo, and at the file that it names.
func (k *check) entry(hash string, n *bincache.NarInfo, err error) {
	defer k.did(1, 0)
	if err != nil {
		n, _, err = k.Cache.Read(hash) // it may have been changed between two looks
	}
	p := Problem{File: hash + ".narinfo", hash: hash, entry: n}
	if n != nil {
		p.Path = n.StorePath
		k.mu.Lock()
		k.graph.Add(path.Base(n.StorePath), n.References)
		k.mu.Unlock()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // removed meanwhile
	case err != nil && !damaged(err):
		file := p.File
		if n != nil {
			file = n.URL
			if errors.Is(err, fs.ErrPermission) {
				file = path.Dir(n.URL)
			}
		}
		k.cantRead(file, p, err)
		return
	case n != nil && err != nil:
		p.Kind, p.Err = Nar, err
		k.found(p)
		return
	case err != nil:
		k.badNarInfo(p, err)
		return
	}
	if len(k.Keys) > 0 {
		if s := n.SignatureState(k.Keys); s == bincache.Invalid || s == bincache.Unsigned {
			p.Kind, p.Err = Signature, fmt.Errorf("its signature is %s: none by a key that is trusted", s)
			k.found(p)
		}
	}
	if k.Contents && (k.Share == nil || k.Share(n.URL)) {
		url := path.Clean(n.URL)
		k.mu.Lock()
		if k.nars[url] == nil {
			k.bytes += n.FileSize
		}
		k.nars[url] = append(k.nars[url], hash)
		k.mu.Unlock()
	}
}

// badNarInfo notes a narinfo that is none of the cache's. It may be a good one elsewhere.
func (k *check) badNarInfo(p Problem, err error) {
	p.Kind, p.Err = NarInfo, err
	n, parseErr := k.Cache.ParseFile(p.File)
	if parseErr == nil && path.Dir(n.StorePath) != k.Cache.StoreDir() {
		p.Kind, p.Path = StoreDir, n.StorePath
		p.Err = fmt.Errorf("it is for another store than the cache's, %s", k.Cache.StoreDir())
		k.mu.Lock()
		defer k.mu.Unlock()
		k.others = append(k.others, p)
		k.damaged[p.hash] = true
		return
	}
	k.found(p)
}

// tellOthers tells of entries for other stores. If there are no others, it is the cache
// that is wrong about its store.
func (k *check) tellOthers() {
	if len(k.others) == 0 || k.graph.Len() > 0 {
		k.report.Problems = append(k.report.Problems, k.others...)
		return
	}
	err := fmt.Errorf("it says that the store is %s, and all %d entries that can be read are for others, %s for example",
		k.Cache.StoreDir(), len(k.others), k.others[0].Path)
	k.found(Problem{Kind: StoreDir, File: "nix-cache-info", Err: err})
}

// cantRead notes that something of an entry can't be read: its narinfo, its NAR, or the
// directory where that is, of which it tells once.
func (k *check) cantRead(file string, p Problem, err error) {
	p.Kind, p.File, p.Err = Unreadable, file, err
	if p.entry != nil {
		p.Path = ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unreadable == nil {
		k.unreadable, k.hidden = make(map[string]*Problem), make(map[string]int)
	}
	if p.entry == nil {
		k.damaged[p.hash] = true // it is there
	}
	k.unreadable[p.File] = &p
	k.hidden[p.File]++
}

func (k *check) tellUnreadable() {
	for file, p := range k.unreadable {
		if count := k.hidden[file]; count > 1 {
			p.Err = fmt.Errorf("%w, and %d more like that", p.Err, count-1)
		}
		k.report.Problems = append(k.report.Problems, *p)
	}
}

// layout looks whether something is missing that has to be in each cache.
func (k *check) layout() {
	if !k.Cache.HasInfo() {
		k.found(Problem{Kind: Layout, File: "nix-cache-info", Err: errors.New("it is missing")})
	}
	lost, unknown := k.Cache.Missing()
	for _, dir := range lost {
		k.found(Problem{Kind: Layout, File: dir, Err: errors.New("the directory is missing")})
	}
	for _, dir := range unknown {
		k.note(Problem{Kind: Layout, File: dir, Err: errors.New("the directory is missing, which only some versions of Nix make, and need if they may not")})
	}
}
