// Package recompress makes a cache smaller that is there: its NARs are compressed once
// more, by a method that takes longer, while nobody waits for it.
//
//	entries ──▶ NARs ──▶ pack ──▶ publish
//
// Entries are grouped by the NAR that they name. Workers read a NAR, compare what is in it
// with what its entries say, and compress it into an unfinished file, until that is not
// smaller than the old one. The publisher takes whatever is ready as one batch: it makes
// the NARs durable, gives them their names, and then has the entries name them, with the
// cache's lock held for that moment.
//
// What an entry is stays as it is: its store path, NAR hash, references and signatures. At
// no moment is it without its NAR, and the old NAR stays for as long as clients may
// remember what the entry said before. Killed at any moment, the cache is whole, and what
// was done need not be done again.
package recompress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
)

// Options tell New what to do. The zero value of every optional field is a sensible
// default.
type Options struct {
	// Cache is what becomes smaller. It must not be nil. With DryRun it is only read.
	Cache *bincache.Cache

	// Method is how. It must not be the zero value.
	Method compress.Method

	// Paths are the store paths to look at. None means all.
	Paths []string

	// OlderThan leaves out what was used within this time before the newest record of
	// use. Zero leaves out nothing.
	OlderThan time.Duration

	// Budget is how long new NARs are begun. Zero means without a bound.
	Budget time.Duration

	// Grace is how long old NARs stay.
	Grace time.Duration

	// Workers is how many NARs are compressed at a time. Zero means one per core.
	Workers int

	// DryRun only counts.
	DryRun bool

	// Log gets what a person should know. Nil means nobody wants to.
	Log *slog.Logger
}

// A Result is what was done.
type Result struct {
	Entries      int      `json:"entries"`           // that were looked at
	Candidates   int      `json:"candidates"`        // NARs that were to be compressed
	Bytes        int64    `json:"bytes"`             // of those
	Recompressed int      `json:"recompressed"`      // NARs
	Before       int64    `json:"bytes_before"`      // of those
	After        int64    `json:"bytes_after"`       // in place of those
	Kept         int      `json:"kept"`              // NARs that would not get smaller
	Left         int      `json:"left"`              // NARs for which there was no time
	Removed      int      `json:"removed"`           // files, NARs for the most part, that were replaced or given up earlier
	RemovedBytes int64    `json:"removed_bytes"`     // of those
	Waiting      int      `json:"waiting"`           // such files that stay for now
	WaitingBytes int64    `json:"waiting_bytes"`     // of those
	Damaged      []Damage `json:"damaged,omitempty"` // entries
}

// Damage is an entry that can't be used, or not by us.
type Damage struct {
	Path  string `json:"path"` // or the file, if that does not say
	Cause string `json:"cause"`
}

// Progress is how far Run is.
type Progress struct {
	Done, Total int   // NARs
	Read, Bytes int64 // of their files
}

// A Recompressor recompresses once.
type Recompressor struct {
	Options
	begin   time.Time
	team    *compress.Team // of those who pack
	packing atomic.Int32   // how many of them have a NAR of their own

	mu       sync.Mutex // guards what is below
	result   Result
	progress Progress
	todo     []*group
}

// A group is entries that name the same NAR.
type group struct {
	entry  *bincache.NarInfo // one of them, without what takes memory
	hashes []string          // the first parts of their store paths
	cold   bool              // none of them was used lately
}

// New returns what recompresses a cache.
func New(o Options) *Recompressor {
	if o.Workers == 0 {
		o.Workers = runtime.NumCPU()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Recompressor{Options: o}
}

// Progress tells how far Run is.
func (r *Recompressor) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// Run does it. The Result is also right with an error, for what was done until then.
func (r *Recompressor) Run(ctx context.Context) (Result, error) {
	r.begin = time.Now()
	err := r.run(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(r.result.Damaged, func(a, b Damage) int { return cmp.Compare(a.Path, b.Path) })
	return r.result, err
}

func (r *Recompressor) run(ctx context.Context) error {
	tried, err := r.Cache.Tried()
	if err != nil {
		return err
	}
	groups, err := r.groups(ctx)
	if err != nil {
		return err
	}
	for url, g := range groups {
		if g.cold && !r.wasTried(tried[url]) {
			r.todo = append(r.todo, g)
			r.result.Bytes += g.entry.FileSize
		}
	}
	r.result.Candidates = len(r.todo)
	// The largest first: those gain most in a time, and none of them is what all wait for
	// in the end.
	slices.SortFunc(r.todo, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.entry.FileSize, a.entry.FileSize), cmp.Compare(a.entry.URL, b.entry.URL))
	})
	r.progress.Total, r.progress.Bytes = r.result.Candidates, r.result.Bytes
	if r.DryRun {
		return nil
	}
	if err := r.sweep(ctx); err != nil { // there is room then
		return err
	}
	if err := r.Cache.ForgetTried(ctx); err != nil && !bincache.IsFull(err) {
		return err
	}
	if err := r.recompress(ctx); err != nil {
		return err
	}
	if r.result.Recompressed == 0 {
		return nil
	}
	return r.sweep(ctx) // nothing may be a sensible time to stay
}

