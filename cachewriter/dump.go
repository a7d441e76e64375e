package cachewriter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/pace"
)

// A dump is a NAR, and what will be published with it, in unfinished files of the
// cache. Of an entry that is present it is only what that lacks.
type dump struct {
	narInfo  *bincache.NarInfo
	nar      *bincache.Temp
	infoFile *bincache.Temp
	listing  *bincache.Temp // nil if there is none, or it is in place; so is log
	log      *bincache.Temp
	drv      string // whose log it is

	// The publisher's:
	narPublished, infoPublished bool  // they are in place
	listed                      bool  // the listing was ours
	lost                        error // what Sync said
}

// sync makes all files durable, but for a log that can't be, which is left out. After an
// error they can't be any more: Linux tells of writes that were lost once, and the next
// fsync succeeds.
func (d *dump) sync() error {
	if d.lost == nil && !d.narPublished {
		d.lost = d.nar.Sync()
	}
	if d.lost == nil && !d.infoPublished {
		d.lost = d.infoFile.Sync()
	}
	if d.lost == nil && d.listing != nil {
		d.lost = d.listing.Sync()
	}
	if d.log != nil && d.log.Sync() != nil {
		d.log.Discard()
		d.log = nil
	}
	return d.lost
}

// discard removes what is not published.
func (d *dump) discard() {
	for _, file := range []*bincache.Temp{d.nar, d.infoFile, d.listing, d.log} {
		if file != nil {
			file.Discard()
		}
	}
}

// A dumper dumps one path after the other, with the same buffers. While there is
// none, it helps others with theirs.
type dumper struct {
	nar        nar.Dumper
	frames     *compress.Frames
	compress   compress.Writer // the frames, if there are any
	background bool            // it runs at the lowest priority
	pacer      *pace.Pacer     // of its thread, then
	helper     bool            // it counts as one in the exchange
	ctx        context.Context // of what it does
}

func (w *Writer) newDumper(background bool) *dumper {
	frames := compress.NewFrames(w.exchange)
	d := &dumper{
		nar:        nar.Dumper{CaseHack: w.caseHack},
		frames:     frames,
		compress:   w.compression.WriterWith(frames),
		background: background,
	}
	frames.Between = func(pid int) error {
		d.pacer.Follow(pid)
		w.giveWay(d.ctx, d)
		return d.ctx.Err()
	}
	return d
}

// dumpAll dumps what is to be dumped until the Writer is closed, at the priority that
// the Writer has.
func (w *Writer) dumpAll() {
	background := w.background.Load()
	if background {
		// Priorities are a thread's on Linux, and a normal user can't raise one
		// again: the thread ends with this goroutine, since it is not unlocked.
		runtime.LockOSThread()
		if err := pace.Lowest(); err != nil {
			w.log.Warn("dumping at normal priority", "err", err)
		}
	}
	d := w.newDumper(background)
	if background && w.workers <= runtime.GOMAXPROCS(0) { // or they would wait for each other
		d.pacer = pace.New()
		defer d.pacer.Close()
	}
	for {
		w.giveWay(w.ctx, d)
		t := w.nextTask(d)
		d.ctx = t.ctx
		switch {
		case t.frame != nil:
			d.frames.Compress(t.frame)
		case t.entry != nil:
			e := t.entry
			dumped, err := w.dump(t.ctx, d, e)
			w.mu.Lock()
			e.cancel()
			e.cancel = nil
			w.dumped(e, dumped, err)
			w.mu.Unlock()
		default:
			if w.ctx.Err() == nil {
				w.tasks.Go(w.dumpAll) // by another thread
			}
			return
		}
	}
}

// giveWay lets a dumper rest if others want its core.
func (w *Writer) giveWay(ctx context.Context, d *dumper) {
	left := d.pacer.Look()
	if left == 0 {
		return
	}
	w.mu.Lock()
	if d.helper {
		w.stopHelping(d)
	}
	foreground := w.foreground
	w.mu.Unlock()
	d.pacer.Rest(ctx, left, foreground)
}

// A task is what a dumper does next: it dumps an entry, or compresses a frame of
// somebody else's.
type task struct {
	entry *entry
	frame *compress.Frame
	ctx   context.Context
}

// nextTask waits for something to do. It returns nothing when there will be
// nothing, or not at this priority.
func (w *Writer) nextTask(d *dumper) task {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !d.helper {
		d.helper = true
		w.exchange.Help()
	}
	for w.ctx.Err() == nil && w.background.Load() == d.background {
		// Somebody may be waiting for a frame already.
		if f := w.exchange.Take(); f != nil {
			return task{frame: f, ctx: w.ctx}
		}
		if len(w.todo) == 0 {
			w.changed.Wait()
			continue
		}
		e := w.todo[0]
		w.todo = w.todo[1:]
		if e.finished {
			continue // one of its references failed
		}
		ctx, cancel := context.WithCancel(w.ctx)
		e.cancel = cancel
		w.stopHelping(d)
		return task{entry: e, ctx: ctx}
	}
	w.stopHelping(d)
	return task{}
}

