package gcroot

import (
	"time"

	"golang.org/x/sys/unix"
)

// lutimes sets the time of a link.
func lutimes(link string, at time.Time) error {
	tv := unix.NsecToTimeval(at.UnixNano())
	return unix.Lutimes(link, []unix.Timeval{tv, tv})
}
