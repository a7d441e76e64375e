package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Found is what Entry returns.
type Found struct {
	Entry *NarInfo
	Err   error

	finder *finder
}

// Has is the cache's, in the directories that it had when the entry was looked for, which
// takes less time.
func (f Found) Has(name string) bool { return f.finder.has(name) }

// Find is Entry for many store paths at once, which takes a fraction of the time. When
// ctx ends, its error is that of all that have not been looked for.
func (c *Cache) Find(ctx context.Context, storePaths []string) []Found {
	found := make([]Found, len(storePaths))
	c.FindEach(ctx, storePaths, func(i int, f Found) { found[i] = f })
	return found
}

// FindEach is Find that calls see, by several goroutines, with what it has found and which
// of the store paths that is of.
func (c *Cache) FindEach(ctx context.Context, storePaths []string, see func(i int, found Found)) {
	c.spread(len(storePaths), func(i int, f *finder, buf []byte) {
		n, err := c.findOne(ctx, f, storePaths[i], buf)
		see(i, Found{n, err, f})
	})
}

// Look calls see for many entries, by the first parts of their store paths, with what Read
// returns of them but for the text, which takes a fraction of the time. It is called by
// several goroutines. Of what has not been looked at when ctx ends, it is not told.
func (c *Cache) Look(ctx context.Context, hashes []string, see func(hash string, n *NarInfo, err error)) {
	c.spread(len(hashes), func(i int, f *finder, buf []byte) {
		if ctx.Err() != nil {
			return
		}
		hash := hashes[i]
		n, err := f.read(hash+narInfoEnding, buf)
		if err != nil || HashPart(n.StorePath) != hash || path.Dir(n.StorePath) != c.storeDir {
			n, _, err = c.Read(hash)
		}
		see(hash, n, err)
	})
}

// spread calls do for each of count numbers, by as many goroutines as it takes, with a
// finder and a buffer.
func (c *Cache) spread(count int, do func(i int, f *finder, buf []byte)) {
	f := c.newFinder()
	var next, finders atomic.Int64 // of the numbers; goroutines
	var all sync.WaitGroup
	var find func()
	start := func() {
		if finders.Add(1) <= readers {
			all.Go(find)
		}
	}
	find = func() {
		buf := make([]byte, quickNarInfo)
		slow := 0 // one after the other
		for {
			end := int(next.Add(findBatch))
			if end-findBatch >= count {
				return
			}
			for i := end - findBatch; i < min(end, count); i++ {
				begin := time.Now()
				do(i, f, buf)
				if slow++; time.Since(begin) < slowFind {
					slow = 0
				}
				if slow > 1 { // just one had only to wait for a processor
					start()
				}
			}
		}
	}
	for range min(runtime.GOMAXPROCS(0), (count+findBatch-1)/findBatch) {
		start()
	}
	all.Wait()
}

// slowFind is how long an entry takes that waits for something else than a processor: a
// disk or a network. Then many are looked for at a time, so that the answers come at the
// same time, while on a fast file system more goroutines, and the threads that they
// make, would only cost time.
const slowFind = 200 * time.Microsecond

func (c *Cache) findOne(ctx context.Context, f *finder, storePath string, buf []byte) (*NarInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := f.find(storePath, buf)
	if err == errNotQuick {
		n, err = c.Entry(storePath)
	}
	return n, err
}

// findBatch is how many entries are looked for by one goroutine at a time.
const findBatch = 8

// quickNarInfo is how large a narinfo may be that is read in the quick way: nearly all
// are much smaller.
const quickNarInfo = 8 << 10

// errNotQuick says that Entry has to find out.
var errNotQuick = errors.New("not as most entries are")

// A finder finds entries that are as larder and Nix write them, by as few system calls
// as possible: the directories are open, and nothing below them is looked up
// through a symbolic link. Whatever else there is, and whatever is wrong, it leaves to
// Entry.
//
// It is for a moment: somebody may put other directories in place of these.
type finder struct {
	cache         *Cache
	top, nar, log *os.File // nil if there is something wrong with it
}

