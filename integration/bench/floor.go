package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/DataDog/zstd"
	"golang.org/x/sys/unix"
)

// The floor is a contender that does only what the format can't do without:
// it reads every file once, makes the NAR of it, compresses that with libzstd at
// level 3, and computes SHA-256 of both, one path on each core at a time, the
// largest first. It knows the closure beforehand, asks no database, compares no
// hash, writes no narinfo, keeps no order and makes nothing durable.
//
// It is a process of its own: the arguments "floor DIR", and a line with size and
// path of each NAR on stdin.

const (
	floorFrame = 8 << 20   // a zstd frame, as larder has them
	floorBlock = 256 << 10 // what is hashed at once, while it is in the processor's cache
)

func findFloor(w *workshop) contender {
	return contender{
		Key:   "floor",
		Label: "floor: read, hash, zstd 3",
		files: "nar/*",
		copy: func(ctx context.Context, name string, c *corpus) *exec.Cmd {
			cmd := exec.CommandContext(ctx, "/proc/self/exe", "floor", w.path(name))
			cmd.Env = env(w.dir)
			var list strings.Builder
			for _, e := range c.Entries {
				fmt.Fprintf(&list, "%d %s\n", e.NarSize, e.Path)
			}
			cmd.Stdin = strings.NewReader(list.String())
			return cmd
		},
	}
}

// runFloor is the process.
func runFloor(dir string, list io.Reader) error {
	var entries []entry
	for in := bufio.NewScanner(list); in.Scan(); {
		var e entry
		if _, err := fmt.Sscan(in.Text(), &e.NarSize, &e.Path); err != nil {
			return fmt.Errorf("read list: %w", err)
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(b.NarSize, a.NarSize) })
	if err := os.MkdirAll(filepath.Join(dir, "nar"), 0o755); err != nil {
		return err
	}
	var next atomic.Int64
	var wait sync.WaitGroup
	errs := make([]error, runtime.NumCPU())
	for i := range errs {
		wait.Go(func() {
			f := &floor{
				frame: make([]byte, 0, floorFrame), out: make([]byte, zstd.CompressBound(floorFrame)),
				dirents: make([]byte, 32<<10), zstd: zstd.NewCtx(), narHash: sha256.New(), fileHash: sha256.New(),
			}
			for n := next.Add(1) - 1; n < int64(len(entries)) && errs[i] == nil; n = next.Add(1) - 1 {
				errs[i] = f.copy(entries[n], filepath.Join(dir, "nar", fmt.Sprint(n)))
			}
		})
	}
	wait.Wait()
	return cmp.Or(errs...)
}

// A floor is what one core works with.
type floor struct {
	frame   []byte // of the NAR, not yet compressed
	hashed  int    // how much of frame is hashed
	size    int64  // of the NAR so far
	out     []byte // a compressed frame
	text    []byte // see words
	dirents []byte
	stat    unix.Stat_t

	zstd              zstd.Ctx
	narHash, fileHash hash.Hash
	file              *os.File
}

func (f *floor) copy(e entry, file string) (err error) {
	if f.file, err = os.Create(file); err != nil {
		return err
	}
	defer f.file.Close()
	f.narHash.Reset()
	f.fileHash.Reset()
	f.size = 0
	if err := f.words("nix-archive-1"); err != nil {
		return err
	}
	if err := unix.Fstatat(unix.AT_FDCWD, e.Path, &f.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %s: %w", e.Path, err)
	}
	kind := byte(f.stat.Mode & unix.S_IFMT >> 12) // as in a directory's entries
	if err := f.node(unix.AT_FDCWD, e.Path, kind); err != nil {
		return fmt.Errorf("read %s: %w", e.Path, err)
	}
	if f.size += int64(len(f.frame)); f.size != e.NarSize {
		return fmt.Errorf("read %s: NAR has %d bytes, want %d", e.Path, f.size, e.NarSize)
	}
	if err := f.flush(); err != nil {
		return err
	}
	f.narHash.Sum(f.out[:0])
	f.fileHash.Sum(f.out[:0])
	return nil
}

