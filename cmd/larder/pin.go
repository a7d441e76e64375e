package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
)

func pinCommand() *cli.Command {
	return &cli.Command{
		Name:      "pin",
		Usage:     "keep the closures of store paths in the cache, whatever larder gc removes",
		ArgsUsage: "NAME PATH…",
		Description: "Makes NAME stand for some store paths. What the cache has not of their closures is copied to it first, from the store; if that has it not either, and clients have it from nowhere else, " +
			"nothing is pinned (1). " +
			"With --keep, what NAME stood for before is kept as well: so one can go back to an earlier deployment.\n\n" +
			"For example:  larder pin production ./result --keep 5",
		Flags: slices.Concat([]cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), workersFlag(), minFreeFlag(), quietFlag(),
			&cli.IntFlag{Name: "keep", Value: 1, Usage: "keep the last `N` things that NAME stood for, this one included"},
		}, elsewhereFlags("it is copied, or nothing is pinned"), keyFlags()),
		Action: pin,
	}
}

func unpinCommand() *cli.Command {
	return &cli.Command{
		Name:        "unpin",
		Usage:       "remove pins, so that larder gc may remove what they kept",
		ArgsUsage:   "NAME…",
		Description: "Lets go of all that the NAMEs have stood for. Names that are no pins are told of in the end (1); the others are removed.",
		Flags:       []cli.Flag{cacheFlag(), queueFlag()},
		Action:      unpin,
	}
}

func pinsCommand() *cli.Command {
	return &cli.Command{
		Name:        "pins",
		Usage:       "list what is pinned",
		Description: "Prints for each pin which store paths it stands for, and since when, the newest first. It changes nothing, and with --cache it needs no queue.",
		Flags:       []cli.Flag{cacheFlag(), queueFlag(), jsonFlag()},
		Action:      pins,
	}
}

func pin(c *cli.Context) error {
	if c.NArg() < 2 {
		return usageError("a name and paths are needed", "larder pin production ./result")
	}
	name, args := c.Args().First(), c.Args().Tail()
	if err := bincache.CheckPinName(name); err != nil {
		return usageError(err.Error(), "larder pin production ./result")
	}
	keep := c.Int("keep")
	if keep < 1 {
		return usageError(fmt.Sprintf("--keep is %d, want at least 1", keep), "for example --keep 5; larder unpin NAME removes a pin")
	}
	wanted, err := parsePaths(args)
	if err != nil {
		return err
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	settings, err := pushSettings(c)
	if err != nil {
		return err
	}
	e, err := newElsewhere(c, settings)
	if err != nil {
		return err
	}
	cache, err := openExisting(c, e.settings, toChange)
	if err != nil {
		return err
	}
	defer cache.Close()
	p := &pinning{elsewhere: e, cli: c, log: stderrLog(c), cache: cache, wanted: wanted}
	defer p.close()
	if err := p.open(cache.StoreDir()); err != nil {
		return err
	}
	if err := p.pin(c.Context, name, keep); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s keeps %s in %s\n", name, paths(len(wanted)), bincache.URL(cache.Path()))
	return err
}

func unpin(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageError("no pin is named", "larder pins lists them")
	}
	for _, name := range c.Args().Slice() {
		if err := bincache.CheckPinName(name); err != nil {
			return usageError(err.Error(), "larder pins lists them")
		}
	}
	cache, _, err := openNamed(c, toChange)
	if err != nil {
		return err
	}
	defer cache.Close()
	var unknown []string
	for _, name := range c.Args().Slice() {
		err := cache.Unpin(c.Context, name)
		switch {
		case errors.Is(err, bincache.ErrNoPin):
			unknown = append(unknown, name)
		case err != nil:
			return orHint(err, hintCache)
		}
	}
	if len(unknown) > 0 {
		return withHint(fmt.Errorf("unpin %s: %w", strings.Join(unknown, ", "), bincache.ErrNoPin), "larder pins lists them")
	}
	return nil
}

// A printedPin is a pin as pins prints it.
type printedPin struct {
	Name    string          `json:"name"`
	History []printedPinned `json:"history"` // newest first
}

type printedPinned struct {
	Since time.Time `json:"since"`
	Paths []string  `json:"paths"`
}

func pins(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cache, _, err := openNamed(c, toRead)
	if err != nil {
		return err
	}
	defer cache.Close()
	all, err := cache.Pins()
	if err != nil {
		return err
	}
	printed := []printedPin{}
	var text strings.Builder
	for _, pin := range all {
		p := printedPin{Name: pin.Name}
		for _, h := range slices.Backward(pin.History) {
			p.History = append(p.History, printedPinned{h.Since, h.Paths})
			for _, path := range h.Paths {
				fmt.Fprintf(&text, "%s  %s  %s\n", pin.Name, localTime(h.Since), path)
			}
		}
		printed = append(printed, p)
	}
	return printResult(c, printed, text.String())
}
