package watcher

import (
	"context"
	"strings"

	"github.com/nix-larder/larder/internal/nixstore"
)

// A choice is what is to become of a registration.
type choice struct {
	nixstore.Registration
	unwanted string // why the rules do not want it, or ""
	present  bool   // the cache has it; of what is unwanted only known to those who observe, and not of derivations
}

// choose finds out what is to become of some registrations.
func (c *Config) choose(ctx context.Context, regs []nixstore.Registration) []choice {
	choices := make([]choice, len(regs))
	var paths []string // to look for in the cache
	var of []int       // whose they are
	for i, reg := range regs {
		choices[i] = choice{Registration: reg, unwanted: c.Rules.Unwanted(reg, false)}
		if choices[i].unwanted == "" || c.Observe != nil && !strings.HasSuffix(reg.Path, ".drv") {
			paths, of = append(paths, reg.Path), append(of, i)
		}
	}
	if len(paths) == 0 {
		return choices
	}
	for n, present := range c.Present(ctx, paths) {
		choices[of[n]].present = present
	}
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
