package queue

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func refuseRemote(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if st.Flags&unix.MNT_LOCAL == 0 {
		return fmt.Errorf("%w, and this is %s", ErrRemote, unix.ByteSliceToString(st.Fstypename[:]))
	}
	return nil
}
