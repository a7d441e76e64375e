package nixclient

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nix-larder/larder/internal/trouble"
)

// Every Nix of root has a mount namespace of its own, and sees what we see.
func TestNamespaceOfItsOwnIsNotEnoughToBeApart(t *testing.T) {
	trouble.NeedRoot(t)
	dir := t.TempDir()
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
	for place, want := range map[string]bool{"/": true, filepath.Dir(dir): true, dir: false, file: false} {
		if same, known := sameMount(cmd.Process.Pid, place); !known || same != want {
			t.Errorf("%s: same is %v (known %v), want %v", place, same, known, want)
		}
	}
	if _, known := sameMount(cmd.Process.Pid, filepath.Join(dir, "missing")); known {
		t.Error("what is nowhere is known to be somewhere")
	}
}

func TestWhatIsMountedAtAPlace(t *testing.T) {
	const mountinfo = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:5 / /var rw - tmpfs none rw
24 23 8:3 / /var rw - ext4 /dev/sdc rw
25 24 8:2 /deep /var/lib\040x rw shared:1 - ext4 /dev/sdb rw
`
	for place, want := range map[string]string{
		"/": "8:1 / /", "/variety": "8:1 / /", "/var": "8:3 / /var", "/var/lib": "8:3 / /var", `/var/lib x/y`: `8:2 /deep /var/lib\040x`,
	} {
		if got := mountAt(mountinfo, place); got != want {
			t.Errorf("at %s: %q, want %q", place, got, want)
		}
	}
}
