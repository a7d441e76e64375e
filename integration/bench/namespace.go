package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
)

// insideVar is set in the process that has the mount namespace.
const insideVar = "LARDER_BENCH_INSIDE"

// reexec runs this program again in a mount namespace of its own and returns
// its exit code. A process with several threads cannot move itself.
func reexec() (int, error) {
	if os.Geteuid() != 0 {
		return 0, hintError{errors.New("make mount namespace: not root"), "run it with sudo: a store of its own has to be mounted on /nix"}
	}
	if fi, err := os.Stat("/nix"); err != nil || !fi.IsDir() {
		return 0, hintError{errors.New("make mount namespace: there is no directory /nix"), "install Nix outside of /nix, on Debian: apt-get install nix-bin"}
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// This also makes every mount private, so nothing of ours leaks out.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}

	// A terminal sends ^C to the child as well, others send only to us. We wait
	// in either case: the child has things to clean up.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make mount namespace: %w", err)
	}
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM {
				cmd.Process.Signal(s) // already gone: nothing to stop (ignored)
			}
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil // -1: killed by a signal
	}
	return 0, err
}

// bind mounts the directory from over the directory to.
func bind(from, to string) error {
	if err := syscall.Mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", from, to, err)
	}
	return nil
}

// lockDir makes the benchmark's directory and takes its lock: two benchmarks at
// once would measure each other.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make benchmark directory: %w", err)
	}
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock benchmark directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another benchmark is running", dir)
	}
	return f, nil
}

// A workshop is where contenders work: a scratch directory in the file system
// of the corpus, the same one for all.
type workshop struct {
	dir   string
	roots []string // see enterRoot
}

func openWorkshop(cfg config) (*workshop, error) {
	w := &workshop{dir: filepath.Join(cfg.Dir, "scratch")}
	// A benchmark that was killed leaves its caches behind.
	if err := os.RemoveAll(w.dir); err != nil {
		return nil, fmt.Errorf("empty scratch directory: %w", err)
	}
	for _, sub := range []string{"tmp", "home", "conf", "empty"} {
		if err := os.MkdirAll(filepath.Join(w.dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make scratch directory: %w", err)
		}
	}
	// The queue that larder would use by default on this machine is somebody's.
	const queues = "/var/lib/larder"
	if _, err := os.Stat(queues); err == nil {
		if err := bind(filepath.Join(w.dir, "empty"), queues); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *workshop) close() {
	os.RemoveAll(w.dir) // the next start tries again (ignored)
}

func (w *workshop) path(name string) string { return filepath.Join(w.dir, name) }

// enterRoot makes the corpus's store and the workshop visible below the root of
// an unpacked Nix: the store as /nix, the workshop as /tmp.
func (w *workshop) enterRoot(root string) error {
	if slices.Contains(w.roots, root) {
		return nil
	}
	w.roots = append(w.roots, root)
	// Debian's packages bring no /nix: Nix makes it when it first runs.
	if err := os.MkdirAll(filepath.Join(root, "nix"), 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	for _, m := range [][2]string{{"/nix", "nix"}, {w.dir, "tmp"}, {"/proc", "proc"}, {"/dev", "dev"}} {
		if err := bind(m[0], filepath.Join(root, m[1])); err != nil {
			return err
		}
	}
	return nil
}

// mountStore mounts another directory on /nix, also below entered roots, until
// unmount is called.
func (w *workshop) mountStore(dir string) (unmount func(), err error) {
	var mounted []string
	unmount = func() {
		for _, point := range mounted {
			// (ignored) whatever is still there ends with the namespace
			_ = syscall.Unmount(point, syscall.MNT_DETACH)
		}
	}
	for _, root := range append([]string{"/"}, w.roots...) {
		point := filepath.Join(root, "nix")
		if err := bind(dir, point); err != nil {
			unmount()
			return nil, err
		}
		mounted = append(mounted, point)
	}
	return unmount, nil
}

// env is the whole environment of a child that sees the workshop as dir:
// nothing of the caller's Nix or larder settings may reach it.
func env(dir string, more ...string) []string {
	return append([]string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"HOME=" + dir + "/home",
		"TMPDIR=" + dir + "/tmp",
		"NIX_CONF_DIR=" + dir + "/conf", // empty: no hook, no substituter of the host's
		"NIX_USER_CONF_FILES=",
		"NIX_REMOTE=local",
		"NIX_CONFIG=sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command\n",
	}, more...)
}
