package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

// sessionFile is what stop has to know of a session. Only those of start have one.
const sessionFile = "session.json"

// A sessionState is the content of that file.
type sessionState struct {
	Version   int           `json:"version"`
	Begin     time.Time     `json:"begin"`
	NixConfig string        `json:"nix_config"`
	Wiring    runner.Wiring `json:"wiring"`
	Hook      string        `json:"hook"`
	Signers   []string      `json:"signers"`
	Worker    int           `json:"worker"` // process ID; 0 until there is one
}

const sessionVersion = 1

// sessionsDir returns where the user's sessions are.
func sessionsDir() (string, error) {
	file, err := queue.DefaultFile(os.Geteuid(), os.Getenv)
	if err == nil {
		dir := filepath.Join(filepath.Dir(file), "runs")
		if runner.CanSet(dir) && os.MkdirAll(dir, 0o755) == nil && canMake(filepath.Join(dir, "x")) == nil && queue.CheckDisk(dir) == nil {
			return dir, nil
		}
	}
	// Without a home, with one on NFS, or with one that nix.conf can't name, there is
	// still a place for what need not outlive the machine. It has to be ours: everybody
	// may make one of that name.
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("larder-%d", os.Geteuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a place for the run: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("make a place for the run: %w", err)
	}
	if sys := info.Sys().(*syscall.Stat_t); !info.IsDir() || int(sys.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("make a place for the run: %s is not a directory that only you may write", dir)
	}
	return dir, nil
}

// sessionDirs returns the directories of the user's sessions, and what ended ones left,
// oldest first: their names begin with the time.
func sessionDirs(parent string) ([]string, error) {
	entries, err := os.ReadDir(parent)
	dirs := make([]string, len(entries))
	for i, e := range entries {
		dirs[i] = filepath.Join(parent, e.Name())
	}
	return dirs, err
}

// openSession opens the session in a directory. The error wraps [fs.ErrNotExist] if
// there is none, or none any more.
func openSession(c *cli.Context, dir string) (*session, *sessionState, error) {
	s := &session{cli: c, dir: dir, started: true, log: sessionLog(c)}
	state, err := s.load()
	if err != nil {
		return nil, nil, fmt.Errorf("open session %s: %w", dir, err)
	}
	s.begin, s.wiring, s.hook, s.signers = state.Begin, state.Wiring, state.Hook, state.Signers
	if s.queue, err = queue.Open(c.Context, s.file("queue.db")); err != nil {
		return nil, nil, err
	}
	if s.settings, err = s.queue.Settings(c.Context); err != nil {
		s.queue.Close()
		return nil, nil, err
	}
	return s, state, nil
}

// load reads the session's file.
func (s *session) load() (*sessionState, error) {
	text, err := os.ReadFile(s.file(sessionFile))
	if err != nil {
		return nil, err
	}
	var state sessionState
	if err := json.Unmarshal(text, &state); err != nil {
		return nil, err
	}
	if state.Version != sessionVersion {
		return nil, fmt.Errorf("it is of version %d, want %d: another larder has started it", state.Version, sessionVersion)
	}
	return &state, nil
}

