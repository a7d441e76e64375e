package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// binDir is the host's directory of the binaries under test. If they could not
// be built, errBinaries says why; only tests that run them fail from it.
var (
	binDir      string
	errBinaries error
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(initEnv); spec != "" {
		machineInit(spec) // this process is the first of a machine
		return
	}
	// Threads that enter a machine end there. The main thread must not be one of
	// them: /proc/self is what the main thread sees.
	runtime.LockOSThread()
	unix.Umask(0o022) // other users read what tests write
	for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGINT} {
		if signal.Ignored(sig) { // by nohup, or a shell's background; what we start would inherit that
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	binDir, errBinaries = findBinaries()
	os.Exit(m.Run())
}

func findBinaries() (string, error) {
	dir := os.Getenv("LARDER_BIN")
	if dir == "" {
		dir = filepath.Join("..", "bin")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if missing(dir) == nil {
		return dir, nil
	}
	if out, err := exec.Command("make", "-s", "-C", "..", "build").CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return dir, missing(dir)
}

func missing(dir string) error {
	_, err1 := os.Stat(filepath.Join(dir, "larder"))
	_, err2 := os.Stat(filepath.Join(dir, "larder-hook"))
	return errors.Join(err1, err2)
}

// needBinaries fails the test if larder and larder-hook are missing. Tests that
// use them in a machine start with it.
func needBinaries(t *testing.T) {
	t.Helper()
	if errBinaries != nil {
		t.Fatalf("no binaries to test: %v", errBinaries)
	}
}

// A nix is one version of Nix to test with.
type nix struct {
	name string // for subtests: what version it is may change, so ask machine.version
	base string // the root of the system that has it
}

var nixes = []nix{
	{"host", "/"},
	{"trixie", filepath.Join(nixRoots(), "trixie")},
	{"sid", filepath.Join(nixRoots(), "sid")},
}

// nixRoots is the directory that the script nix-roots fills.
func nixRoots() string {
	if dir := os.Getenv("LARDER_NIX_ROOTS"); dir != "" {
		return dir
	}
	return "/var/cache/larder/nix-roots"
}

// eachNix runs a parallel subtest for every version of Nix.
func eachNix(t *testing.T, test func(t *testing.T, n nix)) {
	t.Parallel()
	for _, n := range nixes {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			n.need(t)
			test(t, n)
		})
	}
}

// giveUp returns what to call where a test lacks what it needs: it skips the test, or
// fails it if LARDER_REQUIRE_NIX is 1.
func giveUp(t *testing.T) func(format string, args ...any) {
	if os.Getenv("LARDER_REQUIRE_NIX") == "1" {
		return t.Fatalf
	}
	return t.Skipf
}

// need skips the test if this Nix can't be used here, or fails it if
// LARDER_REQUIRE_NIX is 1.
func (n nix) need(t *testing.T) {
	t.Helper()
	giveUp := giveUp(t)
	if os.Getuid() != 0 {
		giveUp("machines are made by root")
	}
	if _, err := os.Stat(filepath.Join(n.base, "usr/bin/nix-build")); err != nil {
		giveUp("no Nix: %v (for the host: install nix-bin; for others: run integration/nix-roots)", err)
	}
}

// tempDir is t.TempDir, but also for the other users of machines: they can read
// it, and use what is made world readable in it. The path is the same in every
// machine.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tooLong is after what time a test takes something for hanging. Nothing is measured by
// it: machines are slow, and workers leave the processors to whoever else wants them.
const tooLong = 5 * time.Minute

// eventually waits until the condition holds, and fails the test if that takes longer
// than tooLong. what completes the sentence "timed out waiting for …".
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(tooLong)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