// stopHelping makes others no longer count on d. The mutex is held.
func (w *Writer) stopHelping(d *dumper) {
	d.helper = false
	w.exchange.StopHelping()
}

// dumped takes a finished dump. The mutex is held.
func (w *Writer) dumped(e *entry, d *dump, err error) {
	switch {
	case err != nil:
		w.finish(e, fmt.Errorf("copy %s: %w", e.info.Path, err))
	case e.finished:
		d.discard()
	default:
		e.dump = d
		w.makeReady(e)
	}
}

// dump reads a store path once: it hashes the NAR, compresses it, and hashes the
// file, which is in the cache's own file system so that it can be linked in place.
func (w *Writer) dump(ctx context.Context, d *dumper, e *entry) (*dump, error) {
	if e.present {
		return w.dumpLack(ctx, d, e)
	}
	info := e.info
	if err := w.checkRoom(e); err != nil {
		return nil, err
	}
	file, err := w.cache.CreateTemp()
	if err != nil {
		return nil, cacheError(err)
	}
	made := &dump{nar: file, drv: info.Deriver}
	if made.listing, err = w.startListing(d); err != nil {
		made.discard()
		return nil, err
	}
	in := &hashedNar{hash: sha256.New(), to: d.compress, read: &e.read, giveWay: func() { w.giveWay(ctx, d) }}
	out := bincache.NewHashedTemp(file, w.compression.Name)
	defer func() { w.noteNeed(e, out.Needs) }()
	d.compress.Reset(out)
	size, err := d.nar.Dump(ctx, in, info.Path)
	if err == nil {
		err = d.compress.Flush()
	}
	if err != nil {
		d.compress.Reset(nil) // others need not go on with it, and nobody writes to out any more
	}
	n := w.narInfo(info, in.hash, size, out)
	switch {
	case out.Err != nil:
		err = cacheError(out.Err)
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil || n.NarHash != bincache.Hash(info.NarHash) || info.NarSize != 0 && info.NarSize != size:
		err = w.judge(ctx, info, n, err)
	default:
		err = w.sign(n)
	}
	if err == nil {
		file.StartSync()
		made.narInfo = n
		made.infoFile, err = w.cache.TempNarInfo(n)
		err = cacheError(err)
	}
	if err == nil {
		made.listing, err = w.endListing(d, made.listing, info.Path)
	}
	if err != nil {
		made.discard()
		return nil, err
	}
	made.log = w.tempLog(ctx, d, made.drv)
	return made, nil
}

func (w *Writer) narInfo(info *nixstore.Info, narHash hash.Hash, narSize int64, file *bincache.HashedTemp) *bincache.NarInfo {
	n := &bincache.NarInfo{
		StorePath:  info.Path,
		NarHash:    bincache.Hash(narHash.Sum(nil)),
		NarSize:    narSize,
		References: baseNames(info.References),
		Deriver:    strings.TrimPrefix(info.Deriver, w.store.Dirs().Store+"/"),
		Sigs:       slices.Sorted(slices.Values(bincache.ValidSigs(info.Sigs))),
		CA:         info.CA,
	}
	file.Describe(n, w.compression.Name)
	return n
}

func baseNames(paths []string) []string {
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = filepath.Base(path)
	}
	return names
}

// judge finds out why a path could not be read, or is not what Nix registered. A
// collector removes the row first and then the files, so a path that is going is
// no longer in the database; one that still is there is broken.
func (w *Writer) judge(ctx context.Context, info *nixstore.Info, n *bincache.NarInfo, cause error) error {
	now, err := w.store.Info(ctx, info.Path)
	switch {
	case err != nil:
		return err // it is gone, most likely
	case now.NarHash != info.NarHash:
		return errors.New("it was registered anew while it was read")
	case cause != nil:
		return cause
	}
	return fmt.Errorf("%w: nar hash is %s with %d bytes, want %s with %d",
		ErrStoreCorrupt, n.NarHash, n.NarSize, bincache.Hash(info.NarHash), info.NarSize)
}

// hashedNar passes a NAR on and hashes it.
type hashedNar struct {
	hash hash.Hash
	to   io.Writer
	read *atomic.Int64 // bytes so far

	giveWay func() // to others, between two pieces
}

func (h *hashedNar) Write(b []byte) (int, error) {
	h.hash.Write(b)
	h.read.Add(int64(len(b)))
	h.giveWay()
	return h.to.Write(b)
}
