// Package nar writes and reads Nix archives: the one sequence of bytes that stands for a
// store path wherever Nix hashes, signs or copies it.
//
// # Format
//
// In the notation of the Nix manual, "Nix Archive (NAR) format" (figure 5.2 of
// Eelco Dolstra's thesis has it first):
//
//	nar       = str("nix-archive-1"), node;
//	node      = str("("), str("type"), ( regular | symlink | directory ), str(")");
//	regular   = str("regular"), [ str("executable"), str("") ], str("contents"), str(contents);
//	symlink   = str("symlink"), str("target"), str(target);
//	directory = str("directory"), { entry };
//	entry     = str("entry"), str("("), str("name"), str(name), str("node"), node, str(")");
//
// where str(s) is the length of s as a little-endian 64-bit integer, then s,
// then zeros up to a multiple of 8. Entries are sorted by the bytes of their
// names. (Where Nix's use-case-hack is on, Nix renames a file of which the file system
// would take the name for that of another one, and the archive has the name that it
// had before.) A file is executable if its owner may execute it. Times, owners, other
// permissions and hard links are not part of the format.
//
// # Promises
//
// The bytes are those of nix-store --dump. What Nix can't dump, such as a named
// pipe, is an error and never left out.
//
// Nothing outside the path gets in: below it every file is opened relative to
// its directory and without following symlinks, whatever is put in its place
// meanwhile.
//
// Memory depends on the names in the directories from the root down to the file
// at hand, never on the size of a file. One file descriptor is open for each
// level of directories.
package nar

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

const (
	// blockSize is how many bytes are collected before they are written.
	blockSize = 256 << 10

	// slack is room for what is appended between two looks at blockSize: the
	// target of a symlink, or the ends of maxDepth directories at once.
	slack = 16 << 10

	// maxDepth bounds the file descriptors that one dump holds. Recent versions
	// of Nix read less than 64 levels anyway.
	maxDepth = 256

	// maxTarget is the longest target of a symlink that Linux and Nix know.
	maxTarget = 4095
)

// The parts of a NAR that are always the same.
var (
	magic           = tokens("nix-archive-1")
	startRegular    = tokens("(", "type", "regular", "contents")
	startExecutable = tokens("(", "type", "regular", "executable", "", "contents")
	startSymlink    = tokens("(", "type", "symlink", "target")
	startDirectory  = tokens("(", "type", "directory")
	startEntry      = tokens("entry", "(", "name")
	startNode       = tokens("node")
	end             = tokens(")")
)

var errType = errors.New("not a regular file, directory or symlink")

// A Dumper writes NARs. It keeps its buffers between dumps and is for one
// goroutine at a time. The zero value is ready to use.
type Dumper struct {
	// CaseHack is the setting use-case-hack of the Nix that wrote the files: on file
	// systems that take "a" and "A" for the same it adds a suffix to one of two such
	// names, which Dump removes. Nil means Nix's default: on macOS, and nowhere else.
	CaseHack *bool

	// Listing, if it is not nil, is told what the next NAR holds. Its errors are not
	// Dump's.
	Listing *Listing

	w       io.Writer
	written int64

	buf     []byte // not written yet
	path    []byte // of the node at hand, for errors
	dirents []byte // for readEntries
	target  []byte // for symlink

	// stat is here because a variable whose address goes to the kernel would be
	// allocated anew for each file.
	stat unix.Stat_t
}

// Dump writes path as a NAR to w and returns how many bytes it wrote. If path is
// a symlink, the NAR holds the symlink.
//
// ctx is looked at between files and between blocks of large files.
//
// An error of w is returned as it is. All others name the file: if it vanished
// the error wraps [fs.ErrNotExist], if it shrank while it was read
// [io.ErrUnexpectedEOF]. A file that grows has the size it had when it was
// opened.
func (d *Dumper) Dump(ctx context.Context, w io.Writer, path string) (int64, error) {
	if d.buf == nil {
		d.buf = make([]byte, 0, blockSize+slack)
		d.dirents = make([]byte, 32<<10)
		d.target = make([]byte, maxTarget+1)
	}
	d.w, d.written = w, 0
	d.buf = append(d.buf[:0], magic...)
	d.path = append(d.path[:0], path...)

	err := d.node(ctx, unix.AT_FDCWD, entry{name: path}, 0)
	if err == nil {
		err = d.flush()
	}
	d.w = nil
	return d.written, err
}

// node appends the file e in the directory dir.
func (d *Dumper) node(ctx context.Context, dir int, e entry, depth int) error {
	if err := d.makeRoom(ctx); err != nil {
		return err
	}
	if e.kind == 0 {
		if _, err := retry(func() (int, error) {
			return 0, unix.Fstatat(dir, e.name, &d.stat, unix.AT_SYMLINK_NOFOLLOW)
		}); err != nil {
			return d.fail("stat", err)
		}
		e.kind = uint32(d.stat.Mode) & unix.S_IFMT
	}
	switch e.kind {
	case unix.S_IFREG, unix.S_IFDIR:
	case unix.S_IFLNK:
		return d.symlink(dir, e.name)
	default:
		// Not even to be opened: with a device or a pipe that can have effects.
		return d.fail("dump", errType)
	}

	// Another file may be there by now. O_NOFOLLOW refuses a symlink, O_NONBLOCK
	// doesn't wait for the other end of a pipe, and only what the descriptor
	// itself says counts from here on.
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return d.fail("open", err)
	}
	defer unix.Close(fd)
	if _, err := retry(func() (int, error) { return 0, unix.Fstat(fd, &d.stat) }); err != nil {
		return d.fail("stat", err)
	}
	switch d.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return d.regular(ctx, fd)
	case unix.S_IFDIR:
		return d.directory(ctx, fd, depth)
	default:
		return d.fail("dump", errType)
	}
}

