package doctor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// statDisk asks for the file system of a directory (statfs(2)).
func statDisk(dir string) (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return disk{}, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	d := disk{
		readOnly:     st.Flags&unix.ST_RDONLY != 0,
		noexec:       st.Flags&unix.ST_NOEXEC != 0,
		free:         st.Bavail * uint64(blockSize(&st)),
		inodes:       st.Ffree,
		countsInodes: st.Files > 0, // btrfs does not
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC:
		d.name, d.remote = "NFS", true
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		d.name, d.remote = "SMB", true
	case unix.V9FS_MAGIC:
		d.name, d.remote = "9P", true
	case unix.FUSE_SUPER_MAGIC:
		d.name, d.remote = "FUSE", true
	case unix.CEPH_SUPER_MAGIC:
		d.name, d.remote = "Ceph", true
	case unix.AFS_SUPER_MAGIC:
		d.name, d.remote = "AFS", true
	case unix.TMPFS_MAGIC:
		d.name, d.memory = "tmpfs", true
	case unix.RAMFS_MAGIC:
		d.name, d.memory = "ramfs", true
	case unix.OVERLAYFS_SUPER_MAGIC:
		d.name = "overlay"
	}
	return d, nil
}

// blockSize returns in what a file system counts. FUSE has blocks, and fragments of those.
func blockSize(st *unix.Statfs_t) int64 {
	if st.Frsize > 0 {
		return int64(st.Frsize)
	}
	return int64(st.Bsize)
}
