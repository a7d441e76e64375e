package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixclient"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

// A session is one run, or what is between start and stop: a queue of its own in a
// directory of its own, and a cache.
//
//	queue.db…      the queue
//	journal        what happened: see package runner
//	larder-hook…   the hook and the files beside it, where Nix sees them here
//	session.json   of start: what stop has to know
//	log            of start: what its worker says
type session struct {
	cli      *cli.Context
	dir      string
	queue    *queue.Queue
	settings queue.Settings
	lock     *queue.Lock
	journal  *runner.Journal
	signers  []string // public keys with whose secrets entries are signed
	log      *slog.Logger

	// How Nix is told.
	wiring runner.Wiring
	hook   string

	begin    time.Time
	started  bool // by larder start
	detached bool // we are what start left behind, and nobody may come to stop us
}

// newSession makes a session. Whatever it has made is gone after an error.
func newSession(c *cli.Context, keep bool, log *slog.Logger) (_ *session, err error) {
	url, err := cacheURL(c, queue.Settings{})
	if err != nil {
		return nil, err
	}
	cacheDir, err := parseCache(url)
	if err != nil {
		return nil, err
	}
	s := &session{cli: c, log: log, begin: time.Now()}
	dirs := nixstore.DefaultDirs()
	wish, err := s.wish(dirs, cacheDir)
	if err != nil {
		return nil, err
	}
	wish.Keep, wish.CacheDir = keep, cacheDir
	var client *nixclient.Client
	var asked errgroup.Group // most of the time is Nix's
	asked.Go(func() (err error) {
		client, err = nixclient.Ask(c.Context, dirs)
		return err
	})
	defer func() {
		if err != nil {
			_ = asked.Wait() // (ignored) there is an error already
			s.remove()
		}
	}()
	if keep {
		err = s.make(dirs, cacheDir)
	} else {
		err = s.checkReadable(dirs) // Nix would make what is not there
	}
	if err != nil {
		return nil, err
	}
	if err := asked.Wait(); err != nil {
		return nil, err
	}
	wish.HookDir = s.dir
	wish.HookProgram, _ = hookProgram("") // (ignored) who installs it will say
	if err := s.wire(client, dirs, wish); err != nil {
		return nil, err
	}
	return s, nil
}

// wish sets the session's settings, and returns what Nix should be told: to take what
// is signed, or, where there is no key, whatever is in the directory.
func (s *session) wish(dirs nixstore.Dirs, cacheDir string) (runner.Wish, error) {
	var w runner.Wish
	if err := checkWorkers(s.cli); err != nil {
		return w, err
	}
	s.settings = queue.Settings{Cache: bincache.URL(cacheDir)}
	compression, err := givenCompression(s.cli, s.settings)
	if err != nil {
		return w, err
	}
	s.settings.Compression = settingOf(compression)
	setContents(s.cli, &s.settings)
	if err := setBounds(s.cli, &s.settings); err != nil {
		return w, err
	}
	r, err := rulesOf(s.cli, s.settings, dirs.Store)
	if err != nil {
		return w, err
	}
	s.settings.Rules = r.Format()
	keys, _, err := initKeys(s.cli, &s.settings)
	if err != nil {
		return w, err
	}
	trusted, err := trustedKeys(s.cli)
	if err != nil {
		return w, err
	}
	for _, key := range trusted {
		w.PublicKeys = append(w.PublicKeys, key.String())
	}
	for _, key := range keys {
		public := key.ToPublicKey().String()
		s.signers = append(s.signers, public)
		w.PublicKeys = append(w.PublicKeys, public)
	}
	w.Substituter = bincache.URL(cacheDir)
	if len(w.PublicKeys) == 0 {
		w.Substituter = bincache.SubstituterURL(cacheDir)
	}
	return w, nil
}

// make makes the session's directory, and what is in it.
func (s *session) make(dirs nixstore.Dirs, cacheDir string) error {
	if err := s.makeCache(dirs, cacheDir); err != nil {
		return err
	}
	parent, err := sessionsDir()
	if err != nil {
		return err
	}
	s.dir = filepath.Join(parent, fmt.Sprintf("%s-%s", s.begin.UTC().Format("20060102T150405"), rand.Text()[:8]))
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return fmt.Errorf("make a place for the run: %w", err)
	}
	if s.queue, err = queue.Create(s.cli.Context, filepath.Join(s.dir, "queue.db")); err != nil {
		return err
	}
	if err := s.queue.SetSettings(s.cli.Context, s.settings); err != nil {
		return err
	}
	if s.lock, err = s.queue.Lock(); err != nil {
		return err
	}
	if _, err := openRoots(s.queue); err != nil {
		return err
	}
	if s.journal, err = runner.OpenJournal(s.file("journal")); err != nil {
		return err
	}
	s.takeOver(parent)
	return nil
}

