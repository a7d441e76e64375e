package nixclient

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// apart tells whether whoever listens on a socket is known to be in another mount
// namespace, and which process that is. The kernel says so: 0 for one that can't be seen
// from here. Only root may look which namespace it has, but everybody what is mounted in
// that.
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
	theirs, err := mounts(fmt.Sprint(pid))
	if err != nil {
		return false, pid
	}
	ours, err := mounts("self")
	return err == nil && !slices.ContainsFunc(ours, func(id string) bool { return slices.Contains(theirs, id) }), pid
}

// mounts returns the IDs of what is mounted for a process. Another namespace has other
// ones, even of what is mounted in both.
func mounts(pid string) (ids []string, err error) {
	text, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	for line := range strings.Lines(string(text)) {
		id, _, _ := strings.Cut(line, " ")
		ids = append(ids, id)
	}
	return ids, err
}
