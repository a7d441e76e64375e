package compress

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
)

// A Method is how NARs are compressed.
type Method struct {
	Name  string // "zstd", "xz" or "none", as in a narinfo
	Level int    // for zstd 1 to 22, for xz 0 to 9
}

// Default is zstd at its own default level: on two cores it keeps up with Nix's
// fastest build steps, and xz needs fifty times as long.
var Default = Method{Name: "zstd", Level: 3}

// levels has the methods that have levels: the first, the last, and the one that is
// taken where none is named.
var levels = map[string]struct{ first, last, usual int }{
	"zstd": {1, 22, Default.Level},
	"xz":   {0, 9, 6}, // the program's own, and Nix's
}

// Parse reads "zstd", "zstd:LEVEL", "xz", "xz:LEVEL" or "none".
func Parse(text string) (Method, error) {
	name, level, given := strings.Cut(text, ":")
	l, ok := levels[name]
	switch {
	case text == "":
		return Default, nil
	case name == "none" && !given:
		return Method{Name: "none"}, nil
	case ok && !given:
		return Method{name, l.usual}, nil
	case ok:
		n, err := strconv.Atoi(level)
		if err == nil && n >= l.first && n <= l.last && strconv.Itoa(n) == level {
			return Method{name, n}, nil
		}
	}
	return Method{}, fmt.Errorf("compression %q is not known, want zstd, zstd:1 to zstd:22, xz, xz:0 to xz:9, or none", text)
}

// String returns what Parse reads.
func (m Method) String() string {
	if _, ok := levels[m.Name]; ok {
		return fmt.Sprintf("%s:%d", m.Name, m.Level)
	}
	return m.Name
}

// ErrNoProgram says that a method can't be used here, since it needs a program that is
// not there, or does not do what it should.
var ErrNoProgram = errors.New("a program is missing")

// Check returns an error if nothing can be compressed so here. It may wrap
// [ErrNoProgram].
func (m Method) Check() error {
	if m.Name == "xz" {
		return checkXz()
	}
	return nil
}

// A Writer compresses one NAR after the other. Only one goroutine may use it.
type Writer interface {
	io.Writer
	// Reset starts a new NAR, which goes to w. What is left of another one is
	// forgotten: from then on nothing is written to where that went.
	Reset(w io.Writer)
	// Flush writes what is left of the NAR.
	Flush() error
}

// NewWriter returns a Writer that works alone.
func (m Method) NewWriter() Writer {
	return m.WriterWith(NewFrames(NewExchange(m, sync.NewCond(new(sync.Mutex)), 1)))
}

// WriterWith returns a Writer: frames, if the method compresses.
func (m Method) WriterWith(frames *Frames) Writer {
	if m.Name == "none" {
		return &plain{}
	}
	return frames
}

// plain compresses nothing.
type plain struct{ w io.Writer }

func (p *plain) Reset(w io.Writer)           { p.w = w }
func (p *plain) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *plain) Flush() error                { return nil }
