package nixclient

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// apart tells whether whoever listens on a socket is known to be in another mount
// namespace. The kernel says which process it is: 0 for one that can't be seen from
// here. Only root may compare the namespaces of others.
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
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", peer.Pid))
	if err != nil {
		return false
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	return err == nil && ours != theirs
}
