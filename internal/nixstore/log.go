package nixstore

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/plainfile"
)

const (
	logsDir   = "drvs" // below Dirs.Log
	drvEnding = ".drv"
	bzEnding  = ".bz2"
)

// logFiles returns where Nix may have put the log of a derivation's build, in the order
// in which it looks: one that is not compressed comes first. There is none if the
// derivation's name is not one.
func (d Dirs) logFiles(drv string) []string {
	if d.Log == "" || !strings.HasSuffix(drv, drvEnding) || CheckPath(d.Store, drv) != nil {
		return nil
	}
	name := filepath.Base(drv)
	file := filepath.Join(d.Log, logsDir, name[:2], name[2:])
	return []string{file, file + bzEnding}
}

// HasLog tells whether there is a log of a derivation's last build here that we may
// read.
func (d Dirs) HasLog(drv string) bool {
	for _, file := range d.logFiles(drv) {
		if unix.Access(file, unix.R_OK) == nil {
			return true
		}
	}
	return false
}

// OpenLog opens the log of a derivation's last build here, as plain text. The error
// wraps [fs.ErrNotExist] if there is none. A log that is still being written may read
// as one that ends too early: with an error if it is compressed.
func (d Dirs) OpenLog(drv string) (io.ReadCloser, error) {
	for _, file := range d.logFiles(drv) {
		f, err := plainfile.Open(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = regular(f)
		}
		if err != nil {
			return nil, fmt.Errorf("open build log: %w", err)
		}
		if !strings.HasSuffix(file, bzEnding) {
			return f, nil
		}
		if small := readSmallLog(f); small != nil {
			f.Close()
			return io.NopCloser(bytes.NewReader(small)), nil
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			f.Close()
			return nil, fmt.Errorf("open build log: %w", err)
		}
		return &bzLog{bzip2.NewReader(f), f}, nil
	}
	return nil, fmt.Errorf("open build log of %s: %w", drv, fs.ErrNotExist)
}

// regular closes what is not a regular file, and returns an error then.
func regular(f *os.File) error {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		f.Close()
	}
	return err
}

// A bzLog is a log that is compressed.
type bzLog struct {
	io.Reader
	io.Closer
}

// smallLog is the size, compressed, of a log that most likely is one block of at most
// 100 kB.
const smallLog = 4 << 10

// readSmallLog returns what is in a compressed log if it is a small one, as most are, or
// nil. Nix says of all of them that blocks may have 900 kB, for which a decoder needs 4 MB,
// and to get that takes longer than the rest.
func readSmallLog(f io.Reader) []byte {
	data, err := io.ReadAll(io.LimitReader(f, smallLog+1))
	if err != nil || len(data) > smallLog || len(data) < 4 {
		return nil
	}
	data[3] = '1' // of a block that is larger the decoder says so
	text, err := io.ReadAll(io.LimitReader(bzip2.NewReader(bytes.NewReader(data)), 1<<20))
	if err != nil || len(text) == 1<<20 {
		return nil
	}
	return append([]byte{}, text...) // not nil, and no larger than it is
}

// LogsSince returns the derivations of whose builds a log was written at that time or
// later, finished or not, and when: by reading the names, and the times, of all logs
// there are. What it may not read is not among them.
func (d Dirs) LogsSince(since time.Time) (map[string]time.Time, error) {
	if d.Log == "" {
		return nil, nil
	}
	top := filepath.Join(d.Log, logsDir)
	dirs, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was ever built
	}
	if err != nil {
		return nil, fmt.Errorf("look for build logs: %w", err)
	}
	found := make(map[string]time.Time)
	for _, dir := range dirs {
		files, _ := os.ReadDir(filepath.Join(top, dir.Name())) // (ignored) not ours to read
		for _, file := range files {
			drv := filepath.Join(d.Store, dir.Name()+strings.TrimSuffix(file.Name(), bzEnding))
			if d.logFiles(drv) == nil {
				continue // of no derivation
			}
			info, err := file.Info()
			if err != nil || !info.Mode().IsRegular() || info.ModTime().Before(since) {
				continue // (ignored) gone
			}
			if info.ModTime().After(found[drv]) {
				found[drv] = info.ModTime()
			}
		}
	}
	return found, nil
}
