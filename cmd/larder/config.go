package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

// Flags that several commands have. A flag goes before its variable of the
// environment, that before the queue's settings, and those before the default.
func cacheFlag() cli.Flag {
	return &cli.StringFlag{Name: "cache", EnvVars: []string{"LARDER_CACHE"}, Usage: "the cache: a directory `DIR`, or file:///DIR"}
}

func queueFlag() cli.Flag {
	return &cli.StringFlag{Name: "queue", EnvVars: []string{"LARDER_QUEUE"}, Usage: "the queue's `FILE`", DefaultText: "/var/lib/larder/queue.db for root, else $XDG_STATE_HOME/larder/queue.db"}
}

func workersFlag() cli.Flag {
	return &cli.IntFlag{Name: "workers", EnvVars: []string{"LARDER_WORKERS"}, DefaultText: "one per core", Usage: "compress `N` paths at a time"}
}

func checkWorkers(c *cli.Context) error {
	if n := c.Int("workers"); n < 0 {
		return usageError(fmt.Sprintf("--workers is %d, want at least 1", n), "for example --workers 2; without it there is one per core")
	}
	return nil
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print the result as JSON"}
}

func dryRunFlag(usage string) cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: usage}
}

func quietFlag() cli.Flag {
	return &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"}
}

// noArgs is for commands that take flags only.
func noArgs(c *cli.Context) error {
	if c.NArg() == 0 {
		return nil
	}
	return usageError(fmt.Sprintf("unexpected argument %q", c.Args().First()), "larder "+c.Command.Name+" --help shows how it is called")
}

// queueFile returns the queue that the command line names, or the user's.
func queueFile(c *cli.Context) (string, error) {
	if file := c.String("queue"); file != "" {
		return file, nil
	}
	return queue.DefaultFile(os.Geteuid(), os.Getenv)
}

// openQueue opens the queue that the command line names, with its settings. A
// queue belongs to one cache: if it has none yet, that of the command line is
// its cache from now on, and with create the queue is made for it.
func openQueue(c *cli.Context, create bool) (*queue.Queue, queue.Settings, error) {
	file, err := queueFile(c)
	if err != nil {
		return nil, queue.Settings{}, orHint(err, "name a queue with --queue FILE")
	}
	if err := checkCacheFlag(c); err != nil {
		return nil, queue.Settings{}, err // before a queue is made for nothing
	}
	open := queue.Open
	if create {
		open = queue.Create
	}
	q, err := open(c.Context, file)
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, "larder init --cache DIR makes a queue and its cache; --queue FILE names another one")
	}
	if err != nil {
		return nil, queue.Settings{}, orHint(err, hintQueue)
	}
	s, err := settle(c.Context, q, c.String("cache"))
	if err != nil {
		q.Close()
	}
	return q, s, err
}

// settle returns the queue's settings, in which cache is the cache.
func settle(ctx context.Context, q *queue.Queue, cache string) (queue.Settings, error) {
	s, err := q.Settings(ctx)
	if err != nil || cache == "" {
		return s, err
	}
	dir, err := parseCache(cache)
	if err != nil {
		return s, err
	}
	switch url := bincache.URL(dir); s.Cache {
	case url:
		return s, nil
	case "":
		s.Cache = url
		return s, q.SetSettings(ctx, s)
	default:
		return s, withHint(
			fmt.Errorf("queue %q belongs to cache %s, not %s", q.File(), s.Cache, url),
			"leave --cache out, or use a queue of its own with --queue FILE")
	}
}

func parseCache(arg string) (dir string, err error) {
	dir, err = bincache.ParseURL(arg)
	if err != nil {
		return "", &exitCoder{exitUsage, withHint(err, "name a directory: --cache file:///var/cache/nix")}
	}
	return dir, nil
}

// checkCacheFlag returns an error if the command line names what can't be a cache.
func checkCacheFlag(c *cli.Context) error {
	if c.String("cache") == "" {
		return nil
	}
	_, err := parseCache(c.String("cache"))
	return err
}

// cacheURL returns the cache of the command line or of the queue's settings.
func cacheURL(c *cli.Context, s queue.Settings) (string, error) {
	if url := c.String("cache"); url != "" {
		return url, nil
	}
	if s.Cache != "" {
		return s.Cache, nil
	}
	return "", usageError("no cache is named", "name one: --cache file:///var/cache/nix, or LARDER_CACHE")
}

// openStore opens the local Nix store.
func openStore() (*nixstore.Store, error) {
	store, err := nixstore.Open(nixstore.DefaultDirs(), 10*time.Second)
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, "is Nix installed here? NIX_STATE_DIR names another place than /nix/var/nix")
	}
	return store, err
}

// What openNamed and openExisting open a cache for.
const (
	toRead   = false
	toChange = true
)

// openNamed opens the cache of the command line, or else that of the user's queue, with
// whose settings it comes. It has to be there, and may be for any store.
func openNamed(c *cli.Context, change bool) (*bincache.Cache, queue.Settings, error) {
	s, err := pushSettings(c)
	if err != nil {
		return nil, s, err
	}
	cache, err := openExisting(c, s, change)
	return cache, s, err
}

// openExisting is openNamed for who has read the settings before.
func openExisting(c *cli.Context, s queue.Settings, change bool) (*bincache.Cache, error) {
	if !change {
		return openReadOnly(c, s, "")
	}
	url, err := cacheURL(c, s)
	if err != nil {
		return nil, err
	}
	bounds, err := givenBounds(c, s)
	if err != nil {
		return nil, err
	}
	cache, err := openCache(url, nil, "")
	if err != nil {
		return nil, err
	}
	cache.Reserve(bounds.MinFree)
	if err := lookAfter(c.Context, cache); err != nil {
		cache.Close()
		return nil, err
	}
	return cache, nil
}

// lookAfter deals with what others have left who were killed while they changed the cache.
func lookAfter(ctx context.Context, cache *bincache.Cache) error {
	if err := cache.SweepTemp(sweepAge); err != nil {
		return orHint(err, hintCache)
	}
	return orHint(cachegc.Heal(ctx, cache), hintCache)
}

// openCache opens a cache. One that the command line names is made if it is
// missing, as make says; one that a queue remembers is not, or an unmounted disk would
// be written below its mount point, and make is nil.
func openCache(url string, make *bincache.Options, storeDir string) (*bincache.Cache, error) {
	dir, err := parseCache(url)
	if err != nil {
		return nil, err
	}
	if make != nil {
		return makeCache(dir, storeDir, *make)
	}
	cache, err := bincache.Open(dir, storeDir)
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, hintNoCache(dir))
	}
	if err == nil {
		err = cache.CheckWritable()
	}
	return cache, orHint(err, hintCache)
}

func hintNoCache(dir string) string {
	return fmt.Sprintf("is it the right directory, and is the disk mounted? larder init --cache %s makes a new one", dir)
}

// makeCache opens a cache, or makes it.
func makeCache(dir, storeDir string, o bincache.Options) (*bincache.Cache, error) {
	cache, err := bincache.Create(dir, storeDir, o)
	if err == nil {
		err = cache.CheckWritable()
	}
	return cache, orHint(err, hintCache)
}

// sweepAge is how old an unfinished file has to be before it is looked at.
const sweepAge = time.Minute
