package cachegc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

// Whoever collects since the disk is full has no room to note what goes.
func TestFullDiskIsMadeEmptier(t *testing.T) {
	for what, before := range map[string]func(c *bincache.Cache){
		"by logs of what is to go":     func(c *bincache.Cache) { addLogs(t, c) },
		"by what went, and is waiting": func(c *bincache.Cache) { collect(t, c, Options{Policy: Policy{MaxSize: 1}, Grace: time.Hour}) },
		"by what is to go":             func(*bincache.Cache) {},
	} {
		t.Run(what, func(t *testing.T) {
			dir := trouble.Tmpfs(t, "1m")
			c, err := bincache.Create(filepath.Join(dir, "cache"), storeDir, bincache.Options{})
			must(t, err)
			defer c.Close()
			for _, name := range []string{"a", "b", "c"} {
				add(t, c, name, 10_000)
			}
			before(c)
			fill(t, dir)
			if what == "by what is to go" {
				if _, err := Collect(t.Context(), c, Options{Policy: Policy{MaxSize: 1}, Grace: time.Hour}); !bincache.IsFull(err) {
					t.Errorf("with grace: %v", err)
				}
			}
			collect(t, c, Options{Policy: Policy{MaxSize: 1}})
			for _, name := range files(t, c) {
				if filepath.Dir(name) != "log" { // those wait for as long as they were to
					t.Errorf("%s is left", name)
				}
			}
		})
	}
}

func addLogs(t *testing.T, c *bincache.Cache) {
	for _, name := range []string{"a", "b", "c"} {
		write(t, c, bincache.LogName(filepath.Base(pathOf(name))+".drv"), "built "+name)
	}
}

// TestWhatIsNeededStaysOnAFullDisk has somebody come at every moment who needs what goes first.
func TestWhatIsNeededStaysOnAFullDisk(t *testing.T) {
	for at, steps := 0, 1; at < steps; at++ {
		c := newCache(t)
		add(t, c, "lib", 1000)
		addWith(t, c, "other", "its NAR")
		steps = 0
		g := newCollection(t.Context(), c, Options{step: func() error {
			if steps++; steps-1 == at {
				if !c.Has(bincache.HashPart(pathOf("lib")) + ".narinfo") {
					add(t, c, "lib", 1000)
				}
				addWith(t, c, "app", "its NAR", "lib")
			}
			return nil
		}})
		must(t, g.look())
		r := &Result{Plan: g.survey.Plan(Policy{MaxSize: 1})}
		must(t, g.removeFirst(r))
		must(t, g.carryOut(r))
		for _, name := range []string{"app", "lib"} {
			if _, err := c.Entry(pathOf(name)); err != nil {
				t.Errorf("in step %d of %d: %v", at, steps, err)
			}
		}
		if _, err := c.Entry(pathOf("other")); err == nil {
			t.Error("nothing went")
		}
	}
}

// fill leaves no room on the disk of a directory.
func fill(t *testing.T, dir string) {
	t.Helper()
	for i, size := 0, 1<<20; size > 0; i++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint("fill", i)), make([]byte, size), 0o644)
		if errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else {
			must(t, err)
		}
	}
}
