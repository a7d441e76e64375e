package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
	"github.com/nix-larder/larder/watcher"
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make a cache and its queue, lay the hook down, and print the lines for nix.conf",
		Description: "Changes no file of Nix's: put the lines into nix.conf, restart nix-daemon if there is one, and let larder daemon run. " +
			"For a queue that is there, it changes what the flags name.\n\n" +
			"For example:  larder init --cache DIR --mode 0664 --group ci --generate-key FILE",
		Flags: slices.Concat([]cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), jsonFlag(),
			&cli.StringFlag{Name: "mode", Usage: "`MODE` of the cache's files", DefaultText: "0644, for all to read"},
			&cli.StringFlag{Name: "group", Usage: "`GROUP` of the cache's files"},
			&cli.StringFlag{Name: "hook", Usage: "the larder-hook `PROGRAM`", DefaultText: "the one beside larder, or larder itself"},
			&cli.StringFlag{Name: "next", Usage: "the `HOOK` that is called after larder's, '' for none", DefaultText: "the post-build-hook that Nix has now"},
			failedLogsFlag(), minFreeFlag(), maxQueueFlag(),
		}, contentFlags(), keyFlags(), generateFlags(), ruleFlags(), modeFlags()),
		Action: initialize,
	}
}

func initialize(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	options, err := cacheOptions(c)
	if err != nil {
		return err
	}
	// Everything that can be wrong is found before anything is made.
	dirs := nixstore.DefaultDirs()
	want, err := initSettings(c, dirs)
	if err != nil {
		return err
	}
	keys, writeKeys, err := initKeys(c, &want)
	if err != nil {
		return err
	}
	var program string
	var chained chaining
	if want.Mode != watchOnly {
		if program, err = hookProgram(c.String("hook")); err != nil {
			return err
		}
		if chained, err = chain(c); err != nil {
			return err
		}
	}
	dir, err := parseCache(want.Cache)
	if err != nil {
		return err
	}
	options.Settings.Compression = want.Compression
	cache, err := makeCache(dir, dirs.Store, options)
	if err != nil {
		return err
	}
	defer cache.Close()
	if c.String("compression") != "" { // for all who write to it, not only for this queue
		if err := cache.Remember(c.Context, bincache.Settings{Compression: want.Compression}); err != nil {
			return orHint(err, hintCache)
		}
	}
	if _, err := chooseCompression(compress.Method{}, cache, nil); want.Compression == "" && err != nil {
		return err
	}
	if err := writeKeys(); err != nil {
		return err
	}

	q, settings, err := openQueue(c, true)
	if err != nil {
		return err
	}
	defer q.Close()
	want.Cache = settings.Cache
	if err := q.SetSettings(c.Context, want); err != nil {
		return err
	}
	if _, err := openRoots(q); err != nil {
		return err
	}
	var hook string
	if program != "" {
		if hook, err = installHook(c.Context, dirs, program, chained.next, q); err != nil {
			return err
		}
		hook = cmp.Or(chained.first, hook)
	}
	// Last, so that the hook is not something that came into the store later.
	if err := begin(c.Context, q); err != nil {
		return err
	}
	fmt.Fprint(c.App.ErrWriter, chained.said())
	r := newInitReport(q, dir, hook, keys)
	r.Next = chained.next
	return printInit(c, r)
}

// An initReport is what init prints.
type initReport struct {
	Queue       string   `json:"queue"`
	Cache       string   `json:"cache"`
	Hook        string   `json:"hook,omitempty"`
	Next        string   `json:"next,omitempty"`
	Substituter string   `json:"substituter"`
	PublicKeys  []string `json:"trusted_public_keys,omitempty"`
}

