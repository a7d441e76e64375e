package cachemerge

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

// manyOf returns three caches with overlapping parts of a graph, and the names of all
// of it. Each has the closures of its own.
func manyOf(t testing.TB, count int) (sources, names []string) {
	t.Helper()
	all := make([]item, count)
	for i := range all {
		all[i] = item{name: fmt.Sprint("item-", i), sigs: []string{fmt.Sprintf("k:QUF%c", 'A'+i%3)}}
		all[i].text = strings.Repeat(all[i].name+"\n", 100)
		for _, ref := range []int{i / 2, i - 1} {
			if ref >= 0 && ref < i {
				all[i].refs = append(all[i].refs, all[ref].name)
			}
		}
		names = append(names, all[i].name)
	}
	for s := range 3 {
		part := all[:count*(s+2)/4]
		for i := range part {
			part[i].sigs = []string{fmt.Sprintf("k-%d:QUFB", s)}
		}
		sources = append(sources, newCache(t, part...))
	}
	return sources, names
}

func start(t testing.TB, target string, sources ...string) *exec.Cmd {
	t.Helper()
	cmd := trouble.Command(t, "merge", append([]string{target}, sources...)...)
	must(t, cmd.Start())
	return cmd
}

// TestKilledMergeLeavesAWholeCache kills merges at any moment, each of which goes on
// where the last one got to.
func TestKilledMergeLeavesAWholeCache(t *testing.T) {
	sources, names := manyOf(t, 400)
	begin := time.Now()
	must(t, start(t, filepath.Join(t.TempDir(), "undisturbed"), sources...).Wait())
	takes := time.Since(begin)

	const caches, each = 3, 6
	killed := 0
	for range caches {
		target := filepath.Join(t.TempDir(), "cache")
		for i := range each {
			child := start(t, target, sources...)
			killer := time.AfterFunc(rand.N(takes), func() { _ = child.Process.Kill() })
			if child.Wait() != nil {
				killed++
			}
			killer.Stop()
			for _, problem := range problems(target) {
				t.Errorf("killed %d times: %s", i+1, problem)
			}
		}
		merge(t, target, sources...)
		has(t, target, names...)
		nothingUnfinished(t, target)
	}
	t.Logf("killed %d of %d; one takes %v", killed, caches*each, takes)
	if killed == 0 {
		t.Error("nobody was killed")
	}
}

// nothingUnfinished fails the test if something is left that no sweeper takes.
func nothingUnfinished(t testing.TB, dir string) {
	t.Helper()
	c, err := bincache.Open(dir, storeDir)
	must(t, err)
	defer c.Close()
	must(t, c.SweepTemp(0))
	left, err := os.ReadDir(filepath.Join(dir, ".larder/tmp"))
	must(t, err)
	if len(left) != 1 { // .keep
		t.Errorf("unfinished files are left: %q", left)
	}
}

// TestManyMayMergeAtOnce has processes merge into one cache, in different orders, while
// somebody sweeps, and somebody reads.
func TestManyMayMergeAtOnce(t *testing.T) {
	sources, names := manyOf(t, 300)
	target := newCache(t)
	done := make(chan struct{})
	var others sync.WaitGroup
	for _, other := range []func(){
		func() {
			for _, problem := range problems(target) {
				t.Error(problem)
			}
		},
		func() {
			c, err := bincache.Open(target, storeDir)
			if err == nil {
				err = c.SweepTemp(time.Minute)
				c.Close()
			}
			if err != nil {
				t.Error(err)
			}
		},
	} {
		others.Go(func() {
			for {
				other()
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	var children []*exec.Cmd
	for i := range 3 {
		children = append(children, start(t, target, sources[i], sources[(i+1)%3], sources[(i+2)%3]))
	}
	for _, child := range children {
		must(t, child.Wait())
	}
	close(done)
	others.Wait()
	merge(t, target, sources...) // for signatures that came in while another process added the entry
	has(t, target, names...)
	nothingUnfinished(t, target)
	for _, name := range names[:len(names)/2] {
		n := entryOf(t, target, name)
		if len(n.Sigs) != 3 {
			t.Errorf("signatures of %s are %q, want 3", name, n.Sigs)
		}
	}
}

func entryOf(t testing.TB, dir, name string) *bincache.NarInfo {
	t.Helper()
	c, err := bincache.OpenReadOnly(dir, storeDir)
	must(t, err)
	defer c.Close()
	n, err := c.Entry(storePath(name))
	must(t, err)
	return n
}

// TestSourceMayBeWrittenMeanwhile merges a cache into another one while that one is
// merged on.
func TestSourceMayBeWrittenMeanwhile(t *testing.T) {
	sources, names := manyOf(t, 300)
	middle, target := newCache(t), newCache(t)
	child := start(t, middle, sources...)
	for exited := false; !exited; {
		r := merge(t, target, middle)
		if r.Damaged != nil || r.LeftOut != nil || r.Relying > 0 {
			t.Errorf("result is %+v, want nothing wrong", r)
		}
		exited = len(problems(middle)) == 0 && entries(t, middle) == len(names)
	}
	must(t, child.Wait())
	merge(t, target, middle)
	has(t, target, names...)
}

func entries(t testing.TB, dir string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
	must(t, err)
	return len(found)
}