// node appends a file of the kind that a directory's entry says.
func (f *floor) node(dir int, name string, kind byte) error {
	if kind == unix.DT_LNK {
		n, err := unix.Readlinkat(dir, name, f.out)
		if err != nil {
			return err
		}
		return f.words("(", "type", "symlink", "target", string(f.out[:n]), ")")
	}
	fd, err := eintr(func() (int, error) { return unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == unix.DT_DIR {
		return f.directory(fd)
	}
	return f.regular(fd)
}

func (f *floor) regular(fd int) error {
	if err := unix.Fstat(fd, &f.stat); err != nil {
		return err
	}
	words := []string{"(", "type", "regular", "contents"}
	if f.stat.Mode&unix.S_IXUSR != 0 {
		words = []string{"(", "type", "regular", "executable", "", "contents"}
	}
	if err := f.words(words...); err != nil {
		return err
	}
	size := f.stat.Size
	if err := f.put(binary.LittleEndian.AppendUint64(nil, uint64(size))); err != nil {
		return err
	}
	for left := size; left > 0; {
		if err := f.makeRoom(); err != nil {
			return err
		}
		// Straight into the frame.
		free := f.frame[len(f.frame):cap(f.frame)]
		free = free[:min(int64(len(free)), floorBlock, left)]
		n, err := eintr(func() (int, error) { return unix.Read(fd, free) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		f.frame = f.frame[:len(f.frame)+n]
		left -= int64(n)
	}
	if err := f.put(make([]byte, -size&7)); err != nil {
		return err
	}
	return f.words(")")
}

func (f *floor) directory(fd int) error {
	type child struct {
		name string
		kind byte
	}
	var children []child
	for {
		n, err := eintr(func() (int, error) { return unix.Getdents(fd, f.dirents) })
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		// struct linux_dirent64: inode, offset, length, type, name.
		for b := f.dirents[:n]; len(b) > 0; b = b[binary.NativeEndian.Uint16(b[16:]):] {
			name, _, _ := strings.Cut(string(b[19:binary.NativeEndian.Uint16(b[16:])]), "\x00")
			if name != "." && name != ".." {
				children = append(children, child{name, b[18]})
			}
		}
	}
	slices.SortFunc(children, func(a, b child) int { return strings.Compare(a.name, b.name) })
	if err := f.words("(", "type", "directory"); err != nil {
		return err
	}
	for _, c := range children {
		if err := f.words("entry", "(", "name", c.name, "node"); err != nil {
			return err
		}
		if err := f.node(fd, c.name, c.kind); err != nil {
			return err
		}
		if err := f.words(")"); err != nil {
			return err
		}
	}
	return f.words(")")
}

// words appends strings as they stand in a NAR.
func (f *floor) words(words ...string) error {
	f.text = f.text[:0]
	for _, s := range words {
		f.text = binary.LittleEndian.AppendUint64(f.text, uint64(len(s)))
		f.text = append(f.text, s...)
		f.text = append(f.text, "\x00\x00\x00\x00\x00\x00\x00"[:-len(s)&7]...)
	}
	return f.put(f.text)
}

// put appends bytes.
func (f *floor) put(b []byte) error {
	for len(b) > 0 {
		if err := f.makeRoom(); err != nil {
			return err
		}
		n := min(len(b), cap(f.frame)-len(f.frame))
		f.frame = append(f.frame, b[:n]...)
		b = b[n:]
	}
	return nil
}

// makeRoom hashes what is to be hashed, and compresses a full frame.
func (f *floor) makeRoom() error {
	if len(f.frame)-f.hashed >= floorBlock {
		f.narHash.Write(f.frame[f.hashed:])
		f.hashed = len(f.frame)
	}
	if len(f.frame) < cap(f.frame) {
		return nil
	}
	f.size += int64(len(f.frame))
	return f.flush()
}

// flush hashes, compresses and writes what there is of a frame.
func (f *floor) flush() error {
	f.narHash.Write(f.frame[f.hashed:])
	out, err := f.zstd.CompressLevel(f.out, f.frame, 3)
	if err != nil {
		return err
	}
	f.fileHash.Write(out)
	f.frame, f.hashed = f.frame[:0], 0
	_, err = f.file.Write(out)
	return err
}

// eintr calls a system call again when Go's own signals interrupted it.
func eintr(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
