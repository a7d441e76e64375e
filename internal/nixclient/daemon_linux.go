package nixclient

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// apart tells whether whoever listens on a socket is known to be in another mount
// namespace, and which process that is. The kernel says so: 0 for one that can't be
// seen from here. Only root may compare the namespaces of others.
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
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return false, pid
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	return err == nil && ours != theirs, pid
}
