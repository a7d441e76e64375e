package closurefile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync/atomic"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
)

// The numbers of Nix's export format.
const (
	streamEnd  = 0
	streamPath = 1
	pathMagic  = 0x4558494e // behind a NAR: "NIXE"
	noMore     = 0          // behind a path; 1 is a signature, which very old versions wrote
	oldSig     = 1
)

// A Result says what was exported.
type Result struct {
	Paths    int   `json:"paths"`
	Missing  int   `json:"missing"`   // references that were left out
	NarBytes int64 `json:"nar_bytes"` // sizes of the NARs
	Bytes    int64 `json:"bytes"`     // of the export
}

// Progress is how far an export or an import is.
type Progress struct {
	Paths, Done     int   // Paths is 0 if nobody knows
	NarBytes, Bytes int64 // of NARs: all, or 0 if nobody knows; done
}

// An Exporter exports closures from a cache, once.
type Exporter struct {
	closure *closure
	order   []int32
	small   int64  // how large a NAR may be that is verified before any of it is written
	buf     []byte // holds a small NAR until it is verified
	reader  *nar.Reader

	done     atomic.Int64 // paths
	narBytes atomic.Int64
	bytes    int64
}

// NewExporter finds what is to be exported. The error wraps [ErrMissing] if something is
// not there, and [bincache.ErrDamaged] if it is damaged, as far as sizes tell.
func NewExporter(ctx context.Context, s Source) (*Exporter, error) {
	c, err := newClosure(ctx, s)
	if err != nil {
		return nil, err
	}
	order, err := c.order()
	if err != nil {
		return nil, err
	}
	return &Exporter{closure: c, order: order, small: small}, nil
}

// Progress returns how far the export is.
func (e *Exporter) Progress() Progress {
	return Progress{Paths: len(e.order), Done: int(e.done.Load()), NarBytes: e.closure.narBytes, Bytes: e.narBytes.Load()}
}

func (e *Exporter) result() Result {
	return Result{Paths: int(e.done.Load()), Missing: e.closure.missing, NarBytes: e.narBytes.Load(), Bytes: e.bytes}
}

// small is cheap to hold in memory.
const small = 16 << 20

// Export writes the closures in the format of nix-store --export.
//
// A NAR that is not what its narinfo says ends it with an error that wraps
// [bincache.ErrDamaged]. If it is larger than 16 MiB, much of it may have been written
// then, but neither its path nor the end of the stream: nobody who reads it takes it for
// a path.
func (e *Exporter) Export(ctx context.Context, w io.Writer) (Result, error) {
	out := &counter{to: w}
	e.reader = nar.NewReader(nil)
	err := e.each(ctx, func(n *bincache.NarInfo, _ []byte) error { return e.exportPath(ctx, out, n) })
	if err == nil {
		_, err = out.Write(appendNumbers(nil, streamEnd))
	}
	e.bytes = out.bytes
	return e.result(), err
}

// each does something to all entries, references first.
func (e *Exporter) each(ctx context.Context, do func(n *bincache.NarInfo, text []byte) error) error {
	for _, id := range e.order {
		err := ctx.Err()
		for tries := 0; err == nil; tries++ {
			var n *bincache.NarInfo
			var text []byte
			if n, text, err = e.closure.read(id); err != nil {
				break
			}
			err = do(n, text)
			var gone *goneError
			if !errors.As(err, &gone) || tries > 0 {
				break
			}
			err = nil // it may have been recompressed, and its narinfo names another NAR now
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.closure.path(e.closure.items[id].name), err)
		}
		e.done.Add(1)
	}
	return nil
}

// A goneError says that a NAR could not be opened, and nothing of it was written.
type goneError struct{ error }

func (g *goneError) Unwrap() error { return g.error }

func (e *Exporter) openNar(n *bincache.NarInfo) (io.ReadCloser, int64, error) {
	f, size, err := e.closure.Cache.OpenNar(n)
	if errors.Is(err, bincache.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
		err = &goneError{err}
	}
	return f, size, err
}

