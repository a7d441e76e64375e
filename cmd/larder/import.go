package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
	"github.com/nix-larder/larder/internal/closurefile"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "add to a cache what nix-store --export or larder export wrote",
		ArgsUsage: "< closure.nar",
		Description: "Reads standard input into a cache, which is made if it is named and not there. It needs no Nix. What the cache has already stays.\n\n" +
			"The format has no signatures: with a key all that is imported is signed, whoever has made it. Nor does it say what is content-addressed; " +
			"where the path itself proves it (sources, derivations, fixed outputs by SHA-256), the entry says so, and needs no signature.\n\n" +
			"After an error (1) the paths before it are in the cache, and nothing else. A tar archive of larder export --tar is for larder merge.",
		Flags: append([]cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), workersFlag(), minFreeFlag(),
			allowMissingFlag("take paths that refer to what neither the input nor the cache has: all who use the cache have that from elsewhere"),
			granularityFlag(), jsonFlag(), quietFlag(),
		}, keyFlags()...),
		Action: importPaths,
	}
}

const importExample = "larder import --cache DIR < closure.nar"

func importPaths(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return usageError(err.Error(), importExample)
	}
	if f, ok := c.App.Reader.(*os.File); ok && isTerminal(f) {
		return usageError("standard input is a terminal", importExample)
	}
	settings, err := pushSettings(c)
	if err != nil {
		return err
	}
	given, err := givenCompression(c, settings)
	if err == nil {
		err = checkCompression(given)
	}
	if err != nil {
		return err
	}
	keys, err := signingKeys(c, settings)
	if err != nil {
		return err
	}
	if err := checkWorkers(c); err != nil {
		return err
	}
	bounds, err := givenBounds(c, settings)
	if err != nil {
		return err
	}
	in := nar.NewReader(untilDone(c.Context, c.App.Reader))
	if err := checkStream(in); err != nil {
		return err // before a cache is made for nothing
	}
	cache, err := openImportCache(c, settings, given)
	if err != nil {
		return err
	}
	defer cache.Close()
	method, err := chooseCompression(given, cache, stderrLog(c))
	if err != nil {
		return err
	}
	if err := lookAfter(c.Context, cache); err != nil {
		return err
	}
	cache.Reserve(bounds.MinFree)
	var run bincache.Run
	m := closurefile.NewImporter(closurefile.Target{
		Cache: cache, Method: method, Workers: c.Int("workers"), Keys: keys, AllowMissing: c.Bool(missingFlag), Log: stderrLog(c),
		Published: func(n *bincache.NarInfo) { run.Added = append(run.Added, bincache.RunEntry{Path: n.StorePath}) },
		Found:     func(storePath string) { run.Used = append(run.Used, storePath) },
		Removed: func(ctx context.Context, storePaths []string) error {
			return cachegc.Complete(ctx, cache, storePaths, c.Bool(missingFlag))
		},
	}, in)
	done := showProgress(c, exportProgress(m.Progress))
	r, err := m.Run(c.Context)
	done()
	run.Ended, run.Bytes = time.Now(), r.FileBytes
	if _, err := cache.RecordRun(run, useGranularity(c)); err != nil {
		warn(c, "what was used could not be put down in the cache: %v", err)
	}
	if err != nil {
		return importError(err, r)
	}
	if end, err := in.AtEnd(); err == nil && !end {
		// nix-store --import does not look, and some put two exports behind each other.
		fmt.Fprintln(c.App.ErrWriter, "larder: warning: ignored what is behind the end of the export; import another one by itself")
	}
	return printImported(c, cache, r)
}

// untilDone returns a reader of r until ctx ends: nobody can end a read of a pipe in which
// nothing comes. It reads ahead.
func untilDone(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	go func() {
		// Not as what it is, or io.Copy would choose a small buffer.
		_, err := io.CopyBuffer(in, struct{ io.Reader }{r}, make([]byte, 256<<10))
		in.CloseWithError(err)
	}()
	return out
}

// openImportCache opens the cache, or makes it if the command line names it.
func openImportCache(c *cli.Context, s queue.Settings, given compress.Method) (*bincache.Cache, error) {
	url, err := cacheURL(c, s)
	if err != nil {
		return nil, err
	}
	storeDir := "" // that of the cache, which need not be that of a Nix here
	if dir, err := parseCache(url); err == nil {
		cache, err := bincache.OpenReadOnly(dir, "")
		if errors.Is(err, fs.ErrNotExist) {
			storeDir = nixstore.DefaultDirs().Store
		}
		if err == nil {
			cache.Close()
		}
	}
	return openCache(url, makeNamed(c, given), storeDir)
}

// notStreams are what others begin with that may be taken for a stream.
var notStreams = []struct{ head, problem, hint string }{
	{"\x0d\x00\x00\x00\x00\x00\x00\x00", "the input is a NAR alone, which does not say of which path", "nix-store --export PATH… writes what can be imported"},
	{"\x1f\x8b", "the input is compressed", "gzip -d | larder import"},
	{"\x28\xb5\x2f\xfd", "the input is compressed", "zstd -d | larder import"},
	{"\xfd7zXZ\x00", "the input is compressed", "xz -d | larder import"},
	{"BZh", "the input is compressed", "bzip2 -d | larder import"},
}

// checkStream returns an error if the input can't be an export.
func checkStream(in *nar.Reader) error {
	head, err := in.Peek(8)
	for _, other := range notStreams {
		if bytes.HasPrefix(head, []byte(other.head)) {
			return withHint(fmt.Errorf("import: %s", other.problem), other.hint)
		}
	}
	if err != nil {
		return importError(fmt.Errorf("%w: %w", closurefile.ErrStream, err), closurefile.Imported{})
	}
	if head[0] > 1 || len(bytes.Trim(head[1:], "\x00")) > 0 {
		return importError(fmt.Errorf("%w: it begins with %q", closurefile.ErrStream, head), closurefile.Imported{})
	}
	return nil
}

func importError(err error, r closurefile.Imported) error {
	hint := "what is imported stays; run the command again to go on"
	switch {
	case errors.Is(err, context.Canceled): // and the stream is not to blame
	case bincache.IsFull(err):
		hint = "make room (larder gc --max-size SIZE, with --grace 0s at once); what is imported stays; run the command again to go on"
	case errors.Is(err, closurefile.ErrMissing):
		hint = "export all of the closure: nix-store --export $(nix-store -qR PATH); or see --" + missingFlag
	case errors.Is(err, closurefile.ErrStream):
		hint = "has the command that wrote it failed? nix-store --export $(nix-store -qR PATH) writes what can be imported"
	}
	if r.Paths > 0 {
		err = fmt.Errorf("%w (the %d paths before it are imported)", err, r.Paths)
	}
	return orHint(fmt.Errorf("import: %w", err), hint)
}

func printImported(c *cli.Context, cache *bincache.Cache, r closurefile.Imported) error {
	result := struct {
		Cache string `json:"cache"`
		closurefile.Imported
	}{bincache.URL(cache.Path()), r}
	text := fmt.Sprintf("added %d of %d paths to %s (%s, %s compressed)", r.Added, r.Paths, result.Cache,
		ibytes(r.NarBytes), ibytes(r.FileBytes))
	if r.Signatures > 0 {
		text += fmt.Sprintf(", and %d signatures to those that were there", r.Signatures)
	}
	if r.Relying > 0 {
		text += fmt.Sprintf("\n%d of the new entries refer to what the cache has not: clients need another one too", r.Relying)
	}
	return printResult(c, result, text+"\n")
}
