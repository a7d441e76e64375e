package nixclient

import (
	"net"

	"golang.org/x/sys/unix"
)

// listener returns the process that listens at the other end of a connection, as the
// kernel says: 0 if it can't be seen from here. ok is false if it does not say.
func listener(conn *net.UnixConn) (pid int, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	var peer *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cerr != nil || err != nil {
		return 0, false
	}
	return int(peer.Pid), true
}
