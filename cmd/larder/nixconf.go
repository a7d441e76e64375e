package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A hookSetting is a place where Nix is told of a post-build-hook.
type hookSetting struct {
	where string // a file, or the environment
	hook  string // "" if it says that there is none
}

// nixConfFiles returns the files that Nix reads its settings from, in its order
// (libstore's globals.cc, loadConfFile), whether they exist or not.
func nixConfFiles(getenv func(string) string) []string {
	dir := getenv("NIX_CONF_DIR")
	if dir == "" {
		dir = "/etc/nix"
	}
	files := []string{filepath.Join(dir, "nix.conf")}
	if user := getenv("NIX_USER_CONF_FILES"); user != "" {
		return append(files, backwards(filepath.SplitList(user))...)
	}
	home := getenv("XDG_CONFIG_HOME")
	if home == "" {
		home = filepath.Join(getenv("HOME"), ".config")
	}
	for _, dir := range backwards(append([]string{home}, filepath.SplitList(getenv("XDG_CONFIG_DIRS"))...)) {
		files = append(files, filepath.Join(dir, "nix", "nix.conf"))
	}
	return files
}

// backwards turns a list around: the first of the user's files counts most, and so
// is read last.
func backwards(list []string) []string {
	slices.Reverse(list)
	return list
}

// hookSettings returns where Nix is told of a post-build-hook, and the files that
// were read for it. The last one is the one that counts for who asks.
func hookSettings(getenv func(string) string) (found []hookSetting, read []string, err error) {
	scan, err := scanNixConf(getenv)
	return scan.hooks, scan.read, err
}

// useCaseHack returns the setting use-case-hack, or nil if nobody sets it.
func useCaseHack(getenv func(string) string) (*bool, error) {
	scan, err := scanNixConf(getenv)
	return scan.caseHack, err
}

// A confScan looks through nix.conf and what it includes.
type confScan struct {
	seen     map[string]bool
	read     []string
	hooks    []hookSetting
	caseHack *bool
}

func scanNixConf(getenv func(string) string) (confScan, error) {
	scan := confScan{seen: make(map[string]bool)}
	for _, file := range nixConfFiles(getenv) {
		if err := scan.file(file); err != nil {
			return confScan{}, err
		}
	}
	if err := scan.text("the environment's NIX_CONFIG", "/", getenv("NIX_CONFIG")); err != nil {
		return confScan{}, err
	}
	return scan, nil
}

func (s *confScan) file(name string) error {
	if s.seen[name] {
		return nil
	}
	s.seen[name] = true
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Nix's settings: %w", err)
	}
	s.read = append(s.read, name)
	return s.text(name, filepath.Dir(name), string(text))
}

func (s *confScan) text(where, dir, text string) error {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && (words[0] == "include" || words[0] == "!include"):
			name := words[1]
			if !filepath.IsAbs(name) {
				name = filepath.Join(dir, name)
			}
			if err := s.file(name); err != nil {
				return err
			}
		case len(words) >= 2 && words[0] == "post-build-hook" && words[1] == "=":
			s.hooks = append(s.hooks, hookSetting{where, strings.Join(words[2:], " ")}) // as Nix does
		case len(words) == 3 && words[0] == "use-case-hack" && words[1] == "=":
			s.caseHack = new(slices.Contains([]string{"true", "yes", "1"}, words[2]))
		}
	}
	return nil
}

// staleDaemon returns the process ID of a nix-daemon that may still have the
// settings that one of the files had before it was last changed, or 0. It started
// before that, or is all that is left of one that did: restarting nix-daemon does
// not end those that serve its clients. Without a /proc nobody can tell: the error
// wraps [errors.ErrUnsupported].
func staleDaemon(files []string) (int, error) {
	boot, err := bootTime()
	if err != nil {
		return 0, fmt.Errorf("read boot time: %w", err)
	}
	var changed time.Time
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return 0, fmt.Errorf("read Nix's settings: %w", err)
		}
		if info.ModTime().After(changed) {
			changed = info.ModTime()
		}
	}
	daemons := make(map[int]process)
	for _, pid := range processes() {
		text, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue // (ignored) it has ended meanwhile
		}
		p, err := parseStat(string(text))
		if err != nil {
			return 0, fmt.Errorf("read /proc/%s/stat: %w", pid, err)
		}
		if p.name == "nix-daemon" {
			daemons[p.pid] = p
		}
	}
	for pid, p := range daemons {
		_, child := daemons[p.parent]
		if boot.Add(p.sinceBoot).Before(changed) || !child && servesClient(pid) {
			return pid, nil
		}
	}
	return 0, nil
}

// servesClient tells whether a nix-daemon is one that another one has forked for a
// client: Nix writes the client's process ID over its first argument (daemon.cc).
func servesClient(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(text), "\x00")
	return err == nil && len(args) > 1 && args[1] != "" && strings.Trim(args[1], "0123456789") == ""
}

// A process is what /proc/<pid>/stat says of one.
type process struct {
	pid       int
	name      string
	parent    int
	sinceBoot time.Duration // when it started
}

// parseStat reads /proc/<pid>/stat (proc(5)): pid (name) state …, with the start
// as the 22nd field, in hundredths of a second.
func parseStat(text string) (p process, err error) {
	head, rest, ok := strings.Cut(text, " (")
	end := strings.LastIndex(rest, ") ") // a name may have anything in it
	if !ok || end < 0 {
		return p, errors.New("not the form that is expected")
	}
	p.name = rest[:end]
	fields := strings.Fields(rest[end+2:])
	if len(fields) < 20 {
		return p, errors.New("not as many fields as are expected")
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return p, err
	}
	// The end of that hundredth, or it would seem older than it is.
	p.sinceBoot = time.Duration(ticks+1) * (time.Second / 100)
	if p.parent, err = strconv.Atoi(fields[1]); err != nil {
		return p, err
	}
	p.pid, err = strconv.Atoi(head)
	return p, err
}
