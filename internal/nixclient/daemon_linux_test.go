package nixclient

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nix-larder/larder/internal/trouble"
)

// Every Nix of root has a mount namespace of its own, and sees what we see.
func TestNamespaceOfItsOwnIsNotEnoughToBeApart(t *testing.T) {
	trouble.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "a directory") // whose name is escaped where it is a mount point
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-euc", `mount -t tmpfs none "$1"; echo ready; read line`, "sh", dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	if _, err := stdout.Read(make([]byte, 10)); err != nil {
		t.Skipf("mount: %v", err) // in a container root may not
	}
	c := &Client{Access: Daemon, DaemonPID: cmd.Process.Pid}
	if c.theirs, err = mounts(strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if c.ours, err = mounts("self"); err != nil {
		t.Fatal(err)
	}
	for place, want := range map[string]bool{"/": true, filepath.Dir(dir): true, dir: false, file: false} {
		if sees, known := c.Sees(place); !known || sees != want {
			t.Errorf("%s: sees is %v (known %v), want %v", place, sees, known, want)
		}
	}
}
