package gcroot

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nix-larder/larder/internal/plainfile"
)

// TellCollector tells Nix's garbage collector, if one is running, of store paths
// that have just got their roots. It may have looked at the roots before that, and
// would not look at them again; it waits for such messages all the time that it
// runs, and keeps what they name (libstore/gc.cc, addTempRoot). Every wait for it
// ends after patience.
func TellCollector(stateDir string, patience time.Duration, paths ...string) error {
	running, err := collecting(stateDir)
	if err != nil || !running || len(paths) == 0 {
		return err
	}
	if err := tell(filepath.Join(stateDir, "gc-socket", "socket"), patience, paths); err != nil {
		return fmt.Errorf("tell the garbage collector: %w", err)
	}
	return nil
}

// collecting tells whether a collector may be running: it holds gc.lock.
func collecting(stateDir string) (bool, error) {
	f, err := plainfile.Open(filepath.Join(stateDir, "gc.lock"), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return true, nil // its socket will tell
	}
	if err != nil {
		return false, fmt.Errorf("look for the garbage collector: %w", err)
	}
	defer f.Close() // and with it the lock
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil || errors.Is(err, syscall.EWOULDBLOCK) {
		return err != nil, nil
	}
	return false, fmt.Errorf("look for the garbage collector: %w", err)
}

// linger is how long a connection stays open after its last word. A collector of
// Nix 2.34 makes a thread for each, and notes it down afterwards: a thread that has
// ended by then is noted all the same, and the next connection with the same number
// ends the collector (std::terminate, seen on a busy machine). Nix's own programs keep
// theirs open as long as they live.
const linger = time.Second

// tell sends one path after the other, and waits for the answer to each. (Package
// net would double what a hook has to set up.)
func tell(socket string, patience time.Duration, paths []string) error {
	syscall.ForkLock.RLock() // macOS has no SOCK_CLOEXEC
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), socket)
	defer time.AfterFunc(linger, func() { f.Close() })
	limit := syscall.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
	}
	err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	answers := bufio.NewReaderSize(f, 16)
	for _, path := range paths {
		if _, err := f.WriteString(path + "\n"); err != nil {
			return err
		}
		answer, err := answers.ReadByte()
		if err != nil {
			return err
		}
		if answer != '1' {
			return fmt.Errorf("it answers %q, want '1'", answer)
		}
	}
	return nil
}
