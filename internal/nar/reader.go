package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrFormat says that what was read is not what Nix writes there.
var ErrFormat = errors.New("bad format")

const (
	// maxName is the longest name of a file that Linux and Nix know.
	maxName = 255

	// maxTag is the longest of the strings that are always the same.
	maxTag = len("executable")

	// MaxString is the longest string that [Reader.String] reads.
	MaxString = 8 << 10
)

// What stands between the parts of a NAR that differ.
var (
	startType = tokens("(", "type")
	startName = tokens("(", "name")
	empty     = tokens("")
)

// A Reader reads what Nix writes to files and pipes: NARs, and numbers and strings
// between them.
//
// It takes a NAR only if it is written as the grammar says, with the limits of the
// Dumper: what it takes, is the one archive of something that can be a store path. So
// others, who may be less strict, see the same in it, and see it end at the same place.
//
// Memory is one buffer. It may read further than it is asked to.
type Reader struct {
	// Flat, if it is not nil, gets the contents of a NAR that is just one file that is
	// not executable.
	Flat io.Writer

	// Listing, if it is not nil, is told what the next NAR holds. Its errors are not the
	// Reader's: who has it closes it.
	Listing *Listing

	from   io.Reader
	err    error // what from said in the end
	to     io.Writer
	buf    []byte
	passed int   // in buf: what is before was given to to
	pos    int   // in buf: what is before is read
	end    int   // of what is in buf
	base   int64 // where buf begins in what was read
	begin  int64 // where the NAR begins
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader {
	return &Reader{from: r, buf: make([]byte, blockSize+slack)}
}

// Reset makes the Reader one of r, as if it were new.
func (r *Reader) Reset(from io.Reader) {
	*r = Reader{Flat: r.Flat, from: from, buf: r.buf}
}

// Offset returns how many bytes were read.
func (r *Reader) Offset() int64 { return r.base + int64(r.pos) }

// AtEnd tells whether everything was read.
func (r *Reader) AtEnd() (bool, error) {
	err := r.need(1)
	if errors.Is(err, io.ErrUnexpectedEOF) && r.err == io.EOF {
		return true, nil
	}
	return false, err
}

// Peek returns the next bytes, which are few, without reading them.
func (r *Reader) Peek(count int) ([]byte, error) {
	err := r.need(count)
	return r.buf[r.pos:min(r.pos+count, r.end)], err
}

// Uint64 reads a number.
func (r *Reader) Uint64() (uint64, error) {
	if err := r.need(8); err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint64(r.buf[r.pos:])
	r.pos += 8
	return n, nil
}

// String reads a string of at most limit bytes, which is at most [MaxString].
func (r *Reader) String(limit int) (string, error) {
	s, err := r.bytes(min(limit, MaxString))
	return string(s), err
}

// Copy reads a NAR and writes it to w, as it is. It returns its size, and whether Flat
// got its contents.
//
// The error wraps [ErrFormat] if it is no NAR, and [io.ErrUnexpectedEOF] if it ends too
// early; what is right was written nevertheless. Errors of w are returned as they are.
func (r *Reader) Copy(w io.Writer) (size int64, flat bool, err error) {
	r.begin = r.Offset()
	r.to, r.passed = w, r.pos
	defer func() { r.to = nil }()
	if err = r.expect(magic, "a nar"); err == nil {
		flat, err = r.node(0)
	}
	if err2 := r.pass(); err == nil {
		err = err2
	}
	return r.Offset() - r.begin, flat && r.Flat != nil && err == nil, err
}

// node reads a file, symlink or directory, and tells whether it is a file that is not
// executable.
func (r *Reader) node(depth int) (flat bool, err error) {
	if err := r.expect(startType, "( type"); err != nil {
		return false, err
	}
	kind, err := r.bytes(maxTag)
	if err != nil {
		return false, err
	}
	switch string(kind) {
	case "regular":
		return r.regular(depth)
	case "symlink":
		return false, r.symlink()
	case "directory":
		return false, r.directory(depth)
	}
	return false, r.bad("%q is no type of file", kind)
}

func (r *Reader) regular(depth int) (flat bool, err error) {
	flat = true
	tag, err := r.bytes(maxTag)
	if err == nil && string(tag) == "executable" {
		flat = false
		if err = r.expect(empty, "an empty string"); err == nil {
			tag, err = r.bytes(maxTag)
		}
	}
	if err != nil {
		return false, err
	}
	if string(tag) != "contents" {
		return false, r.bad("%q is where contents should be", tag)
	}
	size, err := r.Uint64()
	if err != nil {
		return false, err
	}
	if size > math.MaxInt64 {
		return false, r.bad("a file has %d bytes", size)
	}
	r.Listing.regular(!flat, int64(size), r.Offset()-r.begin)
	if err := r.contents(int64(size), flat && depth == 0); err != nil {
		return false, err
	}
	return flat, r.expect(end, ")")
}

// contents reads the contents of a file.
func (r *Reader) contents(size int64, toFlat bool) error {
	for left := size; left > 0; {
		if err := r.need(1); err != nil {
			return err
		}
		part := r.buf[r.pos:r.end]
		part = part[:min(int64(len(part)), left)]
		r.pos += len(part)
		left -= int64(len(part))
		if toFlat && r.Flat != nil {
			if _, err := r.Flat.Write(part); err != nil {
				return err
			}
		}
	}
	return r.padding(size)
}

func (r *Reader) symlink() error {
	tag, err := r.bytes(maxTag)
	if err != nil {
		return err
	}
	if string(tag) != "target" {
		return r.bad("%q is where the target of a symlink should be", tag)
	}
	target, err := r.bytes(maxTarget)
	if err != nil {
		return err
	}
	if len(target) == 0 || bytes.IndexByte(target, 0) >= 0 {
		return r.bad("%.100q can't be the target of a symlink", target)
	}
	r.Listing.symlink(target)
	return r.expect(end, ")")
}

func (r *Reader) directory(depth int) error {
	if depth >= maxDepth {
		return r.bad("more than %d directories inside each other", maxDepth)
	}
	var last []byte
	r.Listing.startDirectory()
	for count := 0; ; count++ {
		tag, err := r.bytes(maxTag)
		if err != nil {
			return err
		}
		switch string(tag) {
		case ")":
			r.Listing.endDirectory()
			return nil
		case "entry":
		default:
			return r.bad("%q is where the next entry of a directory should be", tag)
		}
		if err := r.expect(startName, "( name"); err != nil {
			return err
		}
		name, err := r.bytes(maxName)
		if err != nil {
			return err
		}
		if len(name) == 0 || string(name) == "." || string(name) == ".." || bytes.ContainsAny(name, "/\x00") {
			return r.bad("%q can't be the name of a file", name)
		}
		if bytes.Compare(name, last) <= 0 {
			return r.bad("%q comes behind %q", name, last)
		}
		last = append(last[:0], name...)
		if r.Listing != nil {
			r.Listing.name(string(name), count)
		}
		if err := r.expect(startNode, "node"); err != nil {
			return err
		}
		if _, err := r.node(depth + 1); err != nil {
			return err
		}
		if err := r.expect(end, ")"); err != nil {
			return err
		}
	}
}

// expect reads what is always the same. what names it.
func (r *Reader) expect(want []byte, what string) error {
	// Byte by byte, as it were: what is wrong from the start is not just cut off.
	err := r.need(len(want))
	have := r.buf[r.pos:min(r.pos+len(want), r.end)]
	if !bytes.HasPrefix(want, have) {
		return r.bad("this is not %s", what)
	}
	if err == nil {
		r.pos += len(want)
	}
	return err
}

// bytes reads a string, which is there until something else is read.
func (r *Reader) bytes(limit int) ([]byte, error) {
	size, err := r.Uint64()
	if err != nil {
		return nil, err
	}
	if size > uint64(limit) {
		return nil, r.bad("a string has %d bytes, want at most %d", size, limit)
	}
	length := int(size)
	if err := r.need(length + (-length & 7)); err != nil {
		return nil, err
	}
	s := r.buf[r.pos : r.pos+length]
	r.pos += length
	return s, r.padding(int64(size))
}

// padding reads the zeros that follow a string of the given size.
func (r *Reader) padding(size int64) error {
	count := int(-size & 7)
	if err := r.need(count); err != nil {
		return err
	}
	for _, b := range r.buf[r.pos : r.pos+count] {
		if b != 0 {
			return r.bad("padding is not zero")
		}
	}
	r.pos += count
	return nil
}

// need makes sure that count bytes are there to be read. They are fewer than slack.
func (r *Reader) need(count int) error {
	for tries := 0; r.end-r.pos < count; {
		if r.end == len(r.buf) {
			if err := r.pass(); err != nil {
				return err
			}
			copy(r.buf, r.buf[r.pos:r.end])
			r.base += int64(r.pos)
			r.end -= r.pos
			r.pos, r.passed = 0, 0
		}
		if r.err != nil {
			return r.cut()
		}
		var n int
		n, r.err = r.from.Read(r.buf[r.end:])
		r.end += n
		if n > 0 {
			tries = 0
		} else if tries++; r.err == nil && tries > 100 {
			r.err = io.ErrNoProgress
		}
	}
	return nil
}

// cut returns why there is nothing more to read.
func (r *Reader) cut() error {
	if r.err == io.EOF {
		return fmt.Errorf("cut off at byte %d: %w", r.base+int64(r.end), io.ErrUnexpectedEOF)
	}
	return r.err
}

// pass writes what was read of a NAR.
func (r *Reader) pass() error {
	part := r.buf[r.passed:r.pos]
	r.passed = r.pos
	if r.to == nil || len(part) == 0 {
		return nil
	}
	n, err := r.to.Write(part)
	if err == nil && n < len(part) {
		err = io.ErrShortWrite
	}
	return err
}

// bad returns an error about what was read last.
func (r *Reader) bad(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", ErrFormat, r.Offset(), fmt.Sprintf(format, args...))
}

// AppendString appends a string as it stands in a NAR, and between NARs.
func AppendString(b []byte, s string) []byte { return appendString(b, s) }
