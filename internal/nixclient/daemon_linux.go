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
// namespace. The kernel says which process it is: 0 for one that can't be seen from
// here. Only root may look which namespace that has, but everybody what is mounted in it.
func apart(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		return false
	}
	if peer.Pid == 0 {
		return true
	}
	theirs, err := mounts(fmt.Sprint(peer.Pid))
	if err != nil {
		return false
	}
	ours, err := mounts("self")
	return err == nil && !slices.ContainsFunc(ours, func(id string) bool { return slices.Contains(theirs, id) })
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