func (c *Cache) newFinder() *finder {
	f := &finder{cache: c}
	for name, dir := range map[string]**os.File{".": &f.top, "nar": &f.nar, logsDir: &f.log} {
		*dir, _ = c.dir(name) // (ignored) Entry and Has find out
	}
	return f
}

// has is Has, for the moment.
func (f *finder) has(name string) bool {
	dir, base := f.top, name
	if log, ok := strings.CutPrefix(name, logsDir+"/"); ok {
		dir, base = f.log, log
	}
	if dir == nil || strings.Contains(base, "/") {
		return f.cache.Has(name)
	}
	return hasIn(dir, base)
}

// find returns an entry, or fs.ErrNotExist, or errNotQuick. It uses buf.
func (f *finder) find(storePath string, buf []byte) (*NarInfo, error) {
	n, err := f.read(narInfoName(storePath), buf)
	if err == nil && n.StorePath != storePath {
		return nil, errNotQuick
	}
	return n, err
}

// read is find for the name of a narinfo, whatever store path it is for.
func (f *finder) read(name string, buf []byte) (*NarInfo, error) {
	if f.top == nil || f.nar == nil {
		return nil, errNotQuick
	}
	text, err := readIn(f.top, name, buf)
	if err != nil {
		return nil, err
	}
	n, err := ParseNarInfo(text)
	if err != nil {
		return nil, errNotQuick
	}
	file, ok := strings.CutPrefix(n.URL, "nar/")
	if !ok || strings.Contains(file, "/") {
		return nil, errNotQuick
	}
	var nar unix.Stat_t
	if err := unix.Fstatat(int(f.nar.Fd()), file, &nar, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, errNotQuick
	}
	if nar.Mode&unix.S_IFMT != unix.S_IFREG || n.checkNarSize(nar.Size) != nil {
		return nil, errNotQuick
	}
	return n, nil
}

// readIn returns what is in a file of a directory, using buf if it is not nil, by as few
// system calls as possible. To look at the file before it is opened costs nothing: where
// it ends is known then, and need not be found by reading on. The error is errNotQuick,
// or wraps [fs.ErrNotExist] if there is not even a link of that name.
func readIn(dir *os.File, name string, buf []byte) ([]byte, error) {
	var s unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, quickErr(name, err)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFREG || s.Size >= quickNarInfo {
		return nil, errNotQuick
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, quickErr(name, err)
	}
	defer unix.Close(fd)
	size := int(s.Size)
	if buf == nil {
		buf = make([]byte, size+1)
	}
	// With room for one byte more than there was, the last read tells that it has ended:
	// another one may have come in its place before it was opened.
	buf = buf[:size+1]
	length := 0
	for length < size {
		count, err := unix.Read(fd, buf[length:])
		if err != nil || count == 0 {
			return nil, errNotQuick
		}
		length += count
	}
	if length > size {
		return nil, errNotQuick
	}
	return buf[:size], nil
}

func quickErr(name string, err error) error {
	if err == unix.ENOENT {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return errNotQuick
}

// maxOverhead is more than any compression adds to what is small. What is large becomes
// half as large again at most, by the oldest of them.
const maxOverhead = 32 << 10

// checkNarSize returns an error if the size of a NAR's file is not what it should be.
func (n *NarInfo) checkNarSize(size int64) error {
	switch {
	case size == 0: // whatever its hash, a NAR is longer
		return fmt.Errorf("%w: %s is empty", ErrDamaged, n.URL)
	case n.FileSize != 0 && size != n.FileSize:
		return fmt.Errorf("%w: size of %s is %d, want %d", ErrDamaged, n.URL, size, n.FileSize)
	case n.Compression == "none" && size != n.NarSize:
		return fmt.Errorf("%w: size of %s is %d, and of its NAR %d", ErrDamaged, n.URL, size, n.NarSize)
	case size/2-maxOverhead > n.NarSize: // as no compression makes it
		return fmt.Errorf("%w: size of %s is %d, and of its NAR only %d", ErrDamaged, n.URL, size, n.NarSize)
	}
	return nil
}
