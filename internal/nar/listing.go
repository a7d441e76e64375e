package nar

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// ErrNotText says that a NAR has no listing: JSON is Unicode, and names and targets of
// symlinks need not be.
var ErrNotText = errors.New("not UTF-8, which a listing has to be")

// A Listing writes what Nix's write-nar-listing writes of a NAR, byte for byte as Nix
// 2.34 does: which files there are, and where in the NAR their contents are.
//
//	{"root":NODE,"version":1}
//	{"entries":{NAME:NODE,…},"type":"directory"}
//	{"executable":true,"narOffset":N,"size":N,"type":"regular"}
//	{"target":TEXT,"type":"symlink"}
//
// What is not executable has nothing that says so. It is written while the NAR is, so that
// memory does not depend on how much there is to list. A nil Listing lists nothing.
type Listing struct {
	w   io.Writer
	buf []byte
	err error // after which nothing is written
}

// listingBlock is how much of a listing is collected before it is written.
const listingBlock = 16 << 10

// NewListing returns a Listing, for one NAR, that goes to w.
func NewListing(w io.Writer) *Listing {
	return &Listing{w: w, buf: append(make([]byte, 0, listingBlock+1<<10), `{"root":`...)}
}

// Close writes what is left, after the NAR was dumped without an error. The error is
// that of the writer, or wraps [ErrNotText]: then what was written is of no use.
func (l *Listing) Close() error {
	if l.err == nil {
		l.buf = append(l.buf, `,"version":1}`...)
		l.flush()
	}
	return l.err
}

func (l *Listing) regular(executable bool, size, offset int64) {
	if l == nil || l.err != nil {
		return
	}
	l.buf = append(l.buf, '{')
	if executable {
		l.buf = append(l.buf, `"executable":true,`...)
	}
	l.buf = strconv.AppendInt(append(l.buf, `"narOffset":`...), offset, 10)
	l.buf = strconv.AppendInt(append(l.buf, `,"size":`...), size, 10)
	l.buf = append(l.buf, `,"type":"regular"}`...)
}

func (l *Listing) symlink(target []byte) {
	if l == nil || l.err != nil {
		return
	}
	l.buf = append(l.buf, `{"target":`...)
	l.text(target)
	l.buf = append(l.buf, `,"type":"symlink"}`...)
}

func (l *Listing) startDirectory() {
	if l != nil && l.err == nil {
		l.buf = append(l.buf, `{"entries":{`...)
	}
}

// name begins the entry of a directory that has so many before it.
func (l *Listing) name(name string, before int) {
	if l == nil || l.err != nil {
		return
	}
	if len(l.buf) >= listingBlock {
		l.flush()
	}
	if before > 0 {
		l.buf = append(l.buf, ',')
	}
	l.text([]byte(name))
	l.buf = append(l.buf, ':')
}

func (l *Listing) endDirectory() {
	if l != nil && l.err == nil {
		l.buf = append(l.buf, `},"type":"directory"}`...)
	}
}

// text appends a string as Nix's library for JSON does: all but what has to be escaped
// is as it is.
func (l *Listing) text(text []byte) {
	if !utf8.Valid(text) {
		l.err = fmt.Errorf("%q is %w", text, ErrNotText)
		return
	}
	l.buf = append(l.buf, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			l.buf = append(l.buf, '\\', c)
		case c >= ' ':
			l.buf = append(l.buf, c)
		case '\b' <= c && c <= '\r' && c != '\v':
			l.buf = append(l.buf, '\\', "btn_fr"[c-'\b'])
		default:
			l.buf = fmt.Appendf(l.buf, `\u%04x`, c)
		}
	}
	l.buf = append(l.buf, '"')
}

func (l *Listing) flush() {
	n, err := l.w.Write(l.buf)
	if err == nil && n < len(l.buf) {
		err = io.ErrShortWrite
	}
	l.buf, l.err = l.buf[:0], err
}
