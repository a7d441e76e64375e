package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/closurefile"
	"github.com/nix-larder/larder/internal/nixstore"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write closures that are in a cache to standard output",
		ArgsUsage: "PATH… > closure.nar",
		Description: "Writes what nix-store --export writes of the closures of store paths, for nix-store --import or larder import, or with --tar " +
			"a cache in a tar archive that has just these. It needs no Nix, and with --cache no queue, and changes nothing.\n\n" +
			"The first format has neither signatures nor content addresses, and is for those whom the other side trusts. An archive has all that there is: " +
			"unpacked where nothing was it is a cache for Nix, and larder merge adds it to another one. The same entries give the same bytes.\n\n" +
			"Each NAR is compared with its hash, if it is smaller than 16 MiB before any of it is written. After an error (1) what was written " +
			"has no end, and no path in it that is wrong.",
		Flags: []cli.Flag{
			cacheFlag(), queueFlag(),
			&cli.BoolFlag{Name: "tar", Usage: "write a tar archive of a cache"},
			&cli.BoolFlag{Name: "no-closure", Usage: "write the paths themselves only, for somebody who has what they refer to"},
			allowMissingFlag("leave out references that the cache has not, for somebody who has them from elsewhere"),
			&cli.BoolFlag{Name: "stdin", Usage: "read more paths from standard input, one per line"},
			&cli.BoolFlag{Name: "json", Usage: "print the result as JSON, on standard error, and no progress"}, quietFlag(),
		},
		Action: export,
	}
}

const missingFlag = "allow-missing"

func allowMissingFlag(usage string) cli.Flag { return &cli.BoolFlag{Name: missingFlag, Usage: usage} }

func export(c *cli.Context) error {
	const example = "larder export --cache DIR PATH… > closure.nar"
	if c.NArg() == 0 && !c.Bool("stdin") {
		return usageError("no path is named", example)
	}
	if c.Bool("tar") && c.Bool("no-closure") {
		return usageError("a cache has closures, and --no-closure leaves them out", "leave out one of --tar and --no-closure")
	}
	if isTerminal(c.App.Writer) {
		return usageError("what is exported is nothing for a terminal", example)
	}
	args, err := pathArgs(c)
	if err != nil {
		return err
	}
	cache, _, err := openNamed(c, toRead)
	if err != nil {
		return err
	}
	defer cache.Close()
	paths, err := parsePathsIn(cache.StoreDir(), args)
	if err != nil {
		return err
	}
	return exportPaths(c, closurefile.Source{
		Cache: cache, Paths: paths, NoClosure: c.Bool("no-closure"), AllowMissing: c.Bool(missingFlag) || c.Bool("no-closure"),
	})
}

func exportPaths(c *cli.Context, s closurefile.Source) error {
	e, err := closurefile.NewExporter(c.Context, s)
	if err != nil {
		return orHint(fmt.Errorf("export: %w", err), exportHint(err))
	}
	done := func() {}
	if !c.Bool("json") {
		done = showProgress(c, exportProgress(e.Progress))
	}
	out := bufio.NewWriterSize(c.App.Writer, 256<<10)
	var r closurefile.Result
	if c.Bool("tar") {
		r, err = e.Tar(c.Context, out, stderrLog(c))
	} else {
		r, err = e.Export(c.Context, out)
	}
	if err == nil {
		err = out.Flush()
	}
	done()
	if err != nil {
		return orHint(fmt.Errorf("export: %w", err), "what was written has no end: throw it away. "+exportHint(err))
	}
	return printExported(c, s.Cache, r)
}

// exportHint returns what to type after an error.
func exportHint(err error) string {
	switch {
	case errors.Is(err, closurefile.ErrMissing):
		return "larder list shows what the cache has; --" + missingFlag + " leaves out references that are elsewhere"
	case errors.Is(err, bincache.ErrDamaged):
		return hintVerify
	}
	return "run the command again"
}

func exportProgress(now func() closurefile.Progress) func() progress {
	return func() progress {
		p := now()
		return progress{done: p.Done, total: p.Paths, read: p.Bytes, bytes: p.NarBytes}
	}
}

// printExported prints the result on standard error: the other one has what is exported.
func printExported(c *cli.Context, cache *bincache.Cache, r closurefile.Result) error {
	if c.Bool("json") {
		return json.NewEncoder(c.App.ErrWriter).Encode(struct {
			Cache string `json:"cache"`
			closurefile.Result
		}{bincache.URL(cache.Path()), r})
	}
	if c.Bool("quiet") {
		return nil
	}
	text := fmt.Sprintf("larder: exported %d paths (%s)", r.Paths, ibytes(r.Bytes))
	if r.Missing > 0 {
		text += fmt.Sprintf("; left out %d references that the cache has not", r.Missing)
	}
	_, err := io.WriteString(c.App.ErrWriter, text+"\n")
	return err
}

// parsePathsIn returns the store paths that a person means, of a store that need not be
// here.
func parsePathsIn(storeDir string, args []string) ([]string, error) {
	paths := make([]string, len(args))
	for i, arg := range args {
		path, err := nixstore.ParsePath(storeDir, arg)
		if err != nil {
			return nil, withHint(fmt.Errorf("%q is not a store path: %w", arg, err), "a path looks like "+storeDir+"/<hash>-<name>; ./result works too")
		}
		paths[i] = path
	}
	return paths, nil
}