// sweep removes what was replaced long ago.
func (r *Recompressor) sweep(ctx context.Context) error {
	swept, err := r.Cache.SweepRetired(ctx, time.Now(), r.Grace == 0)
	r.result.Removed += swept.Removed
	r.result.RemovedBytes += swept.RemovedBytes
	r.result.Waiting, r.result.WaitingBytes = swept.Waiting, swept.WaitingBytes
	return err
}

// wasTried tells whether what a NAR was tried with makes another try pointless.
func (r *Recompressor) wasTried(with string) bool {
	m, err := compress.Parse(with)
	return with != "" && err == nil && m.Name == r.Method.Name && m.Level >= r.Method.Level
}

// groups returns the entries that are to be looked at, by the NAR that they name, and with
// them those others that name it too.
func (r *Recompressor) groups(ctx context.Context) (map[string]*group, error) {
	wanted := make(map[string]bool, len(r.Paths))
	for _, p := range r.Paths {
		if _, err := r.Cache.Entry(p); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s is not in the cache: %w", p, err)
			}
			return nil, fmt.Errorf("look for %s in the cache: %w", p, err)
		}
		wanted[p] = true
	}
	graph := bincache.NewGraph()
	groups, urls := make(map[string]*group), make(map[string]string)
	chosen := make(map[string]bool) // URLs
	for n, err := range r.Cache.Entries(ctx) {
		if err != nil {
			if !errors.Is(err, bincache.ErrDamaged) {
				return nil, err
			}
			r.damaged("", err.Error())
			continue
		}
		if r.OlderThan > 0 {
			id := graph.Add(path.Base(n.StorePath), n.References)
			urls[graph.Name(id)] = n.URL
		}
		if len(wanted) == 0 || wanted[n.StorePath] {
			chosen[n.URL] = true
			r.result.Entries++
		}
		r.add(groups, n)
	}
	for url := range groups {
		if !chosen[url] {
			delete(groups, url)
		}
	}
	if r.OlderThan > 0 {
		return groups, r.leaveOutUsed(groups, graph, urls)
	}
	return groups, nil
}

// add puts an entry into its group.
func (r *Recompressor) add(groups map[string]*group, n *bincache.NarInfo) {
	g := groups[n.URL]
	if g == nil {
		g = &group{cold: true, entry: &bincache.NarInfo{
			StorePath: strings.Clone(n.StorePath), URL: strings.Clone(n.URL), Compression: strings.Clone(n.Compression),
			FileSize: n.FileSize, NarHash: n.NarHash, NarSize: n.NarSize,
		}}
		groups[g.entry.URL] = g
	}
	if e := g.entry; e.NarHash != n.NarHash || e.NarSize != n.NarSize || e.Compression != n.Compression {
		r.damaged(n.StorePath, fmt.Sprintf("it names the NAR of %s, and says something else of it", e.StorePath))
		return
	}
	g.hashes = append(g.hashes, strings.Clone(bincache.HashPart(n.StorePath)))
}

// leaveOutUsed makes those groups not cold of which an entry was used lately. Such ages
// count back from the newest record.
func (r *Recompressor) leaveOutUsed(groups map[string]*group, graph *bincache.Graph, urls map[string]string) error {
	used, damaged := r.Cache.Used()
	if len(damaged) > 0 {
		return fmt.Errorf("find out what was used: %w", damaged[0])
	}
	var newest time.Time
	for _, t := range used {
		if t.After(newest) {
			newest = t
		}
	}
	for id, last := range graph.LastUse(used) {
		if g := groups[urls[graph.Name(int32(id))]]; g != nil && last.After(newest.Add(-r.OlderThan)) {
			g.cold = false
		}
	}
	return nil
}

// damaged notes an entry that can't be used.
func (r *Recompressor) damaged(path, cause string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Damaged = append(r.result.Damaged, Damage{path, cause})
}
