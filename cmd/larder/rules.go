package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

// ruleFlags set the queue's rules. Each replaces what was there; those that are not
// given leave it as it is.
func ruleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "keep", Usage: "`CLASSES` of store paths to keep: built, downloaded, sources, drvs", DefaultText: "built,downloaded,sources"},
		withDrvsFlag(),
		&cli.StringFlag{Name: "max-source-size", Usage: "keep no source for itself that is larger than `SIZE`; 0 for all", DefaultText: "256MiB"},
		&cli.StringSliceFlag{Name: "exclude", Usage: "keep out paths whose name matches a `GLOB`, and all that refers to them; '' for none"},
		&cli.StringFlag{Name: "max-nar-size", Usage: "keep out paths that are larger than `SIZE`, and all that refers to them; 0 for none", DefaultText: "0"},
		&cli.StringSliceFlag{Name: "skip-signed-by", Usage: "leave to its upstream what this `KEY` has signed, such as cache.nixos.org-1; '' for none"},
		&cli.StringSliceFlag{Name: "base", Usage: "count the entries of the `CACHE` in this other directory as present; '' for none"},
	}
}

// rulesOf returns the rules of a queue's settings, changed by the command line.
func rulesOf(c *cli.Context, s queue.Settings, storeDir string) (rules.Rules, error) {
	r, err := rules.Parse(s.Rules)
	if err != nil && slices.ContainsFunc(ruleFlags(), func(f cli.Flag) bool { return c.IsSet(f.Names()[0]) }) {
		r, err = rules.Default(), nil // all of them are set anew
	}
	if err != nil {
		return r, err
	}
	if c.IsSet("keep") {
		r.Keep = nil
		for _, class := range list(c, "keep") {
			r.Keep = append(r.Keep, rules.Class(class))
		}
	}
	if c.IsSet("with-drvs") {
		r.WithDrvs = c.Bool("with-drvs")
	}
	for name, value := range map[string]*int64{"max-source-size": &r.MaxSourceSize, "max-nar-size": &r.MaxNarSize} {
		if c.IsSet(name) {
			size, err := humanize.ParseBytes(c.String(name))
			if err != nil {
				return r, usageError(fmt.Sprintf("--%s is %q, want a size", name, c.String(name)), "for example --"+name+" 500MB; 0 for no bound")
			}
			*value = int64(size)
		}
	}
	if c.IsSet("exclude") {
		r.Exclude = list(c, "exclude")
	}
	if c.IsSet("skip-signed-by") {
		r.SkipSignedBy = list(c, "skip-signed-by")
	}
	if c.IsSet("base") {
		if r.Bases, err = bases(list(c, "base"), storeDir); err != nil {
			return r, err
		}
	}
	if err := r.Check(); err != nil {
		return r, usageError(err.Error(), "larder init --help lists the flags")
	}
	return r, nil
}

// list returns a flag's values: the empty one stands for none.
func list(c *cli.Context, name string) []string {
	given := c.StringSlice(name)
	if name != "base" { // whose name may have commas
		given = strings.Split(strings.Join(given, ","), ",")
	}
	values := slices.DeleteFunc(given, func(value string) bool { return value == "" })
	slices.Sort(values)
	return slices.Compact(values)
}

// bases returns the canonical URLs of caches that can be read.
func bases(args []string, storeDir string) (urls []string, err error) {
	for _, arg := range args {
		dir, err := parseCache(arg)
		if err != nil {
			return nil, err
		}
		base, err := openBase(bincache.URL(dir), storeDir)
		if err != nil {
			return nil, err
		}
		base.Close()
		urls = append(urls, bincache.URL(dir))
	}
	return urls, nil
}

// Modes of a queue.
const (
	hookOnly  = "hook-only"
	watchOnly = "watch-only"
)

func modeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: hookOnly, Usage: "queue only what the hook tells of, not what else comes into the store"},
		&cli.BoolFlag{Name: watchOnly, Usage: "do without the hook: what is built is found in Nix's database, like everything else"},
	}
}

// modeOf returns the mode of the command line, or that of the queue's settings.
func modeOf(c *cli.Context, s queue.Settings) (string, error) {
	switch {
	case c.Bool(hookOnly) && c.Bool(watchOnly):
		return "", usageError("--hook-only and --watch-only leave nothing to do", "choose one of them, or none")
	case c.Bool(hookOnly):
		return hookOnly, nil
	case c.Bool(watchOnly):
		return watchOnly, nil
	case c.IsSet(hookOnly) || c.IsSet(watchOnly): // --hook-only=false
		return "", nil
	}
	return s.Mode, nil
}
