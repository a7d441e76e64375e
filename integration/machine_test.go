package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const machinePATH = "/larder/bin:/usr/bin:/usr/sbin:/bin:/sbin"

// A user is an account that every machine has.
type user struct {
	name     string
	uid, gid uint32
	home     string
}

var (
	root  = user{"root", 0, 0, "/root"}
	alice = user{"alice", 1001, 1001, "/home/alice"} // ordinary people, whom
	bob   = user{"bob", 1002, 1002, "/home/bob"}     // Nix does not trust
)

// buildUsers is how many builds of a nix-daemon run at the same time.
const buildUsers = 4

// A machine is a computer of its own, as far as Nix and larder can tell: it
// shares the kernel, the network and /tmp with the host.
//
// A machine value says who runs commands, in which environment, and how long
// they may take; [machine.as], [machine.with] and [machine.within] return
// another view of the same machine.
type machine struct {
	nix     nix
	version string // of its Nix, such as "2.8.0"
	dir     string // its root directory, as the host sees it

	// The first process's namespaces, which commands enter.
	mounts, pids *os.File

	user    user
	env     []string
	timeout time.Duration
}

// newMachine makes a machine that ends with the test. Its Nix is as after a
// fresh installation for one user, root; [machine.startDaemon] makes it a
// multi-user one. conf are further lines of its nix.conf.
func newMachine(t *testing.T, n nix, conf ...string) *machine {
	t.Helper()
	n.need(t)
	m := &machine{nix: n, dir: tempDir(t), user: root, timeout: tooLong}
	m.populate(t)
	m.configure(t, append([]string{
		"sandbox = false",
		"build-users-group =",
		"substituters =",
		"experimental-features = nix-command flakes",
		"fsync-metadata = false", // only slow: no test cuts the power
	}, conf...)...)
	m.boot(t)
	out := m.run(t, "nix-store", "--version") // which also makes Nix's database
	m.version = out[strings.LastIndex(out, " ")+1:]
	return m
}

// populate writes the machine's own files.
func (m *machine) populate(t *testing.T) {
	t.Helper()
	var passwd, group strings.Builder
	builders := make([]string, buildUsers)
	for i := range builders {
		builders[i] = fmt.Sprintf("nixbld%d", i+1)
		fmt.Fprintf(&passwd, "%s:x:%d:30000::/var/empty:/usr/sbin/nologin\n", builders[i], 30001+i)
	}
	fmt.Fprintf(&group, "nixbld:x:30000:%s\n", strings.Join(builders, ","))
	for _, u := range []user{root, alice, bob} {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::%s:/bin/sh\n", u.name, u.uid, u.gid, u.home)
		fmt.Fprintf(&group, "%s:x:%d:\n", u.name, u.gid)
		home := m.host(u.home)
		must(t, os.MkdirAll(home, 0o755))
		must(t, os.Chown(home, int(u.uid), int(u.gid)))
	}
	for _, dir := range []string{"/nix", "/etc/nix", "/var/empty", "/var/lib", "/var/tmp", "/run"} {
		must(t, os.MkdirAll(m.host(dir), 0o755))
	}
	must(t, os.Chmod(m.host("/var/tmp"), 0o777|os.ModeSticky))
	must(t, os.WriteFile(m.host("/etc/passwd"), []byte(passwd.String()), 0o644))
	must(t, os.WriteFile(m.host("/etc/group"), []byte(group.String()), 0o644))
}

