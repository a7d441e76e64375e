package main

import (
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

// elsewhereFlags say from where clients have what a cache has not.
func elsewhereFlags(without string) []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "base", Usage: "clients also use this `CACHE`, a directory; '' for none (default: those of the queue's rules)"},
		&cli.BoolFlag{Name: "upstream", Usage: "clients have what is missing from an upstream; --upstream=false that they have not, so that " + without + " (default: if the queue's rules leave something to one)"},
	}
}

// elsewhere is where clients have from what a cache has not, by the rules of its queue and
// what the command line says.
type elsewhere struct {
	settings queue.Settings
	rules    rules.Rules
	bases    []*bincache.Cache // once they are open
	upstream bool
}

// newElsewhere reads the flags.
func newElsewhere(c *cli.Context, s queue.Settings) (e elsewhere, err error) {
	e.settings = s
	if e.rules, err = rules.Parse(s.Rules); err != nil {
		return e, err
	}
	e.upstream = c.Bool("upstream") || !c.IsSet("upstream") && len(e.rules.SkipSignedBy) > 0
	if c.IsSet("base") {
		e.rules.Bases = nil
		for _, arg := range list(c, "base") {
			dir, err := parseCache(arg)
			if err != nil {
				return e, err
			}
			e.rules.Bases = append(e.rules.Bases, bincache.URL(dir))
		}
		e.settings.Rules = e.rules.Format() // also for who copies
	}
	return e, nil
}

// open opens the bases of a cache. They are to be closed, also after an error.
func (e *elsewhere) open(storeDir string) error {
	for _, url := range e.rules.Bases {
		base, err := openBase(url, storeDir)
		if err != nil {
			return err
		}
		e.bases = append(e.bases, base)
	}
	return nil
}

func (e *elsewhere) close() {
	for _, base := range e.bases {
		base.Close()
	}
}
