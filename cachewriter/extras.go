package cachewriter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nar"
	"github.com/nix-larder/larder/internal/nixstore"
)

// Extras are what entries may have besides their NARs.
type Extras struct {
	// Listings has every entry that Copy comes to listed in a file beside its narinfo, as
	// Nix's write-nar-listing does: also those that are there already, if their contents
	// are those in the store, which are read once more for it.
	Listings bool

	// Logs copies the log of the build that made an entry, if there is one here that we
	// may read, and the cache has none.
	Logs bool
}

// Missing returns what an entry could have from a store that has the same contents, and
// has not: the listing, and the log of a derivation's build, or "".
func (x Extras) Missing(have bincache.Found, store nixstore.Dirs) (listing bool, log string) {
	listing = x.Listings && !have.Has(bincache.ListingName(have.Entry.StorePath))
	if !x.Logs || have.Entry.Deriver == "" {
		return listing, ""
	}
	// The cache first, which takes less: what was copied with its log has that.
	if have.Has(bincache.LogName(have.Entry.Deriver)) {
		return listing, ""
	}
	if drv := store.Store + "/" + have.Entry.Deriver; store.HasLog(drv) {
		log = drv
	}
	return listing, log
}

// A lack is what an entry that is present could have besides.
type lack struct {
	narHash bincache.Hash
	listing bool   // it has none, and shall have one
	log     string // the derivation of which there is a log here, and none in the cache
}

func (l lack) any() bool { return l.listing || l.log != "" }

// lackOf returns what an entry lacks, if it has what the store has: what the store could
// add to another one would not belong to it.
func (w *Writer) lackOf(narHash [32]byte, have bincache.Found) lack {
	l := lack{narHash: narHash}
	if have.Entry.NarHash == l.narHash {
		l.listing, l.log = w.extras.Missing(have, w.store.Dirs())
	}
	return l
}

// dumpLack makes what an entry lacks that is present. Only the cache's troubles are
// errors: the entry is as good without.
func (w *Writer) dumpLack(ctx context.Context, d *dumper, e *entry) (*dump, error) {
	made := &dump{drv: e.lack.log, narPublished: true, infoPublished: true}
	if e.lack.listing {
		var err error
		if made.listing, err = w.list(ctx, d, e); err != nil {
			return nil, err
		}
	}
	made.log = w.tempLog(ctx, d, made.drv)
	return made, nil
}

// list makes the listing of an entry that is present, of what the store has: if that is
// still what the entry has, which takes to read all of it.
func (w *Writer) list(ctx context.Context, d *dumper, e *entry) (*bincache.Temp, error) {
	file, err := w.startListing(d)
	if err != nil {
		return nil, err
	}
	in := &hashedNar{hash: sha256.New(), to: io.Discard, read: &e.read, giveWay: func() { w.giveWay(ctx, d) }}
	_, err = d.nar.Dump(ctx, in, e.info.Path)
	if hash := bincache.Hash(in.hash.Sum(nil)); err == nil && hash != e.lack.narHash {
		err = fmt.Errorf("%w: nar hash is %s, want %s", ErrStoreCorrupt, hash, e.lack.narHash)
	}
	if err != nil {
		file.Discard()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		w.log.Warn("entry stays without a listing", "path", e.info.Path, "err", err)
		return nil, nil
	}
	return w.endListing(d, file, e.info.Path)
}

// startListing makes d list the next NAR that it dumps, in an unfinished file, if
// listings are wanted.
func (w *Writer) startListing(d *dumper) (*bincache.Temp, error) {
	d.nar.Listing = nil
	if !w.extras.Listings {
		return nil, nil
	}
	file, err := w.cache.CreateTemp()
	if err != nil {
		return nil, cacheError(err)
	}
	d.nar.Listing = nar.NewListing(file)
	return file, nil
}

// endListing finishes the listing of a NAR that was dumped. Some have none.
func (w *Writer) endListing(d *dumper, file *bincache.Temp, path string) (*bincache.Temp, error) {
	if file == nil {
		return nil, nil
	}
	err := d.nar.Listing.Close()
	if err == nil {
		file.StartSync()
		return file, nil
	}
	file.Discard()
	if errors.Is(err, nar.ErrNotText) {
		w.log.Warn("entry has no listing", "path", path, "err", err)
		return nil, nil
	}
	return nil, cacheError(err)
}

// publishListing publishes an entry's listing, before its narinfo. Where no entry was, a
// listing that is there may be of other contents.
func (w *Writer) publishListing(e *entry) error {
	d := e.dump
	if d.listing == nil {
		return nil
	}
	err := w.cache.PublishExtra(w.ctx, d.listing, bincache.ListingName(e.info.Path), !e.present)
	if err = cacheError(err); errors.Is(err, ErrUnavailable) {
		return err
	}
	d.listed = err == nil
	if err != nil {
		w.log.Warn("entry has no listing", "path", e.info.Path, "err", err)
		d.listing.Discard()
	}
	d.listing = nil
	return nil
}