// newInitReport has readers trust the keys, or, where there are none, the directory.
func newInitReport(q *queue.Queue, dir, hook string, keys []signature.SecretKey) initReport {
	r := initReport{Queue: q.File(), Cache: bincache.URL(dir), Hook: hook, Substituter: bincache.URL(dir)}
	if len(keys) == 0 {
		r.Substituter = bincache.SubstituterURL(dir)
	}
	for _, key := range keys {
		r.PublicKeys = append(r.PublicKeys, key.ToPublicKey().String())
	}
	return r
}

func printInit(c *cli.Context, r initReport) error {
	var lines string
	if r.Hook != "" {
		lines = fmt.Sprintf("post-build-hook = %s\n", r.Hook)
	}
	lines += fmt.Sprintf("extra-substituters = %s\n", r.Substituter)
	if len(r.PublicKeys) > 0 {
		lines += fmt.Sprintf("extra-trusted-public-keys = %s\n", strings.Join(r.PublicKeys, " "))
	}
	fmt.Fprintf(c.App.ErrWriter, "larder: queue %s feeds cache %s; put what follows into nix.conf, restart nix-daemon if there is one, and run larder daemon\n", r.Queue, r.Cache)
	return printResult(c, r, lines)
}

// begin makes what is in the store now the beginning of the queue: larder sync is
// for what was there before.
func begin(ctx context.Context, q *queue.Queue) error {
	store, err := openStore()
	if errors.Is(err, fs.ErrNotExist) {
		return watcher.BeginEmpty(ctx, q) // Nix comes later
	}
	if err != nil {
		return err
	}
	defer store.Close()
	return watcher.Begin(ctx, q, store)
}

// initSettings returns the settings that the queue is to have: those of the command
// line, or that it has already. It sees to it that there can be such a queue.
func initSettings(c *cli.Context, dirs nixstore.Dirs) (queue.Settings, error) {
	s, err := presentSettings(c)
	if err != nil {
		return s, err
	}
	if s.Cache, err = cacheURL(c, s); err != nil {
		return s, err
	}
	compression, err := givenCompression(c, s)
	if err == nil {
		err = checkCompression(compression)
	}
	if err != nil {
		return s, err
	}
	s.Compression = settingOf(compression)
	setContents(c, &s)
	if err := setBounds(c, &s); err != nil {
		return s, err
	}
	r, err := rulesOf(c, s, dirs.Store)
	if err != nil {
		return s, err
	}
	s.Rules = r.Format()
	s.Mode, err = modeOf(c, s)
	return s, err
}

// presentSettings returns the settings of the queue that is there, if there is one.
// If there is none, it sees to it that one can be made.
func presentSettings(c *cli.Context) (queue.Settings, error) {
	if err := checkCacheFlag(c); err != nil {
		return queue.Settings{}, err
	}
	file, err := queueFile(c)
	if err != nil {
		return queue.Settings{}, orHint(err, "name a queue with --queue FILE")
	}
	_, err = os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return queue.Settings{}, orHint(canMake(file), hintQueue)
	}
	if err != nil {
		return queue.Settings{}, orHint(err, hintQueue)
	}
	q, settings, err := openQueue(c, false)
	if err != nil {
		return queue.Settings{}, err
	}
	return settings, q.Close()
}

// canMake returns an error if a file can't be made: if the nearest directory above
// it that exists may not be written.
func canMake(file string) error {
	dir := filepath.Dir(file)
	err := unix.Access(dir, unix.W_OK)
	if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		return canMake(dir)
	}
	if err != nil {
		return &fs.PathError{Op: "write to", Path: dir, Err: err}
	}
	return nil
}

func cacheOptions(c *cli.Context) (bincache.Options, error) {
	o := bincache.Options{Group: c.String("group")}
	if text := c.String("mode"); text != "" {
		mode, err := strconv.ParseUint(text, 8, 32)
		if err != nil || mode&^0o666 != 0 || mode&0o600 != 0o600 {
			return o, usageError(fmt.Sprintf("--mode is %q, want the mode of a file", text), "for example --mode 0664")
		}
		o.Mode = fs.FileMode(mode)
	}
	return o, nil
}