// makeCache makes the cache, unless it is there, and sees to it that it can be written as
// it is to be.
func (s *session) makeCache(dirs nixstore.Dirs, cacheDir string) error {
	given, err := givenCompression(s.cli, s.settings)
	if err != nil {
		return err
	}
	if err := checkCompression(given); err != nil {
		return err
	}
	cache, err := makeCache(cacheDir, dirs.Store, bincache.Options{Settings: bincache.Settings{Compression: s.settings.Compression}})
	if err != nil {
		return err
	}
	defer cache.Close()
	_, err = chooseCompression(given, cache, nil) // the worker says what differs
	return err
}

// checkReadable returns an error if there is no cache to read.
func (s *session) checkReadable(dirs nixstore.Dirs) error {
	cache, err := openReadOnly(s.cli, s.settings, dirs.Store)
	if err != nil {
		return err
	}
	return cache.Close()
}

// file returns the name of one of the session's files.
func (s *session) file(name string) string { return filepath.Join(s.dir, name) }

// wire finds out what Nix can be told, lays the hook down where it can be of use, and
// makes what is in the store now the beginning.
func (s *session) wire(client *nixclient.Client, dirs nixstore.Dirs, wish runner.Wish) error {
	s.wiring = runner.Wire(client, wish)
	if s.wiring.Hook {
		if err := s.installHook(dirs); err != nil {
			// The watcher finds everything without it.
			s.wiring.Hook = false
			s.wiring.Notes = append(s.wiring.Notes, fmt.Sprintf("the hook could not be laid down, so that what is built is found in Nix's database: %v", err))
		}
	}
	if s.queue == nil {
		return nil
	}
	if client.Access == nixclient.Local {
		if err := initStore(s.cli, dirs); err != nil {
			return err
		}
	}
	// Last, so that the hook is not something that came into the store later.
	return begin(s.cli.Context, s.queue)
}

// initStore lets Nix make its database, where that would be done by the first command
// of a machine: what is to be watched has to be there.
func initStore(c *cli.Context, dirs nixstore.Dirs) error {
	if _, err := os.Stat(filepath.Join(dirs.State, "db", "schema")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := runNix(c.Context, "nix-store", "--init")
	return err
}

func (s *session) installHook(dirs nixstore.Dirs) error {
	program, err := hookProgram("")
	if err != nil {
		return err
	}
	s.wiring.Next = stillWanted(s.wiring.Next)
	if s.wiring.InStore {
		s.hook, err = installHook(s.cli.Context, dirs, program, s.wiring.Next, s.queue)
		return err
	}
	s.hook = filepath.Join(s.dir, hookName)
	if !runner.CanSet(s.hook) {
		return fmt.Errorf("nix.conf can't have the name %q", s.hook)
	}
	if err := writeBeside(s.hook, s.queue.File(), s.wiring.Next); err != nil {
		return err
	}
	return layHook(program, s.hook)
}

// environ returns the environment of a command whose Nix uses the cache.
func (s *session) environ() []string {
	env := append(withoutVariables(os.Environ(), "NIX_CONFIG", "LARDER_QUEUE"), "NIX_CONFIG="+s.wiring.NixConfig(os.Getenv("NIX_CONFIG"), s.hook))
	if s.dir != "" {
		env = append(env, insideVariable+"="+s.dir)
	}
	return env
}

// remove removes the session: all of it, or all but a hook that does nothing, where
// somebody may still have it in the environment. Nix fails builds whose hook is gone.
func (s *session) remove() {
	if err := s.tryRemove(s.hook != "" && (s.started || inUse(s.dir))); err != nil {
		s.log.Warn("run left something behind", "dir", s.dir, "err", err)
	}
}

// forgetHook is removeHook for those who know of the next hook anyway.
func forgetHook(queueFile string) error {
	_, err := removeHook(nixstore.DefaultDirs(), queueFile)
	return err
}

func (s *session) tryRemove(keepHook bool) error {
	var errs []error
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
	}
	if s.queue != nil {
		file := s.queue.File()
		if keepHook {
			errs = append(errs, queue.End(file))
		} else {
			errs = append(errs, forgetHook(file))
		}
		errs = append(errs, rootsOf(s.queue).RemoveAll())
		if s.lock != nil {
			errs = append(errs, s.queue.Remove(), s.lock.Unlock())
		} else {
			errs = append(errs, s.queue.Close())
		}
	}
	switch {
	case s.dir == "":
	case keepHook:
		for _, name := range []string{sessionFile, "journal", "log"} {
			if err := os.Remove(s.file(name)); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	default:
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// insideVariable names, in the environment of a command, the session that it is part
// of.
const insideVariable = "LARDER_SESSION"

// introduce says how the command's Nix is told, where that is not as one would expect.
func (s *session) introduce() {
	for _, note := range s.wiring.Notes {
		fmt.Fprintf(s.cli.App.ErrWriter, "larder: %s\n", note)
	}
}

// sessionLog returns the log of a session that a person waits for, who hears of it in
// the report.
func sessionLog(c *cli.Context) *slog.Logger {
	if c.Bool("verbose") {
		return slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	}
	return slog.New(slog.DiscardHandler)
}