// boot starts the machine's first process and waits for it.
func (m *machine) boot(t *testing.T) {
	t.Helper()
	graphs, err := filepath.Abs("testdata/graphs")
	must(t, err)
	spec := initSpec{Root: m.dir, Base: m.nix.base, Binds: []bindSpec{
		{"/tmp", "/tmp"},
		{os.TempDir(), os.TempDir()}, // where TMPDIR is elsewhere
		{graphs, "/larder/graphs"},
	}}
	if errBinaries == nil {
		spec.Binds = append(spec.Binds, bindSpec{binDir, "/larder/bin"})
	}
	specJSON, err := json.Marshal(spec)
	must(t, err)

	self, err := os.Executable()
	must(t, err)
	first := exec.Command(self)
	first.Env = []string{
		initEnv + "=" + string(specJSON),
		"GORACE=atexit_sleep_ms=0", // or machines take a second to end
	}
	first.Stderr = os.Stderr
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	stdin, err := first.StdinPipe()
	must(t, err)
	stdout, err := first.StdoutPipe()
	must(t, err)
	must(t, first.Start())
	t.Cleanup(func() {
		stdin.Close() // ends the machine, and with it everything that runs there
		first.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		rest, _ := io.ReadAll(stdout)
		t.Fatalf("boot machine %s: %s%s (%v)", m.nix.name, line, rest, err)
	}
	m.mounts = openNamespace(t, first.Process.Pid, "mnt")
	m.pids = openNamespace(t, first.Process.Pid, "pid")
}

func openNamespace(t *testing.T, pid int, kind string) *os.File {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// inside runs f in the machine: the files that f opens are the machine's, and
// the processes it starts run there, as children of the test process. f must not
// end the test, nor leave its goroutine.
func (m *machine) inside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// A thread can't come back from a machine, so it is never unlocked and
		// ends with this goroutine.
		runtime.LockOSThread()
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Setns(int(m.mounts.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter mount namespace: %w", err)
			}
			if err := unix.Setns(int(m.pids.Fd()), unix.CLONE_NEWPID); err != nil {
				return fmt.Errorf("enter process namespace: %w", err)
			}
			return f()
		}()
	}()
	return <-result
}

// as returns the machine as another user sees it. Everybody but root goes
// through the nix-daemon; with("NIX_REMOTE=") undoes that.
func (m *machine) as(u user) *machine {
	view := *m
	view.user = u
	return &view
}

// with returns the machine with additional environment variables, "NAME=value".
func (m *machine) with(env ...string) *machine {
	view := *m
	view.env = append(view.env[:len(view.env):len(view.env)], env...)
	return &view
}

// within returns the machine with another time limit for commands. It is tooLong
// otherwise.
func (m *machine) within(limit time.Duration) *machine {
	view := *m
	view.timeout = limit
	return &view
}

func (m *machine) String() string {
	return fmt.Sprintf("%s on %s with Nix %s", m.user.name, m.nix.name, m.version)
}

// environ is the environment of the machine's commands. It deliberately has no
// NIX_CONFIG, which would hide the one that Nix gives its hook.
func (m *machine) environ() []string {
	env := []string{
		"HOME=" + m.user.home,
		"USER=" + m.user.name,
		"PATH=" + machinePATH,
		"LANG=C.UTF-8",
		"TMPDIR=/var/tmp",
	}
	if m.user != root {
		env = append(env, "NIX_REMOTE=daemon")
	}
	return append(env, m.env...)
}

// host returns where the host sees one of the machine's own files, such as
// /nix/var/nix/db/db.sqlite or /root/notes.
func (m *machine) host(path string) string {
	return filepath.Join(m.dir, path)
}

// configure adds lines to the machine's nix.conf. The last line about a setting
// counts. A nix-daemon reads them when it starts.
func (m *machine) configure(t *testing.T, lines ...string) {
	t.Helper()
	f, err := os.OpenFile(m.host("/etc/nix/nix.conf"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(t, err)
	_, err = io.WriteString(f, strings.Join(lines, "\n")+"\n")
	must(t, err)
	must(t, f.Close())
}

// startDaemon makes the machine a multi-user one: it starts its nix-daemon, with
// build users, and returns when it accepts connections. From then on
// m.as(alice).run(…) works. The daemon has next to no environment, as from systemd: of
// the machine's only how long hooks may take.
func (m *machine) startDaemon(t *testing.T) *process {
	t.Helper()
	const users = "build-users-group = nixbld"
	conf, err := os.ReadFile(m.host("/etc/nix/nix.conf"))
	must(t, err)
	if !strings.Contains(string(conf), users) {
		m.configure(t, users)
	}
	env := []string{"PATH=" + machinePATH, "TMPDIR=/var/tmp"}
	for _, variable := range m.env {
		if strings.HasPrefix(variable, "LARDER_HOOK_DEADLINE=") {
			env = append(env, variable)
		}
	}
	daemon := m.start(t, slices.Concat([]string{"env", "-i"}, env, []string{"nix-daemon", "--daemon"})...)
	eventually(t, "nix-daemon", func() bool {
		if daemon.ended() {
			t.Fatalf("ended at once: %v", daemon)
		}
		return m.inside(connectDaemon) == nil
	})
	return daemon
}

func connectDaemon() error {
	conn, err := net.Dial("unix", "/nix/var/nix/daemon-socket/socket")
	if err != nil {
		return err
	}
	return conn.Close()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
