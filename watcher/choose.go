package watcher

import (
	"sync"

	"github.com/nix-larder/larder/internal/nixstore"
)

// lookers is how many paths are looked for in the cache at a time, so that the
// answers of a slow file system come at the same time.
const lookers = 8

// A choice is what is to become of a registration.
type choice struct {
	nixstore.Registration
	unwanted string // why the rules do not want it, or ""
	present  bool   // the cache has it; of what is unwanted only known to those who observe
}

// choose finds out what is to become of some registrations.
func (c *Config) choose(regs []nixstore.Registration) []choice {
	choices := make([]choice, len(regs))
	var tasks sync.WaitGroup
	for first := range lookers {
		tasks.Go(func() {
			for i := first; i < len(regs); i += lookers {
				unwanted := c.Rules.Unwanted(regs[i], false)
				look := unwanted == "" || c.Observe != nil
				choices[i] = choice{regs[i], unwanted, look && c.Present(regs[i].Path)}
			}
		})
	}
	tasks.Wait()
	return choices
}

// queued returns the paths that are to be queued.
func queued(choices []choice) (paths []string, r Result) {
	r.Registered = len(choices)
	for _, choice := range choices {
		if choice.unwanted != "" {
			continue
		}
		r.Wanted++
		if !choice.present {
			paths = append(paths, choice.Path)
			r.Queued++
			r.NarBytes += choice.NarSize
		}
	}
	return paths, r
}
