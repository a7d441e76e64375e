package compress

import (
	"bufio"
	"errors"
	"io"
)

const (
	lzwClear  = 256 // the code that makes everybody forget what was agreed on
	lzwFirst  = 257 // the first one that stands for a string
	lzwMinLen = 9   // bits of the first codes
	lzwMaxLen = 16
)

// An lzwReader reads the format of compress(1), whose files end in .Z. That is not what
// package compress/lzw reads: codes become longer a step later, and behind a clear code
// there is padding.
type lzwReader struct {
	from   *bufio.Reader
	begun  bool
	maxLen uint // bits of the longest codes
	length uint // bits of the next code
	bits   uint // that are not used yet
	have   uint // how many
	read   uint // bytes since codes have this length, or since the last clear code

	prefix [1 << lzwMaxLen]uint16 // a code's string is that of this one
	suffix [1 << lzwMaxLen]byte   // and this
	next   int                    // the first code that means nothing yet
	last   int                    // the code before, or -1
	first  byte                   // of its string

	out []byte // what the last code stands for, backwards
}

func (r *lzwReader) Read(b []byte) (n int, err error) {
	for n < len(b) {
		if len(r.out) > 0 {
			b[n] = r.out[len(r.out)-1]
			r.out = r.out[:len(r.out)-1]
			n++
			continue
		}
		if err := r.decode(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// decode reads a code.
func (r *lzwReader) decode() error {
	if !r.begun {
		if err := r.begin(); err != nil {
			return err
		}
	}
	code, err := r.code()
	if err == nil && code == lzwClear {
		code, err = r.clear()
	}
	if err != nil {
		return err
	}
	if code > r.next || code == r.next && r.last < 0 || code == lzwClear {
		return errors.New("code means nothing")
	}
	known := code
	if code == r.next { // the string that this very code makes
		r.out = append(r.out, r.first)
		known = r.last
	}
	for known > 0xff {
		r.out = append(r.out, r.suffix[known])
		known = int(r.prefix[known])
	}
	r.first = byte(known)
	r.out = append(r.out, r.first)
	if r.last >= 0 && r.next < 1<<r.maxLen {
		r.prefix[r.next], r.suffix[r.next] = uint16(r.last), r.first
		r.next++
	}
	if r.next >= 1<<r.length && r.length < r.maxLen {
		r.setLength(r.length + 1)
	}
	r.last = code
	return nil
}

func (r *lzwReader) begin() error {
	var header [3]byte
	if _, err := io.ReadFull(r.from, header[:]); err != nil {
		return noEOF(err)
	}
	r.maxLen = uint(header[2] & 0x1f)
	if header[0] != 0x1f || header[1] != 0x9d || header[2]&0x80 == 0 || r.maxLen < lzwMinLen || r.maxLen > lzwMaxLen {
		return errors.New("no header of compress")
	}
	r.begun = true
	r.reset()
	return nil
}

// reset forgets all strings.
func (r *lzwReader) reset() {
	r.setLength(lzwMinLen)
	r.next, r.last = lzwFirst, -1
}

func (r *lzwReader) setLength(bits uint) { r.length, r.read = bits, 0 }

// clear does what a clear code says, and returns the first code behind it. Codes are
// written eight at a time, of which the rest is skipped.
func (r *lzwReader) clear() (int, error) {
	r.have, r.bits = 0, 0
	for r.read%r.length != 0 {
		if err := r.readByte(); err != nil {
			return 0, err
		}
		r.have, r.bits = 0, 0
	}
	r.reset()
	return r.code()
}

// code reads the next code. It returns [io.EOF] where there is none.
func (r *lzwReader) code() (int, error) {
	for r.have < r.length {
		if err := r.readByte(); err != nil {
			return 0, err // what is left is padding
		}
	}
	code := r.bits & (1<<r.length - 1)
	r.bits >>= r.length
	r.have -= r.length
	return int(code), nil
}

func (r *lzwReader) readByte() error {
	c, err := r.from.ReadByte()
	if err != nil {
		return err
	}
	r.bits |= uint(c) << r.have
	r.have += 8
	r.read++
	return nil
}