func (e *Exporter) exportPath(ctx context.Context, w io.Writer, n *bincache.NarInfo) error {
	file, _, err := e.openNar(n)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := compress.NewReader(n.Compression, &source{ctx: ctx, from: file}, n.NarSize)
	if err != nil {
		return err
	}
	defer plain.Close()
	head := appendNumbers(nil, streamPath)
	out := &verified{want: n, hold: n.NarSize <= e.small, hash: sha256.New(), to: w, held: append(e.buf[:0], head...), read: &e.narBytes}
	defer func() { e.buf = out.held[:0] }()
	e.reader.Reset(plain)
	if _, _, err := e.reader.Copy(out); err != nil {
		return e.judge(out, err)
	}
	if end, err := e.reader.AtEnd(); err != nil {
		return e.judge(out, err)
	} else if !end {
		return fmt.Errorf("%w: something is behind the end of its NAR", bincache.ErrDamaged)
	}
	if err := out.verify(); err != nil {
		return err
	}
	return out.finish(e.trailer(n))
}

// judge tells what is wrong with a NAR from what is wrong with those who read it.
func (e *Exporter) judge(out *verified, err error) error {
	switch {
	case out.err != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, nar.ErrFormat), errors.Is(err, compress.ErrCorrupt), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: its NAR can't be read: %w", bincache.ErrDamaged, err)
	}
	return err
}

// trailer returns what follows the NAR of an entry.
func (e *Exporter) trailer(n *bincache.NarInfo) []byte {
	refs := slices.Compact(slices.Sorted(slices.Values(n.References)))
	b := appendNumbers(nil, pathMagic)
	b = nar.AppendString(b, n.StorePath)
	b = appendNumbers(b, uint64(len(refs)))
	for _, ref := range refs {
		b = nar.AppendString(b, e.closure.path(ref))
	}
	deriver := ""
	if n.Deriver != "" {
		deriver = e.closure.path(path.Base(n.Deriver))
	}
	b = nar.AppendString(b, deriver)
	return appendNumbers(b, noMore)
}

func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// A verified passes a NAR on while it is hashed. As long as it is small, nothing is
// written before it is known to be the right one.
type verified struct {
	want *bincache.NarInfo
	hold bool // until it is verified
	hash hash.Hash
	size int64
	to   io.Writer
	held []byte // not written yet, with what comes before the NAR
	err  error  // of to
	read *atomic.Int64
}

func (v *verified) Write(b []byte) (int, error) {
	v.hash.Write(b)
	v.size += int64(len(b))
	v.read.Add(int64(len(b)))
	if v.hold {
		if v.size > v.want.NarSize {
			return 0, v.verify()
		}
		v.held = append(v.held, b...)
		return len(b), nil
	}
	if err := v.finish(nil); err != nil {
		return 0, err
	}
	_, v.err = v.to.Write(b)
	return len(b), v.err
}

// verify returns an error if the NAR is not the right one.
func (v *verified) verify() error {
	if v.size != v.want.NarSize {
		return fmt.Errorf("%w: its NAR has not %d bytes", bincache.ErrDamaged, v.want.NarSize)
	}
	if is := v.hash.Sum(nil); !bytes.Equal(is, v.want.NarHash[:]) {
		return fmt.Errorf("%w: nar hash is %s, want %s", bincache.ErrDamaged, bincache.Hash(is), v.want.NarHash)
	}
	return nil
}

// finish writes what is held, and then b.
func (v *verified) finish(b []byte) error {
	v.held = append(v.held, b...)
	if len(v.held) == 0 {
		return nil
	}
	_, v.err = v.to.Write(v.held)
	v.held = v.held[:0]
	return v.err
}

// A counter counts what is written.
type counter struct {
	to    io.Writer
	bytes int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.to.Write(b)
	c.bytes += int64(n)
	return n, err
}

// A source reads until ctx ends.
type source struct {
	ctx  context.Context
	from io.Reader
}

func (s *source) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.from.Read(b)
}
