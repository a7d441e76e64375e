package cachewriter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nar"
	"github.com/nix-larder/larder/internal/nixstore"
)

// A dump is a NAR, and the narinfo that will be published with it, in unfinished
// files of the cache.
type dump struct {
	narInfo  *bincache.NarInfo
	nar      *bincache.Temp
	infoFile *bincache.Temp

	// The publisher's:
	narPublished, infoPublished bool  // they are in place
	lost                        error // what Sync said
}

// sync makes both files durable. After an error they can't be any more: Linux tells
// of writes that were lost once, and the next fsync succeeds.
func (d *dump) sync() error {
	if d.lost == nil && !d.narPublished {
		d.lost = d.nar.Sync()
	}
	if d.lost == nil && !d.infoPublished {
		d.lost = d.infoFile.Sync()
	}
	return d.lost
}

// discard removes what is not published.
func (d *dump) discard() {
	d.nar.Discard()
	d.infoFile.Discard()
}

// A dumper dumps one path after the other, with the same buffers.
type dumper struct {
	nar      nar.Dumper
	compress compressor
}

// dumpAll dumps what is to be dumped until the Writer is closed, at the priority that
// the Writer has.
func (w *Writer) dumpAll() {
	background := w.background.Load()
	if background {
		// Priorities are a thread's on Linux, and a normal user can't raise one
		// again: the thread ends with this goroutine, since it is not unlocked.
		runtime.LockOSThread()
		if err := lowestPriority(); err != nil {
			w.log.Warn("dumping at normal priority", "err", err)
		}
	}
	d := &dumper{nar: nar.Dumper{CaseHack: w.caseHack}, compress: newCompressor(w.compression)}
	for {
		e, ctx := w.nextToDump(background)
		if e == nil {
			if w.ctx.Err() == nil {
				w.tasks.Go(w.dumpAll) // by another thread
			}
			return
		}
		dumped, err := w.dump(ctx, d, e)
		w.mu.Lock()
		e.cancel()
		e.cancel = nil
		w.dumped(e, dumped, err)
		w.mu.Unlock()
	}
}

// nextToDump waits for an entry to dump. It returns nil when there will be none, or not
// at this priority.
func (w *Writer) nextToDump(background bool) (*entry, context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.todo) == 0 && w.ctx.Err() == nil && w.background.Load() == background {
			w.changed.Wait()
		}
		if w.ctx.Err() != nil || w.background.Load() != background {
			return nil, nil
		}
		e := w.todo[0]
		w.todo = w.todo[1:]
		if e.finished {
			continue // one of its references failed
		}
		ctx, cancel := context.WithCancel(w.ctx)
		e.cancel = cancel
		return e, ctx
	}
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
	info := e.info
	file, err := w.cache.CreateTemp()
	if err != nil {
		return nil, cacheError(err)
	}
	out := &hashedFile{file: file, hash: sha256.New()}
	d.compress.Reset(out)
	in := &hashedNar{hash: sha256.New(), to: d.compress, read: &e.read}
	size, err := d.nar.Dump(ctx, in, info.Path)
	if err == nil {
		err = d.compress.Flush()
	}
	n := w.narInfo(info, in.hash, size, out)
	switch {
	case out.err != nil:
		err = cacheError(out.err)
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil || n.NarHash != bincache.Hash(info.NarHash) || info.NarSize != 0 && info.NarSize != size:
		err = w.judge(ctx, info, n, err)
	default:
		err = w.sign(n)
	}
	var infoFile *bincache.Temp
	if err == nil {
		file.StartSync()
		infoFile, err = w.cache.TempNarInfo(n)
		err = cacheError(err)
	}
	if err != nil {
		file.Discard()
		return nil, err
	}
	return &dump{narInfo: n, nar: file, infoFile: infoFile}, nil
}

func (w *Writer) narInfo(info *nixstore.Info, narHash hash.Hash, narSize int64, file *hashedFile) *bincache.NarInfo {
	fileHash := bincache.Hash(file.hash.Sum(nil))
	return &bincache.NarInfo{
		StorePath:   info.Path,
		URL:         bincache.NarName(fileHash, w.compression.Method),
		Compression: w.compression.Method,
		FileHash:    fileHash,
		FileSize:    file.size,
		NarHash:     bincache.Hash(narHash.Sum(nil)),
		NarSize:     narSize,
		References:  baseNames(info.References),
		Deriver:     strings.TrimPrefix(info.Deriver, w.store.Dirs().Store+"/"),
		Sigs:        slices.Sorted(slices.Values(info.Sigs)),
		CA:          info.CA,
	}
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
	to   compressor
	read *atomic.Int64 // bytes so far
}

func (h *hashedNar) Write(b []byte) (int, error) {
	h.hash.Write(b)
	h.read.Add(int64(len(b)))
	return h.to.Write(b)
}

// hashedFile writes a file of the cache and hashes it. It keeps its error, so
// that the cache's troubles can be told from the store's.
type hashedFile struct {
	file *bincache.Temp
	hash hash.Hash
	size int64
	err  error
}

func (h *hashedFile) Write(b []byte) (int, error) {
	h.hash.Write(b)
	n, err := h.file.Write(b)
	h.size += int64(n)
	h.err = err
	return n, err
}
