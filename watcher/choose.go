package watcher

import (
	"sync"

	"github.com/nix-larder/larder/internal/nixstore"
)

// lookers is how many paths are looked for in the cache at a time, so that the
// answers of a slow file system come at the same time.
const lookers = 8

// choose returns the paths of those registrations that are to be queued.
func (c *Config) choose(regs []nixstore.Registration) ([]string, Result) {
	r := Result{Registered: len(regs)}
	var wanted []nixstore.Registration
	for _, reg := range regs {
		if c.Rules.Unwanted(reg, false) == "" {
			wanted = append(wanted, reg)
		}
	}
	r.Wanted = len(wanted)
	present := make([]bool, len(wanted))
	var tasks sync.WaitGroup
	for first := range lookers {
		tasks.Go(func() {
			for i := first; i < len(wanted); i += lookers {
				present[i] = c.Present(wanted[i].Path)
			}
		})
	}
	tasks.Wait()
	var paths []string
	for i, reg := range wanted {
		if !present[i] {
			paths = append(paths, reg.Path)
			r.Queued++
			r.NarBytes += reg.NarSize
		}
	}
	return paths, r
}
