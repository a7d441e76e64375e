package cachewriter

import (
	"bufio"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/nixtest"
)

// start starts a child and waits until it begins to copy.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child says %q, %v", line, err)
	}
}

// TestKilledCopyLeavesAWholeCache kills processes at any moment that one takes,
// several one after the other, each of which goes on where the last one got to.
func TestKilledCopyLeavesAWholeCache(t *testing.T) {
	nix := nixtest.New(t)
	closure := nix.Lines(t, "nix-store", "-qR", nix.AddTexts(t, "text", 150))
	large := nix.Add(t, "large", strings.Repeat("a large file that takes its time\n", 100_000))
	closure = append(closure, large)
	compressions := []string{"none", "zstd:3"}

	undisturbed := newFixtureAt(t, nix, filepath.Join(t.TempDir(), "cache"))
	child := undisturbed.child(t, compressions[0], closure...)
	start(t, child)
	begin := time.Now()
	must(t, child.Wait())
	takes := time.Since(begin)

	const caches, each = 4, 6
	killed := 0
	for range caches {
		f := newFixtureAt(t, nix, filepath.Join(t.TempDir(), "cache"))
		for i := range each {
			child := f.child(t, compressions[i%2], closure...)
			start(t, child)
			killer := time.AfterFunc(rand.N(takes*2/each), func() { _ = child.Process.Kill() })
			if child.Wait() != nil {
				killed++
			}
			killer.Stop()
			for _, problem := range problems(f.dir, true) {
				t.Errorf("killed %d times: %s", i+1, problem)
			}
		}
		must(t, f.cache.SweepTemp(0))
		f.copy(t, Options{}, closure...)
		f.check(t)
		f.has(t, closure...)
		nix.Run(t, "nix", "store", "verify", "--store", "file://"+f.dir, "--all", "--no-trust")
	}
	t.Logf("killed %d of %d; one takes %v", killed, caches*each, takes)
	if killed == 0 {
		t.Error("nobody was killed")
	}
}

// TestManyProcessesMayCopyAtOnce has them copy the same closure to the same cache.
func TestManyProcessesMayCopyAtOnce(t *testing.T) {
	f := newFixture(t)
	closure := f.nix.Lines(t, "nix-store", "-qR", f.nix.AddTexts(t, "text", 150))
	var children []*exec.Cmd
	for i := range 4 {
		// Some of their narinfos will not be the same.
		child := f.child(t, []string{"none", "zstd:3"}[i%2], closure[149])
		start(t, child)
		children = append(children, child)
	}
	for _, child := range children {
		must(t, child.Wait())
	}
	f.check(t)
	f.has(t, closure...)
}
