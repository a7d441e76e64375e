package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// initEnv, if set, makes the test binary the first process of a machine.
const initEnv = "LARDER_MACHINE"

// An initSpec is what the first process of a machine has to mount.
type initSpec struct {
	Root  string // becomes /
	Base  string // has the Nix to use, below usr
	Binds []bindSpec
}

// A bindSpec is a directory of the host to show in the machine, without what is
// mounted below it.
type bindSpec struct{ From, To string }

// machineInit runs as the first process in a machine's new mount and process
// namespaces. It prints "ready" when the machine is, reaps the orphans of the
// machine, and exits when its stdin ends, that is, when the machine is closed or
// the test process dies. Then the kernel kills everything else in it.
func machineInit(specJSON string) {
	var spec initSpec
	if err := json.Unmarshal([]byte(specJSON), &spec); err != nil {
		initFail(err)
	}
	if err := spec.mount(); err != nil {
		initFail(err)
	}
	go reapOrphans()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

func initFail(err error) {
	fmt.Println(err)
	os.Exit(1)
}

func reapOrphans() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	for range died {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, syscall.EINTR) {
				break
			}
		}
	}
}

// mount makes the machine's root and moves into it. By pivot_root, not chroot:
// Nix 2.8 runs hooks in the root of its mount namespace.
func (s initSpec) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A new root has to be a mount point.
	if err := bind(s.Root, s.Root, 0); err != nil {
		return err
	}
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if err := s.mirror(name); err != nil {
			return err
		}
	}
	for _, b := range s.Binds {
		if err := bind(b.From, filepath.Join(s.Root, b.To), 0); err != nil {
			return err
		}
	}
	if err := bind("/dev", filepath.Join(s.Root, "dev"), unix.MS_REC); err != nil {
		return err
	}
	proc := filepath.Join(s.Root, "proc")
	if err := os.Mkdir(proc, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return pivot(s.Root)
}

// mirror shows a top-level directory of the base: as the symlink it is where
// /usr is merged, else read-only.
func (s initSpec) mirror(name string) error {
	from, to := filepath.Join(s.Base, name), filepath.Join(s.Root, name)
	info, err := os.Lstat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if err := bind(from, to, unix.MS_REC); err != nil {
		return err
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", to, err)
	}
	return nil
}

func bind(from, to string, flags uintptr) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}

// pivot makes dir the root of the mount namespace. The old root is stacked on
// top of it for a moment (see pivot_root(2)), so it needs no place of its own.
func pivot(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", dir, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	return os.Chdir("/")
}