// save writes the session's file.
func (s *session) save(state sessionState) error {
	text, err := json.Marshal(state)
	if err == nil {
		err = replaceFile(s.file(sessionFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save session: %w", err)
	}
	return nil
}

// How old a session without a worker must be to be taken for dead. Between start and
// stop there may be none for long. What was for another cache waits for a run of that one,
// but not for ever. And where the hook was left behind, because somebody may still call
// it, it has to be forgotten by everybody.
const (
	deadRun     = time.Minute
	deadSession = 24 * time.Hour
	deadQueue   = vanishedAfter
	deadHook    = 30 * 24 * time.Hour
)

// takeOver removes the sessions of those who were killed. What they had to copy is
// copied by this one, if it was for the same cache.
func (s *session) takeOver(parent string) {
	dirs, err := sessionDirs(parent)
	if err != nil {
		s.log.Warn("earlier runs could not be looked for", "err", err)
	}
	for _, dir := range dirs {
		if dir == s.dir {
			continue
		}
		if err := s.takeOverOne(dir); err != nil {
			s.log.Warn("an earlier run could not be taken over", "dir", dir, "err", err)
		}
	}
}

func (s *session) takeOverOne(dir string) error {
	dead := &session{cli: s.cli, dir: dir, log: s.log}
	file := dead.file("queue.db")
	age := deadRun
	if _, err := os.Stat(dead.file(sessionFile)); err == nil {
		age = deadSession
	}
	info, err := os.Stat(file + "-lock") // its time is the worker's last sign of life
	if errors.Is(err, fs.ErrNotExist) {
		if queue.Ended(file) {
			age = deadHook
		}
		info, err = os.Stat(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has just ended
	}
	if err != nil || time.Since(info.ModTime()) < age || inUse(dir) {
		return err
	}
	ctx := s.cli.Context
	dead.queue, err = queue.Open(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(forgetHook(file), os.RemoveAll(dir))
	}
	if err != nil {
		return err
	}
	if dead.lock, err = dead.queue.Lock(); err != nil {
		return cmp.Or(dead.queue.Close(), ignore(err, queue.ErrLocked))
	}
	settings, err := dead.queue.Settings(ctx)
	switch {
	case err != nil:
	case settings.Cache == s.settings.Cache:
		err = s.adopt(dead.queue, settings)
	case settings.Cache != "" && time.Since(info.ModTime()) < deadQueue:
		// To be copied by the next run of that cache. Nobody has worked here: the time of
		// the last sign of life stays.
		err = cmp.Or(os.Chtimes(file+"-lock", info.ModTime(), info.ModTime()), errNotYet)
	}
	if err != nil {
		return errors.Join(ignore(err, errNotYet), dead.lock.Unlock(), dead.queue.Close())
	}
	return dead.tryRemove(false)
}

// errNotYet says that a dead session is to stay for a while.
var errNotYet = errors.New("not to be removed yet")

func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

// adopt makes the jobs of another queue ours, and what has come into the store for it
// since somebody looked.
func (s *session) adopt(from *queue.Queue, settings queue.Settings) error {
	ctx := s.cli.Context
	tell := func(e runner.Event) {
		s.journal.Add(e)
		s.journal.Add(runner.Event{Kind: runner.Earlier, Path: e.Path})
	}
	if _, err := look(ctx, s.cli, from, settings, tell); err != nil { // sessions have queues without a bound
		s.log.Warn("what an earlier run has not looked at is not kept", "err", err)
	}
	byDrv := make(map[string][]string)
	var all []string
	for row, err := range from.Rows(ctx) {
		if err != nil {
			return err
		}
		byDrv[row.Drv] = append(byDrv[row.Drv], row.Path)
		s.journal.Add(runner.Event{Kind: runner.Earlier, Path: row.Path})
		all = append(all, row.Path)
	}
	if err := rootsOf(s.queue).Protect(ctx, all...); err != nil {
		s.log.Warn("paths of an earlier run are not kept from the garbage collector", "paths", len(all), "err", err)
	}
	for drv, paths := range byDrv {
		if err := s.queue.Add(ctx, drv, paths...); err != nil {
			return err
		}
	}
	return nil
}

// inUse tells whether some process of the user's has a session in its environment, as far
// as that can be seen: its Nix still has to find the hook, be it as the next one of
// another session's, or because a run in the run has told of itself instead.
func inUse(dir string) bool {
	for _, pid := range processes() {
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		text, err := os.ReadFile("/proc/" + pid + "/environ") // (ignored) another user's, or ended
		if err == nil && bytes.Contains(text, []byte(dir)) {
			return true
		}
	}
	return false
}

// processes returns the numbers of this machine's processes, where they can be seen. Not
// by filepath.Glob, which would read the directory of each.
func processes() []string {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // (ignored) those that can be read
	return slices.DeleteFunc(names, func(name string) bool { return name[0] < '0' || name[0] > '9' })
}
