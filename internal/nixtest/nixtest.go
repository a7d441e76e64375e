// Package nixtest gives a test a Nix store of its own, which real Nix fills.
package nixtest

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Store is a Nix store below a test's directory.
type Store struct {
	Dir   string // where store paths are
	State string // Nix's state directory
	Log   string // where logs of builds are

	env []string
}

// New returns an empty store, with the given lines in its nix.conf. Without Nix it
// skips the test, or fails it if LARDER_REQUIRE_NIX is 1.
func New(t testing.TB, conf ...string) *Store {
	t.Helper()
	Require(t)
	dir := t.TempDir()
	s := &Store{Dir: filepath.Join(dir, "store"), State: filepath.Join(dir, "state"), Log: filepath.Join(dir, "log")}
	confDir := filepath.Join(dir, "conf")
	must(t, os.Mkdir(confDir, 0o755))
	must(t, os.WriteFile(filepath.Join(confDir, "nix.conf"), []byte(`
		sandbox = false
		build-users-group =
		substituters =
		experimental-features = nix-command
		`+strings.Join(conf, "\n")+"\n"), 0o644))
	s.env = append(os.Environ(),
		"NIX_STORE_DIR="+s.Dir, "NIX_STATE_DIR="+s.State, "NIX_LOG_DIR="+s.Log, "NIX_CONF_DIR="+confDir,
		"NIX_REMOTE=", "NIX_CONFIG=", "NIX_PATH=", "NIX_USER_CONF_FILES=", "HOME="+dir, "XDG_CACHE_HOME="+dir,
		"XDG_CONFIG_HOME="+dir, "TMPDIR="+dir)
	// Nix takes away the right to write from all that it adds.
	t.Cleanup(func() { makeWritable(t, s.Dir) })
	s.Run(t, "nix-store", "--init")
	return s
}

// Require skips a test without Nix, or fails it if LARDER_REQUIRE_NIX is 1.
func Require(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		if os.Getenv("LARDER_REQUIRE_NIX") == "1" {
			t.Fatalf("LARDER_REQUIRE_NIX is 1: %v", err)
		}
		t.Skip("nix-store is not installed")
	}
}

// Run runs a command of Nix on the store, and returns what it prints, without
// the last line feed.
func (s *Store) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := s.Command(name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, exit.Stderr)
		}
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Lines is Run for commands that print a list.
func (s *Store) Lines(t testing.TB, name string, args ...string) []string {
	t.Helper()
	return strings.Fields(s.Run(t, name, args...))
}

// Command returns a command of Nix on the store that has not started.
func (s *Store) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = s.env
	return cmd
}

// Add adds a file to the store and returns its path.
func (s *Store) Add(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(file, []byte(text), 0o644))
	return s.Run(t, "nix-store", "--add", file)
}

// Build builds an expression, and returns the outputs. In its scope is
//
//	build "name" "script" { attributes }
//
// which runs a shell script with the attributes in its environment.
func (s *Store) Build(t testing.TB, expr string) []string {
	t.Helper()
	return s.Lines(t, "nix-build", "--no-out-link", "-E", Expr(expr))
}

// Expr returns an expression as Build builds it.
func Expr(expr string) string {
	// A script that ends in a command that is not the shell's own may be killed by
	// Nix: the shell executes it in its place, and it closes its output too early.
	const build = `let build = name: script: attrs: derivation ({
		inherit name;
		system = builtins.currentSystem;
		builder = "/bin/sh";
		PATH = "/usr/bin:/bin";
		args = [ "-euc" (script + "\nexit 0") ];
	} // attrs); in `
	return build + expr
}

// AddTexts adds count small files that refer to each other, and returns the path
// of the last one, whose closure they are. File number i refers to those with the
// numbers i/2 and i-1.
func (s *Store) AddTexts(t testing.TB, name string, count int) string {
	t.Helper()
	quoted := s.Run(t, "nix-instantiate", "--eval", "--read-write-mode", "--expr", fmt.Sprintf(`
		let
		  n = %d;
		  file = i: builtins.toFile "%s-${toString i}" "number ${toString i}
		    ${if i == 0 then "" else at (i / 2) + " " + at (i - 1)}";
		  at = builtins.elemAt files;
		  files = builtins.genList file n;
		in builtins.foldl' (a: b: builtins.seq b b) "" files`, count, name))
	return strings.Trim(quoted, `"`)
}

// AddSparse adds a file of zeros that takes no room on the disk. narHash is its
// NAR's, in base 16; Nix takes it as it is given.
func (s *Store) AddSparse(t testing.TB, name string, size int64, narHash string) string {
	t.Helper()
	path := filepath.Join(s.Dir, fmt.Sprintf("%032d-%s", crc32.ChecksumIEEE([]byte(name)), name))
	must(t, os.WriteFile(path, nil, 0o644))
	must(t, os.Truncate(path, size))
	const around = 112 // what a NAR has besides its contents
	s.Register(t, fmt.Sprintf("%s\n%s\n%d\n\n0\n", path, narHash, size+around))
	return path
}

// Register tells Nix of paths that are there, in the format of nix-store
// --register-validity with hashes.
func (s *Store) Register(t testing.TB, registration string) {
	t.Helper()
	cmd := s.Command("nix-store", "--register-validity", "--hash-given")
	cmd.Stdin = strings.NewReader(registration)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nix-store --register-validity: %v\n%s", err, out)
	}
}

// Forget empties the store, and all that Nix knows of it.
func (s *Store) Forget(t testing.TB) {
	t.Helper()
	makeWritable(t, s.Dir)
	must(t, errors.Join(os.RemoveAll(s.Dir), os.RemoveAll(s.State)))
	s.Run(t, "nix-store", "--init")
}

func makeWritable(t testing.TB, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("clean up: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
