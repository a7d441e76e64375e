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
		"by what is to go":             func(*bincache.Cache) {},
		"by what went, and is waiting": func(c *bincache.Cache) { collect(t, c, Options{Policy: Policy{MaxSize: 1}, Grace: time.Hour}) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := trouble.Tmpfs(t, "1m")
			c, err := bincache.Create(filepath.Join(dir, "cache"), storeDir, bincache.Options{})
			must(t, err)
			defer c.Close()
			for _, name := range []string{"a", "b", "c"} {
				n := add(t, c, name, 10_000)
				write(t, c, bincache.LogName(n.Deriver), "built "+name)
			}
			before(c)
			fill(t, dir)
			collect(t, c, Options{Policy: Policy{MaxSize: 1}})
			for _, name := range files(t, c) {
				if filepath.Dir(name) != "log" { // those wait for as long as they were to
					t.Errorf("%s is left", name)
				}
			}
		})
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
