package runner

import (
	"os"

	"golang.org/x/sys/unix"
)

// foregroundGroup returns the process group in a terminal's foreground.
func foregroundGroup(tty *os.File) (int, error) {
	return unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
}
