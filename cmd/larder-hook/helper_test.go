package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

const nobody = 65534

// secret is in the environment of every hook here, as Nix puts it there.
const secret = "ghp_0123456789"

// patience is how long a hook may take on a busy machine: one that hangs would take
// its minute, or for ever.
const patience = 15 * time.Second

// program is larder-hook, built as it is released; in [eachProgram], also larder by
// that name.
var program, asLarder string

// linked keeps the program in the test's binary, too: go test remembers results
// by that, and would not see that the program has changed.
var linked = main

// eachProgram runs a test with larder-hook, and with larder under its name.
func eachProgram(t *testing.T, f func(t *testing.T)) {
	t.Run("larder-hook", f)
	t.Run("larder", func(t *testing.T) {
		defer func(before string) { program = before }(program)
		program = asLarder
		f(t)
	})
}

// A test that needs a process that holds a queue's lock runs this binary again.
const holdVar = "LARDER_TEST_HOLD"

func TestMain(m *testing.M) {
	if file := os.Getenv(holdVar); file != "" {
		if err := hold(file); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if linked == nil {
		panic("unreachable")
	}
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// build builds the programs with the flags of the Makefile.
func build() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "larder-hook-test-"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // other users run it, too
		return "", err
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		return "", err
	}
	args := []string{"build", "-trimpath", "-o", dir + "/"}
	for _, flag := range []string{"TAGS", "LDFLAGS"} {
		match := regexp.MustCompile(`(?m)^` + flag + `\s*:= (.*)$`).FindSubmatch(makefile)
		if match == nil {
			return "", fmt.Errorf("Makefile has no %s", flag)
		}
		args = append(args, "-"+strings.ToLower(flag), string(match[1]))
	}
	// So that go test sees when that has changed.
	if _, err := os.Stat("../larder/main.go"); err != nil {
		return "", err
	}
	out, err := exec.Command("go", append(args, ".", "../larder")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go %q: %w\n%s", args, err, out)
	}
	program = filepath.Join(dir, "larder-hook")
	asLarder = filepath.Join(dir, "link", "larder-hook")
	if err := os.Mkdir(filepath.Dir(asLarder), 0o755); err != nil {
		return "", err
	}
	return dir, os.Symlink("../larder", asLarder)
}

// hold keeps everybody from writing to a queue until standard input ends.
func hold(file string) error {
	db, err := sql.Open("sqlite3", "file:"+file+"?_txlock=immediate")
	if err != nil {
		return err
	}
	if _, err := db.Begin(); err != nil {
		return err
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A site is where a hook is called, and as whom.
type site struct {
	*hooktest.Site
	env map[string]string // all of the hook's environment
	uid uint32            // who runs the hook
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Site: hooktest.New(t), uid: uint32(os.Geteuid())}
	s.env = map[string]string{
		"NIX_STORE_DIR": s.Store,
		"NIX_STATE_DIR": s.State,
		"NIX_CONFIG":    "access-tokens = github.com=" + secret + "\n",
		"LARDER_QUEUE":  s.File,
		"OUT_PATHS":     s.Path("a"),
		// A busy machine may need more than a hook has as a rule. Tests of what it does
		// when time is up have less.
		"LARDER_HOOK_DEADLINE": "1m",
	}
	return s
}

func newSiteWithQueue(t *testing.T) (*site, *queue.Queue) {
	t.Helper()
	s := newSite(t)
	return s, s.Open(t)
}

// command returns the hook as Nix runs it: with nothing but its environment, and
// with a standard input that never ends.
func (s *site) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{} // not ours
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	stdin, never, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { stdin.Close(); never.Close() })
	cmd.Stdin = stdin
	if s.uid != uint32(os.Geteuid()) {
		trouble.NeedRoot(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.uid, Gid: s.uid}}
	}
	return cmd
}

// run runs the hook and returns the line that it prints.
func (s *site) run(t *testing.T, args ...string) string {
	t.Helper()
	return finish(t, s.command(t, args...))
}

// finish runs a hook to its end, and returns the line that it prints. It must
// not fail, print anything else, or take too long.
func finish(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	begin := time.Now()
	must(t, cmd.Start())
	return ended(t, cmd, begin, &stdout, &stderr)
}

func ended(t *testing.T, cmd *exec.Cmd, begin time.Time, stdout, stderr *bytes.Buffer) string {
	t.Helper()
	watchdog := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("hook failed: %v; it says %q", err, stderr)
	}
	if d := time.Since(begin); d > patience {
		t.Errorf("hook took %v; it says %q", d, stderr)
	}
	if stdout.Len() > 0 {
		t.Errorf("hook prints %q", stdout)
	}
	if strings.Contains(stderr.String(), secret) {
		t.Errorf("hook tells a secret: %q", stderr)
	}
	line := stderr.String()
	if line == "" {
		return ""
	}
	text, isOurs := strings.CutPrefix(line, "larder-hook: ")
	text, isLine := strings.CutSuffix(text, "\n")
	if !isOurs || !isLine || strings.Contains(text, "\n") || len(line) > 1100 {
		t.Errorf("hook prints %q, want one line", line)
	}
	return text
}

// raw opens the queue's database behind everybody's back.
func (s *site) raw(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+s.File+"?_txlock=immediate")
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
