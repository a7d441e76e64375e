package cachewriter

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/DataDog/zstd"
)

// A Compression is how NARs are compressed.
type Compression struct {
	Method string // "zstd" or "none", as in a narinfo
	Level  int    // for zstd, 1 to 22
}

// DefaultCompression is zstd at its own default level: on two cores it keeps up
// with Nix's fastest build steps, and xz needs fifty times as long.
var DefaultCompression = Compression{Method: "zstd", Level: 3}

// ParseCompression reads "zstd", "zstd:LEVEL" or "none".
func ParseCompression(text string) (Compression, error) {
	method, level, given := strings.Cut(text, ":")
	switch {
	case text == "":
		return DefaultCompression, nil
	case method == "none" && !given:
		return Compression{Method: "none"}, nil
	case method == "zstd" && !given:
		return DefaultCompression, nil
	case method == "zstd":
		n, err := strconv.Atoi(level)
		if err == nil && n >= 1 && n <= 22 {
			return Compression{Method: "zstd", Level: n}, nil
		}
	}
	return Compression{}, fmt.Errorf("compression %q is not known, want zstd, zstd:1 to zstd:22, or none", text)
}

// String returns what ParseCompression reads.
func (c Compression) String() string {
	if c.Method == "zstd" {
		return fmt.Sprintf("zstd:%d", c.Level)
	}
	return c.Method
}

// A compressor compresses one NAR after the other.
type compressor interface {
	io.Writer
	// Reset starts a new NAR, which goes to w.
	Reset(w io.Writer)
	// Flush writes what is left of the NAR.
	Flush() error
}

func newCompressor(c Compression) compressor {
	if c.Method == "none" {
		return &plain{}
	}
	return &frames{level: c.Level, zstd: zstd.NewCtx()}
}

// plain compresses nothing.
type plain struct{ w io.Writer }

func (p *plain) Reset(w io.Writer)           { p.w = w }
func (p *plain) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *plain) Flush() error                { return nil }

// frameSize is how much of a NAR is in one zstd frame. Frames know nothing of
// each other, so a frame is all of a NAR that is ever in memory, and any decoder
// takes them one after the other (RFC 8878, section 3). Nix 2.35 writes the same
// with 16 MiB; at 8 MiB a NAR is not measurably larger.
const frameSize = 8 << 20

// frames compresses with libzstd in independent frames.
type frames struct {
	level int
	zstd  zstd.Ctx
	w     io.Writer
	in    []byte // what is not compressed yet, less than a frame
	out   []byte // a compressed frame
}

func (f *frames) Reset(w io.Writer) {
	f.w = w
	f.in = f.in[:0]
}

func (f *frames) Write(b []byte) (int, error) {
	if f.in == nil {
		f.in = make([]byte, 0, frameSize)
		f.out = make([]byte, zstd.CompressBound(frameSize))
	}
	n := len(b)
	for len(b) > 0 {
		room := min(frameSize-len(f.in), len(b))
		f.in = append(f.in, b[:room]...)
		b = b[room:]
		if len(f.in) == frameSize {
			if err := f.Flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (f *frames) Flush() error {
	if len(f.in) == 0 {
		return nil
	}
	frame, err := f.zstd.CompressLevel(f.out, f.in, f.level)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	f.in = f.in[:0]
	_, err = f.w.Write(frame)
	return err
}
