// Package compress reads NARs that are compressed in any of the ways that Nix has
// names for.
//
// What is read is a stranger's. Whatever it is, reading ends with an error or with
// exactly as many bytes as the caller was told to expect, and takes no more memory
// than a window of [MaxWindow] and some buffers.
package compress

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
	"github.com/xi2/xz"
)

var (
	// ErrUnsupported says that there is no decoder for a method, though Nix may
	// have one.
	ErrUnsupported = errors.New("there is no decoder for this compression")
	// ErrCorrupt says that compressed data is damaged, or not what it was said to be.
	ErrCorrupt = errors.New("compressed data is damaged")
)

// MaxWindow bounds how far back compressed data may refer, and so how much memory it
// takes to read it. It is what libzstd accepts, and with it every Nix; xz -9 needs
// half of it.
const MaxWindow = 128 << 20

// decoders has those of the methods that a narinfo may name for which there is one.
// It has not grzip, lrzip and lzop, for which Nix too needs programs that nobody has.
var decoders = map[string]func(*bufio.Reader) (io.Reader, error){
	"":         newBzip2, // as Nix takes a narinfo that does not say
	"none":     func(r *bufio.Reader) (io.Reader, error) { return r, nil },
	"br":       newBrotli,
	"bzip2":    newBzip2,
	"compress": func(r *bufio.Reader) (io.Reader, error) { return &lzwReader{from: r}, nil },
	"gzip":     func(r *bufio.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"lz4":      func(r *bufio.Reader) (io.Reader, error) { return lz4.NewReader(r), nil },
	"lzip":     func(r *bufio.Reader) (io.Reader, error) { return &lzipReader{from: r}, nil },
	"lzma":     func(r *bufio.Reader) (io.Reader, error) { return lzma.ReaderConfig{DictCap: MaxWindow}.NewReader(r) },
	"xz":       func(r *bufio.Reader) (io.Reader, error) { return xz.NewReader(r, MaxWindow) },
	"zstd":     newZstd,
}

func newBzip2(r *bufio.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }

// newZstd does without libzstd: the reader that goes with it stumbles over several small
// frames, and takes a file that is cut off for whole.
func newZstd(r *bufio.Reader) (io.Reader, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxWindow))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

func newBrotli(r *bufio.Reader) (io.Reader, error) { return brotliReader{brotli.NewReader(r)}, nil }

// A brotliReader does without an error of the library's, which takes what is in its own
// buffer for something behind the end, if the end comes in small pieces.
type brotliReader struct{ *brotli.Reader }

func (r brotliReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && err.Error() == "brotli: excessive input" {
		err = io.EOF
	}
	return n, err
}

// sourceBuffer is how much is read from the source at a time.
const sourceBuffer = 64 << 10

// NewReader returns a reader of what is compressed in r. It yields exactly size bytes
// before [io.EOF], or an error that wraps [ErrCorrupt]: if that is a NarInfo's
// NarSize, no NAR can be larger than it claims. Errors of r are returned as they are.
//
// The method is a NarInfo's Compression. The error wraps [ErrUnsupported] if there is no
// decoder for it.
//
// The reader has to be closed, which does not close r.
func NewReader(method string, r io.Reader, size int64) (io.ReadCloser, error) {
	open, ok := decoders[method]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, method)
	}
	return &reader{method: method, open: open, source: source{r: r}, left: size}, nil
}

// A reader decompresses, and counts.
type reader struct {
	method string
	open   func(*bufio.Reader) (io.Reader, error)
	source source
	from   io.Reader // the decoder; nil before the first Read
	left   int64     // bytes to come
	err    error     // of the last Read
}

func (r *reader) Read(b []byte) (n int, err error) {
	if r.err != nil || len(b) == 0 {
		return 0, r.err
	}
	if r.left > 0 {
		n, err = r.decode(b[:min(int64(len(b)), r.left)])
		r.left -= int64(n)
	} else {
		var more [1]byte
		if n, err = r.decode(more[:]); n > 0 {
			n, err = 0, errors.New("more comes out than was said")
		}
	}
	switch {
	case err == io.EOF && r.left > 0:
		err = errors.New("less comes out than was said")
	case err == nil || err == io.EOF:
		r.err = err
		return n, err
	}
	if r.err = r.source.err; r.err == nil {
		r.err = fmt.Errorf("%w: %s: %w", ErrCorrupt, r.method, err)
	}
	return n, r.err
}

// noProgress is how often a decoder may return nothing without saying why.
const noProgress = 100

// decode reads from the decoder. That is a library's, and its input a stranger's: if it
// panics, that is one more sign of damage, and no reason to end the program.
func (r *reader) decode(b []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("decoder gave up: %v", p)
		}
	}()
	if r.from == nil {
		from, err := r.open(bufio.NewReaderSize(&r.source, sourceBuffer))
		if err != nil {
			return 0, noEOF(err)
		}
		r.from = from
	}
	for range noProgress {
		if n, err = r.from.Read(b); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// Close frees what the decoder has.
func (r *reader) Close() error {
	from := r.from
	r.from, r.err = nil, errors.New("reader is closed")
	if c, ok := from.(io.Closer); ok {
		_ = c.Close() // (ignored) it was read as far as anybody wanted
	}
	return nil
}

// noEOF returns an error that nobody takes for the regular end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A source keeps its error, so that it can be told from the decoder's.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
