package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/nixclient"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
)

// withStore gives the set-up a real store.
func withStore(t *testing.T, s *site, conf ...string) *nixtest.Store {
	t.Helper()
	store := nixtest.New(t, conf...)
	store.Add(t, "x", "x")
	s.Dirs = nixstore.Dirs{Store: store.Dir, State: store.State}
	return store
}

func TestNothingIsWrongWithASetUpThatIsRight(t *testing.T) {
	s := newSite(t)
	withStore(t, s)
	for _, check := range []check{checkAny, checkNix, checkTrust, checkHook, checkQueue, checkSubstituter, checkSource} {
		s.isFine(t, check)
	}
}

func TestNothingToLookAtIsAProblem(t *testing.T) {
	s := newSite(t)
	s.Queue, s.Cache = nil, ""
	f := s.finds(t, checkAny, Problem, "neither a queue nor a cache")
	if !strings.Contains(f.Advice, "larder init --cache DIR") {
		t.Errorf("advice is %q", f.Advice)
	}
	for _, f := range Examine(t.Context(), &Setup{NixErr: nixclient.ErrNoNix, Dirs: s.Dirs}) {
		if f.Severity == Fine {
			t.Errorf("something is fine where there is nothing: %s", show([]Finding{f}))
		}
	}
}

func TestNixThatIsNotInThePathIsFound(t *testing.T) {
	s := newSite(t)
	withStore(t, s)
	s.Nix, s.System, s.NixErr = nil, nil, nixclient.ErrNoNix
	if f := s.finds(t, checkNix, Problem, "no nix in the PATH"); !strings.Contains(f.Advice, "install Nix") {
		t.Errorf("advice is %q", f.Advice)
	}
	// As with sudo, whose PATH has only the system's directories.
	bin := filepath.Join(s.Dirs.State, "profiles", "default", "bin")
	must(t, os.MkdirAll(bin, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "nix"), nil, 0o755))
	if f := s.finds(t, checkNix, Problem, "no nix"); f.Run[0] != "export PATH=$PATH:"+bin {
		t.Errorf("type %q", f.Run)
	}
	s.NixErr = errors.New("syntax error")
	if f := s.finds(t, checkNix, Problem, "syntax error"); !strings.Contains(f.Run[0], "show-config") {
		t.Errorf("type %q", f.Run)
	}
}

func TestStoreOfAnotherMachineIsFound(t *testing.T) {
	s := newSite(t)
	withStore(t, s)
	s.Nix.Access, s.Nix.Store = nixclient.Elsewhere, "ssh-ng://builder"
	if f := s.finds(t, checkNix, Problem, "ssh-ng://builder"); !strings.Contains(f.Advice, "store = ssh-ng://builder") {
		t.Errorf("advice is %q", f.Advice)
	}
	t.Setenv("NIX_REMOTE", "ssh-ng://builder")
	if f := s.finds(t, checkNix, Problem, "ssh-ng://builder"); f.Run[0] != "unset NIX_REMOTE" {
		t.Errorf("type %q", f.Run)
	}
}

func TestDatabaseThatCantBeReadIsFound(t *testing.T) {
	s := newSite(t)
	store := withStore(t, s)
	schema := filepath.Join(store.State, "db", "schema")
	must(t, os.WriteFile(schema, []byte("11"), 0o644))
	if f := s.finds(t, checkNix, Problem, "newer than this larder"); !strings.Contains(f.Advice, "newer larder") {
		t.Errorf("advice is %q", f.Advice)
	}
	must(t, os.WriteFile(schema, []byte("10"), 0o644))
	must(t, os.WriteFile(filepath.Join(store.State, "db", "db.sqlite"), []byte(strings.Repeat("junk", 1000)), 0o644))
	s.finds(t, checkNix, Problem, "can't be read")

	s.Dirs = nixstore.Dirs{Store: s.Dirs.Store, State: filepath.Join(s.dir, "none")}
	if f := s.finds(t, checkNix, Problem, "no database"); f.Run[0] != "nix-store --init" && f.Run[0] != "sudo nix-store --init" {
		t.Errorf("type %q", f.Run)
	}
	s.forRun(t)
	if os.Geteuid() == 0 {
		s.isFine(t, checkNix) // larder run makes it
	}
}

func TestDatabaseWithoutALogIsFound(t *testing.T) {
	s := newSite(t)
	withStore(t, s, "use-sqlite-wal = false")
	s.configure(t, map[string]any{"use-sqlite-wal": false})
	s.cures(t, checkNix, s.finds(t, checkNix, Warning, "use-sqlite-wal"))
}

func TestDaemonOfAnotherVersionIsFound(t *testing.T) {
	s := newSite(t)
	withStore(t, s)
	s.Nix.Access = nixclient.Daemon
	s.Nix.DaemonVersion = "2.26.9"
	s.isFine(t, checkNix)
	s.Nix.DaemonVersion = "2.18.1"
	if f := s.finds(t, checkNix, Warning, "nix-daemon is Nix 2.18.1"); len(f.Run) == 0 && !strings.Contains(f.Advice, "start it again") {
		t.Errorf("nothing to type: %s", show([]Finding{f}))
	}
}

func TestSettingsThatKeepNixFromTheCacheAreFound(t *testing.T) {
	s := newSite(t)
	withStore(t, s)
	s.configure(t, map[string]any{"substitute": false})
	s.cures(t, checkNix, s.finds(t, checkNix, Problem, "substitute = false"))

	machines := filepath.Join(s.dir, "machines")
	s.configure(t, map[string]any{"max-jobs": 0.0, "builders": "@" + machines})
	f := s.finds(t, checkNix, Warning, "max-jobs = 0")
	must(t, os.WriteFile(machines, []byte("ssh://builder\n"), 0o644))
	s.isFine(t, checkNix)
	must(t, os.Remove(machines))
	s.cures(t, checkNix, f)
}

func TestNamesThatAnOldNixDoesNotUnderstandAreFound(t *testing.T) {
	s := newSite(t)
	withStore(t, s)
	for version, want := range map[string]Severity{"2.8.0": Problem, "2.18.1": Warning, "2.26.3": Fine, "2.34.8": Fine, "unheard of": Fine} {
		s.Version = nixclient.ParseVersion(version)
		s.Cache = "/srv/plain"
		s.isFine(t, checkNix)
		s.Cache = "/srv/with space"
		if want == Fine {
			s.isFine(t, checkNix)
			continue
		}
		s.finds(t, checkNix, want, "file:///srv/with%20space")
	}
}

func TestVersionsAreCompared(t *testing.T) {
	for _, test := range []struct {
		version      string
		major, minor int
		before       bool
	}{
		{"2.8.0", 2, 9, true}, {"2.8.0", 2, 8, false}, {"2.26.3", 2, 9, false}, {"2.34pre2025", 2, 35, true},
		{"3.0", 2, 99, false}, {"", 2, 8, false}, {"next", 2, 8, false},
	} {
		if got := nixclient.ParseVersion(test.version).Before(test.major, test.minor); got != test.before {
			t.Errorf("%q before %d.%d is %t", test.version, test.major, test.minor, got)
		}
	}
}
