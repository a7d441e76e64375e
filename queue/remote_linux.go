package queue

import (
	"fmt"
	"syscall"
)

// remote names the file systems on which SQLite's shared memory does not work,
// by their magic numbers (statfs(2)).
var remote = map[uint32]string{
	0x6969:     "NFS",
	0x517b:     "SMB",
	0xfe534d42: "SMB",
	0xff534d42: "SMB",
	0x5346414f: "AFS",
	0x73757245: "Coda",
	0x00c36400: "Ceph",
}

func refuseRemote(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return err
	}
	return refuseType(uint32(st.Type))
}

func refuseType(magic uint32) error {
	if name, ok := remote[magic]; ok {
		return fmt.Errorf("%w, and this is %s", ErrRemote, name)
	}
	return nil
}
