package compress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// An lzipReader reads lzip's format, which is LZMA between a header and a trailer:
// https://www.nongnu.org/lzip/manual/lzip_manual.html#File-format
type lzipReader struct {
	from *bufio.Reader
	lzma io.Reader // of the member that is being read, or nil
	crc  hash.Hash32
	size uint64 // read of the member
}

func (r *lzipReader) Read(b []byte) (int, error) {
	for {
		if r.lzma == nil {
			if err := r.begin(); err != nil {
				return 0, err
			}
		}
		n, err := r.lzma.Read(b)
		r.crc.Write(b[:n])
		r.size += uint64(n)
		if err == io.EOF {
			err = r.end()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// begin reads a member's header. It returns [io.EOF] if there is no more.
func (r *lzipReader) begin() error {
	var header [6]byte
	if _, err := io.ReadFull(r.from, header[:]); err != nil {
		return err
	}
	if string(header[:5]) != "LZIP\x01" {
		return errors.New("no header of version 1")
	}
	window := uint32(1) << (header[5] & 0x1f)
	window -= window / 16 * uint32(header[5]>>5)
	if window > MaxWindow {
		return fmt.Errorf("its window is %d bytes, want at most %d", window, MaxWindow)
	}
	// The same in LZMA's own header: lc 3, lp 0, pb 2, and a size that nobody knows.
	own := binary.LittleEndian.AppendUint32([]byte{2*5*9 + 3}, window)
	own = append(own, bytes.Repeat([]byte{0xff}, 8)...)
	var err error
	r.lzma, err = lzma.ReaderConfig{DictCap: MaxWindow}.NewReader(&headed{head: own, Reader: r.from})
	r.crc, r.size = crc32.NewIEEE(), 0
	return noEOF(err)
}

// end reads a member's trailer.
func (r *lzipReader) end() error {
	r.lzma = nil
	var trailer [20]byte // the last 8 bytes say how long the member is
	if _, err := io.ReadFull(r.from, trailer[:]); err != nil {
		return noEOF(err)
	}
	if binary.LittleEndian.Uint32(trailer[:]) != r.crc.Sum32() || binary.LittleEndian.Uint64(trailer[4:]) != r.size {
		return errors.New("checksum is wrong")
	}
	return nil
}

// headed puts something in front of a reader. It has ReadByte, so that the decoder
// takes no more from it than it needs.
type headed struct {
	head []byte
	*bufio.Reader
}

func (h *headed) Read(b []byte) (int, error) {
	if len(h.head) == 0 {
		return h.Reader.Read(b)
	}
	n := copy(b, h.head)
	h.head = h.head[n:]
	return n, nil
}

func (h *headed) ReadByte() (byte, error) {
	if len(h.head) == 0 {
		return h.Reader.ReadByte()
	}
	c := h.head[0]
	h.head = h.head[1:]
	return c, nil
}
