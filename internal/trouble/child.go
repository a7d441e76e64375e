// Package trouble makes trouble for tests: processes that are killed, full disks,
// users who may do nothing, system calls that fail. It also has what tests need that wait,
// or are several users.
package trouble

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// part says in a child's environment what it is to do.
const part = "LARDER_TEST_PART"

// Main is a TestMain for packages that start children: it runs the tests, or in a
// child the part that Command named.
func Main(m *testing.M, parts map[string]func(args []string) error) {
	name, ok := os.LookupEnv(part)
	if !ok {
		os.Exit(m.Run())
	}
	do, ok := parts[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no part is called %q\n", name)
		os.Exit(2)
	}
	if err := do(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Command returns a child that has not started: the test's own program, which will
// do one of the parts that Main was given. It does not outlive the test.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), part+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// NeedRoot skips the test for other users.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can do this")
	}
}

// PublicDir is t.TempDir, but others may look into it.
func PublicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "larder-test-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Eventually waits until something is so.
func Eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// A Log is written by some goroutines, and read by others.
type Log struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
