// Package trouble makes trouble for tests: processes that are killed, full disks,
// users who may do nothing, system calls that fail.
package trouble

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
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
