package doctor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// daemonSees tells whether the daemon sees the same file at a place as we do, if that can
// be known. Root looks through the daemon's eyes; others, what is mounted for it.
func (s *Setup) daemonSees(path string) (sees, known bool) {
	sees, known = s.throughItsEyes(path)
	if !known && !s.Nix.Apart {
		return true, true // as it is nearly always
	}
	return sees, known
}

func (s *Setup) throughItsEyes(path string) (sees, known bool) {
	if !s.daemon() || s.Nix.DaemonPID == 0 {
		return s.Nix.Sees(path)
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", s.Nix.DaemonPID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return s.Nix.Sees(path)
	}
	defer unix.Close(root)
	// Links lead where they lead there.
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err == unix.ENOSYS || err == unix.EPERM {
		return s.Nix.Sees(path) // an old kernel
	}
	if err != nil {
		return false, true
	}
	defer unix.Close(fd)
	var theirs, ours unix.Stat_t
	if unix.Fstat(fd, &theirs) != nil || unix.Stat(path, &ours) != nil {
		return false, true
	}
	return theirs.Dev == ours.Dev && theirs.Ino == ours.Ino, true
}
