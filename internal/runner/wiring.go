// Package runner is what larder run, start and stop need beyond a queue and a worker:
// how a command's Nix is told of a cache, how a command is run as if nobody stood in
// between, and what became of the run.
//
// # Wiring
//
// Nix is told by NIX_CONFIG, which goes before its files, and which a client passes on
// to its daemon. A daemon takes everything from a user whom it trusts. From others it
// takes little: of what we want only fallback, and substituters that the administrator
// allowed, letter by letter. Anything else makes newer versions of Nix warn at every
// command, so it is not set.
//
// # Journal
//
// What happens is put down line by line, in a file of its own, so that a report can be
// made by another process than the one that did the work, even if that was killed.
package runner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nix-larder/larder/internal/nixclient"
)

// A Wish is what a run would like Nix to know.
type Wish struct {
	// Substituter is the cache, as it stands in Nix's settings, and CacheDir where it is.
	Substituter string
	CacheDir    string

	// HookDir is where the hook and its queue would lie, and HookProgram the program that
	// would be linked there.
	HookDir, HookProgram string

	// PublicKeys are the keys whose signatures count, in Nix's form.
	PublicKeys []string

	// Keep says that what is built is to come into the cache.
	Keep bool
}

// A Wiring is what Nix is told.
type Wiring struct {
	// Hook says that there is to be a post-build-hook.
	Hook bool

	// InStore says that the hook has to lie in the Nix store, which a daemon sees
	// whatever else it sees.
	InStore bool

	// Next is the hook that was set before, which ours has to call, or "".
	Next string

	// Notes say, a line each, what is less than wished, and what a person can do.
	Notes []string

	// Lines are those of NIX_CONFIG, but for the hook.
	Lines []string
}

// Wire returns what a user's Nix can be told.
func Wire(c *nixclient.Client, wish Wish) Wiring {
	var w Wiring
	switch {
	case c.Access == nixclient.Elsewhere:
		w.note("Nix uses the store %q, which is not this machine's: nothing of it is kept", c.Store)
		wish.Keep = false
	case c.Access == nixclient.Daemon && c.Apart:
		w.note("nix-daemon runs in another container: what is built is found in Nix's database, and the cache is used if the daemon sees it at the same place")
	case c.Access == nixclient.Daemon && !c.Trusted:
		w.note("nix-daemon does not trust you (trusted-users): what is built is found in its database")
	}
	// Nix fails builds whose hook it does not find, so there is none unless it does.
	sees, known := c.Sees(wish.HookDir)
	w.Hook = wish.Keep && c.Trusted && !c.Apart && (sees || !known)
	seesProgram, programKnown := c.Sees(wish.HookProgram)
	w.InStore = !known || !programKnown || !seesProgram
	if w.Hook {
		w.Next = c.String("post-build-hook")
	}
	w.substitute(c, wish)
	return w
}

// substitute tells Nix of the cache.
func (w *Wiring) substitute(c *nixclient.Client, wish Wish) {
	if sees, known := c.Sees(wish.CacheDir); known && !sees {
		w.note("nix-daemon does not see %s, as in another container: nothing comes from the cache, and what is built is found in Nix's database", wish.CacheDir)
		return // or it would make a directory there
	}
	if strings.Contains(wish.Substituter, "%") && !c.Knows("always-allow-substitutes") {
		w.note("some versions of Nix before 2.26, such as 2.8, find no cache whose directory has a space, a %% or letters beyond ASCII in its name: choose another one if nothing comes from it")
	}
	if !c.MaySubstitute(wish.Substituter) {
		w.note("nix-daemon does not let you use the cache; the administrator can allow it in nix.conf: extra-trusted-substituters = %s", wish.Substituter)
		return
	}
	if !slices.Contains(c.Strings("substituters"), wish.Substituter) {
		w.set("extra-substituters", wish.Substituter)
	}
	// A bad entry must not fail a build. (This one everybody may set.)
	w.set("fallback", "true")
	known := c.Strings("trusted-public-keys")
	missing := slices.DeleteFunc(slices.Clone(wish.PublicKeys), func(key string) bool { return slices.Contains(known, key) })
	if !c.Trusted {
		if len(missing) > 0 {
			w.note("nix-daemon does not know the cache's key; the administrator can add it to nix.conf: extra-trusted-public-keys = %s", strings.Join(missing, " "))
		}
		return
	}
	if len(missing) > 0 {
		w.set("extra-trusted-public-keys", strings.Join(missing, " "))
	}
	// Without it what is marked as quick to build is built in spite of an entry. Nix
	// has it since 2.19.
	if c.Knows("always-allow-substitutes") {
		w.set("always-allow-substitutes", "true")
	}
}

// CanSet tells whether a line of Nix's settings can have a value: Nix takes it for words
// with one space between, up to a #.
func CanSet(value string) bool {
	return strings.Join(strings.Fields(value), " ") == value && !strings.Contains(value, "#")
}

func (w *Wiring) set(name, value string) { w.Lines = append(w.Lines, name+" = "+value) }

func (w *Wiring) note(format string, args ...any) {
	w.Notes = append(w.Notes, fmt.Sprintf(format, args...))
}

// NixConfig returns the value of NIX_CONFIG: what it was, and behind it what Nix is
// told. hook is where the hook lies.
func (w *Wiring) NixConfig(before, hook string) string {
	lines := slices.Clone(w.Lines)
	if w.Hook {
		lines = append(lines, "post-build-hook = "+hook)
	}
	if before != "" {
		lines = append([]string{strings.TrimSuffix(before, "\n")}, lines...)
	}
	return strings.Join(lines, "\n") + "\n"
}