// takeBackListing removes the listing of an entry that another writer was faster to
// publish, if that one has other contents, and that of an entry which was replaced, if
// there is no new one: rather none than a wrong one.
func (w *Writer) takeBackListing(e *entry) error {
	if e.replaced && !e.dump.listed {
		return w.cache.RemoveListing(w.ctx, e.info.Path)
	}
	if e.present || !e.dump.listed || e.ours {
		return nil
	}
	have, err := w.cache.Entry(e.info.Path)
	if err != nil || have.NarHash == e.dump.narInfo.NarHash {
		return nil // (ignored) it is for those who look at it the next time
	}
	return w.cache.RemoveListing(w.ctx, e.info.Path)
}

// maxLog bounds a log in the cache, where it is not compressed.
const maxLog = 1 << 30

const logCut = "\nlarder: the rest was left out: this log has more than 1 GiB\n"

// tempLog returns the log of a derivation's build in an unfinished file, or nil if there
// is none that can be had: that is no reason for an entry not to be.
func (w *Writer) tempLog(ctx context.Context, d *dumper, drv string) *bincache.Temp {
	if !w.extras.Logs || drv == "" {
		return nil
	}
	log, err := w.readLog(drv, func() error {
		w.giveWay(ctx, d)
		return ctx.Err()
	})
	if err != nil && ctx.Err() == nil {
		w.tellNoLog(drv, err)
	}
	return log
}

// readLog is tempLog that returns what was wrong, and calls goOn before each piece.
func (w *Writer) readLog(drv string, goOn func() error) (*bincache.Temp, error) {
	r, err := w.store.Dirs().OpenLog(drv)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return w.cache.CreateFrom(bounded(r, maxLog, goOn))
}

// tellNoLog says why a log is not in the cache, if somebody could have expected it.
func (w *Writer) tellNoLog(drv string, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, fs.ErrPermission):
		w.log.Debug("build log is not ours to read", "drv", drv, "err", err)
	default:
		w.log.Warn("build log was left out", "drv", drv, "err", err)
	}
}

// publishLog publishes the log of an entry, after its narinfo: of one that is new it is
// the log of the build that made it, whatever was there before.
func (w *Writer) publishLog(e *entry) {
	d := e.dump
	if err := w.cache.PublishExtra(w.ctx, d.log, bincache.LogName(d.drv), e.ours); err != nil {
		d.log.Discard()
		w.log.Warn("build log was left out", "drv", d.drv, "err", err)
	}
	d.log = nil
}

// publishLogs publishes the logs of a batch.
func (w *Writer) publishLogs(batch []*entry) {
	some := false
	for _, e := range batch {
		if e.dump.log != nil {
			w.publishLog(e)
			some = true
		}
	}
	if some {
		if err := w.cache.SyncDir("log"); err != nil {
			w.log.Warn("build logs may not outlast a power failure", "err", err)
		}
	}
}

// CopyLog copies the log of a derivation's last build, whatever became of it, into the
// cache, where it takes the place of another one if it is to. The error wraps
// [fs.ErrNotExist] if there is none.
func (w *Writer) CopyLog(ctx context.Context, drv string, replace bool) error {
	log, err := w.readLog(drv, ctx.Err)
	if err == nil {
		if err = log.Sync(); err == nil {
			err = w.cache.PublishExtra(ctx, log, bincache.LogName(drv), replace)
		}
		log.Discard()
	}
	if err == nil {
		err = w.cache.SyncDir("log")
	}
	if err != nil {
		return fmt.Errorf("copy log of %s: %w", drv, err)
	}
	return nil
}

// bounded returns a log with no more than limit bytes of it, and a line that says so. It
// calls goOn before each piece.
func bounded(log io.Reader, limit int64, goOn func() error) io.Reader {
	return io.MultiReader(&logReader{log, limit, goOn}, &logRest{r: log})
}

// A logReader reads as much of a log as may be in a cache.
type logReader struct {
	r    io.Reader
	left int64
	goOn func() error
}

func (l *logReader) Read(b []byte) (int, error) {
	if err := l.goOn(); err != nil {
		return 0, err
	}
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.r.Read(b[:min(int64(len(b)), l.left)])
	l.left -= int64(n)
	return n, err
}

// A logRest says, in place of what is left of a log, that there was more.
type logRest struct {
	r    io.Reader
	said io.Reader
}

func (l *logRest) Read(b []byte) (int, error) {
	if l.said == nil {
		l.said = strings.NewReader("")
		if n, err := io.ReadFull(l.r, make([]byte, 1)); n > 0 {
			l.said = strings.NewReader(logCut)
		} else if err != io.EOF {
			return 0, err
		}
	}
	return l.said.Read(b)
}