// regular appends the regular file fd, which d.stat describes.
func (d *Dumper) regular(ctx context.Context, fd int) error {
	if d.stat.Mode&unix.S_IXUSR != 0 {
		d.buf = append(d.buf, startExecutable...)
	} else {
		d.buf = append(d.buf, startRegular...)
	}
	size := d.stat.Size
	d.buf = binary.LittleEndian.AppendUint64(d.buf, uint64(size))
	d.Listing.regular(d.stat.Mode&unix.S_IXUSR != 0, size, d.written+int64(len(d.buf)))
	for left := size; left > 0; {
		if err := d.makeRoom(ctx); err != nil {
			return err
		}
		free := d.buf[len(d.buf):blockSize]
		free = free[:min(int64(len(free)), left)]
		n, err := retry(func() (int, error) { return unix.Read(fd, free) })
		if err != nil {
			return d.fail("read", err)
		}
		if n == 0 {
			return d.fail("read", fmt.Errorf("size is %d now, want %d: %w", size-left, size, io.ErrUnexpectedEOF))
		}
		d.buf = d.buf[:len(d.buf)+n]
		left -= int64(n)
	}
	d.buf = appendPadding(d.buf, size)
	d.buf = append(d.buf, end...)
	return nil
}

// symlink appends the symlink called name in the directory dir.
func (d *Dumper) symlink(dir int, name string) error {
	n, err := retry(func() (int, error) { return unix.Readlinkat(dir, name, d.target) })
	if err != nil {
		return d.fail("readlink", err)
	}
	if n > maxTarget {
		return d.fail("readlink", fmt.Errorf("target is longer than %d bytes", maxTarget))
	}
	d.buf = append(d.buf, startSymlink...)
	d.buf = appendString(d.buf, d.target[:n])
	d.buf = append(d.buf, end...)
	d.Listing.symlink(d.target[:n])
	return nil
}

// directory appends the directory fd with everything below it.
func (d *Dumper) directory(ctx context.Context, fd int, depth int) error {
	if depth >= maxDepth {
		return d.fail("dump", fmt.Errorf("more than %d directories inside each other", maxDepth))
	}
	entries, err := d.readEntries(fd)
	if err != nil {
		return d.fail("read", err)
	}
	caseHack := defaultCaseHack
	if d.CaseHack != nil {
		caseHack = *d.CaseHack
	}
	entries, err = sortEntries(entries, caseHack)
	if err != nil {
		return d.fail("dump", err)
	}

	d.buf = append(d.buf, startDirectory...)
	d.Listing.startDirectory()
	length := len(d.path)
	for i, e := range entries {
		d.path = append(append(d.path, '/'), e.name...)
		d.buf = append(d.buf, startEntry...)
		d.buf = appendString(d.buf, e.archiveName(caseHack))
		d.Listing.name(e.archiveName(caseHack), i)
		d.buf = append(d.buf, startNode...)
		if err := d.node(ctx, fd, e, depth+1); err != nil {
			return err
		}
		d.buf = append(d.buf, end...)
		d.path = d.path[:length]
	}
	d.buf = append(d.buf, end...)
	d.Listing.endDirectory()
	return nil
}

// makeRoom writes the buffer if there is a block of it, and is where a dump
// notices that ctx is done.
func (d *Dumper) makeRoom(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return d.fail("dump", err)
	}
	if len(d.buf) < blockSize {
		return nil
	}
	return d.flush()
}

func (d *Dumper) flush() error {
	n, err := d.w.Write(d.buf)
	d.written += int64(n)
	if err == nil && n < len(d.buf) {
		err = io.ErrShortWrite
	}
	d.buf = d.buf[:0]
	return err
}

// fail returns err as what went wrong when op was done to the node at hand.
func (d *Dumper) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: string(d.path), Err: err}
}

// retry calls f until no signal interrupts it. Go's runtime sends itself
// signals all the time; network and FUSE file systems let them through.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// tokens returns strings as they stand in a NAR.
func tokens(strings ...string) []byte {
	var b []byte
	for _, s := range strings {
		b = appendString(b, s)
	}
	return b
}

func appendString[S string | []byte](b []byte, s S) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	b = append(b, s...)
	return appendPadding(b, int64(len(s)))
}

// appendPadding appends the zeros that follow a string of the given size.
func appendPadding(b []byte, size int64) []byte {
	const zeros = "\x00\x00\x00\x00\x00\x00\x00"
	return append(b, zeros[:-size&7]...)
}
