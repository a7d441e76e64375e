package queue

import (
	"io/fs"
	"path/filepath"
	"testing"
)

func TestNetworkFileSystemsAreRefused(t *testing.T) {
	for magic, name := range remote {
		err := refuseType(magic)
		wantIs(t, err, ErrRemote)
		wantText(t, err, name)
	}
	for name, magic := range map[string]uint32{"ext4": 0xef53, "xfs": 0x58465342, "btrfs": 0x9123683e, "tmpfs": 0x01021994, "overlay": 0x794c7630, "zfs": 0x2fc12fc1} {
		if err := refuseType(magic); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantIs(t, refuseRemote(filepath.Join(t.TempDir(), "missing")), fs.ErrNotExist)
}
