package cachewriter

import (
	"fmt"
	"io"
	"strconv"
	"strings"
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

// plain compresses nothing.
type plain struct{ w io.Writer }

func (p *plain) Reset(w io.Writer)           { p.w = w }
func (p *plain) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *plain) Flush() error                { return nil }
