package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The demo is for people who see larder for the first time, and for those who see
// it again.
func TestDemoRunsTwice(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	// It comes with its graph, and has to bring everything else itself.
	dir := tempDir(t)
	must(t, os.CopyFS(dir, os.DirFS("demo")))
	must(t, os.Remove(m.host("/etc/nix/nix.conf")))
	// Which awk the host has is said in its /etc.
	if awk, err := os.Readlink("/etc/alternatives/awk"); err == nil {
		must(t, os.Mkdir(m.host("/etc/alternatives"), 0o755))
		must(t, os.Symlink(awk, m.host("/etc/alternatives/awk")))
	}
	// A folder for temporary files of its own: what others leave in the host's is
	// not this demo's.
	tmp := tempDir(t)
	for range 2 {
		out := m.run(t, "env", "TMPDIR="+tmp, "bash", filepath.Join(dir, "run"), "/larder/bin")
		for _, want := range []string{"drained 6 jobs, 0 left, 0 dead letters", "everything verified", "-demo-product"} {
			if !strings.Contains(out, want) {
				t.Errorf("the demo does not say %q:\n%s", want, out)
			}
		}
		l := larder{machine: m}
		if roots := l.rootFiles(t); len(roots) > 0 {
			t.Errorf("roots are left: %q", roots)
		}
		if left := m.run(t, "ls", "-A", "/root", "/var/lib"); left != "/root:\n\n/var/lib:" {
			t.Errorf("left behind: %s", left)
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("left behind in TMPDIR: %v, %v", left, err)
		}
		m.nothingRunsOf(t, "")
	}
}
