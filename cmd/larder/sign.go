package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
)

const dropFlag = "drop-key"

func signCommand() *cli.Command {
	return &cli.Command{
		Name:      "sign",
		Usage:     "sign what is in a cache, and take the signatures of a retired key away",
		ArgsUsage: "[PATH…]",
		Description: "Adds signatures to all entries of the cache, or to those of the closures of the PATHs, as far as the cache has them, and to the realisations of content-addressed derivations. " +
			"What it vouches for is what the cache says: name an old key with --trusted-public-key to sign only what that one has signed. " +
			"With --drop-key each entry goes from one key to the other at once. All else in an entry stays. It needs no Nix, and with --cache no queue.\n\n" +
			"For example:  larder sign --cache DIR --signing-key-file NEW --drop-key old.example.org-1",
		Flags: append([]cli.Flag{
			cacheFlag(), queueFlag(),
			&cli.StringSliceFlag{Name: dropFlag, Usage: "remove the signatures of the key with the name `NAME`, but for those that are added"},
			trustedKeyFlag(),
			dryRunFlag("change nothing, but say what would be done"),
			minFreeFlag(), stdinFlag(), jsonFlag(), quietFlag(),
		}, keyFlags()...),
		Action: signCache,
	}
}

func signCache(c *cli.Context) error {
	o := bincache.Resigning{DryRun: c.Bool("dry-run"), Drop: c.StringSlice(dropFlag)}
	for _, name := range o.Drop {
		if checkKeyName(name) != nil {
			return usageError("what is given with --"+dropFlag+" is not the name of a key", "the name is what stands before the colon, such as ci.example.org-1")
		}
	}
	args, err := pathArgs(c)
	if err != nil {
		return err
	}
	if o.Trusted, err = trustedKeys(c); err != nil {
		return err
	}
	settings, err := pushSettings(c)
	if err != nil {
		return err
	}
	if o.Keys, err = signingKeys(c, settings); err != nil {
		return err
	}
	if len(o.Keys)+len(o.Drop) == 0 {
		return usageError("there is no key to sign with, and none to drop", "larder sign --cache DIR --"+keyFileFlag+" FILE, or --"+dropFlag+" NAME")
	}
	cache, err := openExisting(c, settings, !o.DryRun)
	if err != nil {
		return err
	}
	defer cache.Close()
	if o.Paths, err = parsePathsIn(cache.StoreDir(), args); err != nil {
		return err
	}

	var r bincache.Resigned
	if len(args) > 0 || !c.Bool("stdin") { // no paths are not all of them
		if r, err = resign(c, cache, o); err != nil {
			return err
		}
	}
	if err := printSigned(c, cache, o, r); err != nil {
		return err
	}
	if r.Damaged > 0 {
		return withHint(fmt.Errorf("entries that can't be used, and were not signed: %d", r.Damaged), hintVerify)
	}
	return nil
}

func resign(c *cli.Context, cache *bincache.Cache, o bincache.Resigning) (bincache.Resigned, error) {
	var done, total atomic.Int64
	o.Progress = func(d, t int) {
		total.Store(int64(t))
		done.Store(int64(d))
	}
	var damaged []string
	o.Tell = func(err error) { damaged = append(damaged, printable(err.Error())) }
	hide := showProgress(c, func() progress { return progress{done: int(done.Load()), total: int(total.Load())} })
	r, err := cache.Resign(c.Context, o)
	hide()
	printWarnings(c.App.ErrWriter, damaged)
	if errors.Is(err, fs.ErrNotExist) && len(o.Paths) > 0 {
		err = withHint(err, "larder list says what is in the cache; larder push copies and signs what is in the store")
	}
	return r, orHint(err, "what is signed stays so; run the command again to go on")
}

func printSigned(c *cli.Context, cache *bincache.Cache, o bincache.Resigning, r bincache.Resigned) error {
	result := struct {
		Cache  string `json:"cache"`
		DryRun bool   `json:"dry_run"`
		bincache.Resigned
	}{bincache.URL(cache.Path()), o.DryRun, r}
	changed := "changed"
	if o.DryRun {
		changed = "would change"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %d of %d entries in %s; signatures: %d added, %d dropped\n", changed, r.Changed, r.Entries, result.Cache, r.Added, r.Dropped)
	if r.Realisations > 0 {
		fmt.Fprintf(&text, "of them in %d of %d realisations\n", r.RealisationsChanged, r.Realisations)
	}
	if r.Untrusted > 0 {
		fmt.Fprintf(&text, "not signed, since no trusted key has signed them: %d\n", r.Untrusted)
	}
	if r.Unsigned > 0 {
		fmt.Fprintf(&text, "without any signature, so that clients with require-sigs do not take them: %d\n", r.Unsigned)
	}
	return printResult(c, result, text.String())
}
