package nixclient

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
)

// ask asks the host's Nix, whose state is in a directory of the test's.
func ask(t *testing.T, conf string) *Client {
	t.Helper()
	nixtest.Require(t)
	state := t.TempDir()
	t.Setenv("NIX_STATE_DIR", state)
	t.Setenv("NIX_CONF_DIR", t.TempDir())
	t.Setenv("NIX_USER_CONF_FILES", "")
	t.Setenv("NIX_CONFIG", conf)
	c, err := Ask(t.Context(), nixstore.Dirs{Store: filepath.Join(state, "store"), State: state})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNixTellsItsSettings(t *testing.T) {
	c := ask(t, "post-build-hook = /some/hook\nsubstituters = file:///a file:///b?trusted=true\nfallback = true")
	if got := c.String("post-build-hook"); got != "/some/hook" {
		t.Errorf("hook is %q", got)
	}
	if diff := cmp.Diff([]string{"file:///a", "file:///b?trusted=true"}, c.Strings("substituters")); diff != "" {
		t.Errorf("substituters (-want +got):\n%s", diff)
	}
	if !c.Bool("fallback") || c.Bool("keep-going") {
		t.Error("truths are lies")
	}
	if !c.Knows("fallback") || c.Knows("no-such-setting") {
		t.Error("it does not know what it knows")
	}
	if c.Access != Local || !c.Trusted || c.Apart {
		t.Errorf("access is %+v", c)
	}
}

func TestNixRemoteIsSeen(t *testing.T) {
	for remote, want := range map[string]Access{
		"": Local, "auto": Local, "local": Local, "daemon": Daemon, "unix:///some/socket": Daemon,
		"ssh-ng://other": Elsewhere, "/some/root": Elsewhere,
	} {
		t.Run(remote, func(t *testing.T) {
			t.Setenv("NIX_REMOTE", remote)
			if c := ask(t, ""); c.Access != want {
				t.Errorf("access is %s by store %q, want %s", c.Access, c.Store, want)
			}
		})
	}
}

func TestNoNixIsSaid(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Ask(t.Context(), nixstore.DefaultDirs()); !errors.Is(err, ErrNoNix) {
		t.Errorf("error is %v, want ErrNoNix", err)
	}
}

func TestAutoIsWhatNixMakesOfIt(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	missing := filepath.Join(dir, "missing")
	for name, tt := range map[string]struct {
		state, socket string
		want          Access
	}{
		"state is ours":                 {dir, socket, Local},
		"state is not, and a daemon is": {missing, socket, Daemon},
	} {
		if got := accessOf("auto", tt.socket, nixstore.Dirs{State: tt.state}); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	if got, want := accessOf("auto", missing, nixstore.Dirs{State: missing}), Local; os.Geteuid() == 0 && got != want {
		t.Errorf("nothing is there: %s, want %s", got, want)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if pid, ok := listener(conn.(*net.UnixConn)); ok && pid != os.Getpid() {
		t.Errorf("process %d listens, want ourselves", pid)
	}
}

func TestSubstituterIsComparedLetterByLetter(t *testing.T) {
	c := New(map[string]any{"substituters": []string{"file:///a"}, "trusted-substituters": []string{"file:///b?trusted=true"}})
	c.Access, c.Trusted = Daemon, false
	for url, want := range map[string]bool{"file:///a": true, "file:///b?trusted=true": true, "file:///b": false, "file:///a/": false} {
		if got := c.MaySubstitute(url); got != want {
			t.Errorf("%s: %v, want %v", url, got, want)
		}
	}
	c.Trusted = true
	if !c.MaySubstitute("file:///anything") {
		t.Error("who is trusted may do anything")
	}
}

func TestDaemonSeesWhatIsMountedForIt(t *testing.T) {
	// A host, and a container that has a directory of it, and the Nix store.
	host := parseMounts("1 0 8:1 / /\n2 1 0:5 / /proc\n3 1 8:2 / /home\n4 1 8:3 / /nix\n")
	const container = "10 9 0:99 / /\n11 10 8:2 /ci/cache /cache\n12 10 8:3 / /nix\n13 10 8:2 / /home\n14 13 0:77 / /home\n"
	for path, want := range map[string]bool{
		"/nix/store": true, "/cache": false, "/cache/nar": false, "/home/ci/cache": false, "/nixos": false, "/": false, "/tmp": false,
	} {
		c := &Client{Access: Daemon, DaemonPID: 1, ours: parseMounts(container), theirs: host}
		if sees, known := c.Sees(path); sees != want || !known {
			t.Errorf("%s: %v, %v; want %v", path, sees, known, want)
		}
	}
	// At the same place.
	c := &Client{Access: Daemon, DaemonPID: 1, ours: parseMounts(container + "15 14 8:2 /ci/cache /home/ci/cache\n"), theirs: host}
	if sees, _ := c.Sees("/home/ci/cache/nar"); !sees {
		t.Error("what both see at the same place is not seen")
	}
	for _, c := range []*Client{{Access: Daemon, DaemonPID: 1}, {Access: Daemon, Apart: true}} {
		if _, known := c.Sees("/"); known {
			t.Error("known without anything to know it by")
		}
	}
	if sees, known := (&Client{Access: Local}).Sees("/anything"); !sees || !known {
		t.Error("without a daemon something is not seen")
	}
}

func TestWhatAUserHasMountedNobodyElseNeedSee(t *testing.T) {
	list := parseMounts("1 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n2 1 0:40 / /home/alice rw shared:2 master:3 - fuse.sshfs host: rw\n")
	c := &Client{Access: Daemon, DaemonPID: 1, ours: list, theirs: list}
	if _, known := c.Sees("/home/alice/x"); known {
		t.Error("what is mounted by a user is known to be seen, or not to be")
	}
	if sees, known := c.Sees("/home/bob"); !sees || !known {
		t.Error("what is on the disk is not known to be seen")
	}
}

func TestPathIsOnTheMountThatHidesTheOthers(t *testing.T) {
	list := parseMounts(`1 1 8:1 / / rw
2 1 8:2 /homes /home rw
3 1 0:9 / /tmp rw
4 3 8:1 /var/tmp /tmp rw
5 1 0:5 / /srv/a/b rw
6 1 8:3 / /srv/a rw
7 6 8:4 /x /srv/a/c\040d rw
`)
	for path, want := range map[string]string{
		"/":            "8:1 /",
		"/etc":         "8:1 /etc",
		"/home/alice":  "8:2 /homes/alice",
		"/homeless":    "8:1 /homeless",
		"/tmp/x":       "8:1 /var/tmp/x", // mounted over the other one
		"/srv/a/b":     "8:3 /b",         // mounted above it, later
		"/srv/a/c d/e": "8:4 /x/e",
	} {
		if on, file := covering(list, path); on.device+" "+file != want {
			t.Errorf("%s is on %s %s, want %s", path, on.device, file, want)
		}
	}
}
