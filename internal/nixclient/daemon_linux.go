package nixclient

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// apart tells whether whoever listens on a socket is known to see other files than we do,
// and which process that is. The kernel says so: 0 for one that can't be seen from here.
//
// That it is in another mount namespace says nothing: every Nix of root makes one of its
// own (src/nix/main.cc), in which everything is mounted again.
func apart(socket string) (apart bool, pid int) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false, 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false, 0
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		return false, 0
	}
	if peer.Pid == 0 {
		return true, 0
	}
	pid = int(peer.Pid)
	// Where queues and caches usually are.
	for _, place := range []string{"/", "/var/lib", os.Getenv("HOME"), os.TempDir()} {
		if same, known := sameMount(pid, place); known && !same {
			return true, pid
		}
	}
	return false, pid
}

// Sees tells whether the daemon has the same file system at a place as we have, if that
// can be known.
func (c *Client) Sees(place string) (sees, known bool) {
	switch {
	case c.Access != Daemon:
		return true, true
	case c.DaemonPID == 0:
		return !c.Apart, !c.Apart
	}
	return sameMount(c.DaemonPID, place)
}

// sameMount tells whether the same is mounted at a place for a process as for us.
func sameMount(pid int, place string) (same, known bool) {
	place, err := filepath.EvalSymlinks(place)
	if err != nil {
		return true, false // it is nowhere
	}
	theirs, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return false, false
	}
	ours, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, false
	}
	return mountAt(string(ours), place) == mountAt(string(theirs), place), true
}

// mountAt returns what is mounted at a place: a file system's device, a directory of it,
// and where that is (proc_pid_mountinfo(5)).
func mountAt(mountinfo, place string) string {
	var at, what string
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		point := unescape.Replace(f[4])
		below := place == point || strings.HasPrefix(place, strings.TrimSuffix(point, "/")+"/")
		if below && len(point) >= len(at) { // of several the last is on top
			at, what = point, strings.Join(f[2:5], " ")
		}
	}
	return what
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
