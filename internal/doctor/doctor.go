// Package doctor finds out what is wrong with a set-up, from both ends: Nix's, which
// builds and substitutes, and larder's, with its queue and its cache.
//
// Every check looks at the real thing, changes nothing but a few files of its own, which
// it removes, and says what to type. What it says is meant to be done literally: after
// that the finding is gone.
//
//	nix          is there a Nix, is it this machine's, what does its version lack
//	trust        may the user change the daemon's settings
//	hook         is there one, can it be executed, does it feed this queue
//	queue        can it be used, and does somebody empty it
//	cache        is it one, and can those who need it read it
//	substituter  does Nix know the cache, by the very name that larder uses
//	key          does Nix believe the entries' signatures
//	disk         can the file system do what cache and queue need, and is there space
//	source       does the cache lie in a source tree, which Nix would copy with it
//
// A set-up may have no queue (larder run makes one of its own) or no cache: then the
// checks are those that have something to look at.
package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixclient"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

// A Severity says how bad a finding is.
type Severity string

const (
	// Problem is something that does not work.
	Problem Severity = "problem"
	// Warning is something that works otherwise than one would expect, or may not for
	// long.
	Warning Severity = "warning"
	// Fine is something that is as it should be.
	Fine Severity = "fine"
)

// A Finding is what a check says.
type Finding struct {
	Severity Severity `json:"severity"`
	Check    string   `json:"check"`
	What     string   `json:"what"`
	Why      string   `json:"why,omitempty"` // why that matters

	// What to do about it. First NixConf are lines for the system's nix.conf; then Run
	// are commands for a shell; Advice is what can't be typed.
	NixConf []string `json:"nix_conf,omitempty"`
	Run     []string `json:"run,omitempty"`
	Advice  string   `json:"advice,omitempty"`
}

// A Setup is what is examined.
type Setup struct {
	Dirs nixstore.Dirs

	// Nix is how Nix serves the user, and System what it would say without the user's
	// own settings. Both are nil if it can't be asked, and NixErr says why.
	Nix, System *nixclient.Client
	NixErr      error

	// Version is the version of the Nix in the PATH.
	Version nixclient.Version

	// StaleDaemon is a nix-daemon that has not read the settings since they changed, or 0.
	StaleDaemon int

	// Cache is the cache's directory, whether there is one or not, or "".
	Cache string

	// PublicKeys are the cache's, whose signatures count, in Nix's form; KeyErr says why
	// not all of them are known.
	PublicKeys []string
	KeyErr     error

	// Queue is nil for larder run, which has one of its own.
	Queue *Queue

	// Chain are the hooks that are called one after the other, from the one in Nix's
	// settings. HookQueue is the queue that the chain feeds: this one if it does, and ""
	// if none of its hooks was laid down by larder init.
	Chain     []string
	HookQueue string

	// HooksEnded says that all of the chain are of sessions of larder run or start that have
	// ended: hooks that do nothing, and stay for shells that have them in their environment.
	HooksEnded bool

	// Hooks are the hooks that were laid down for the queue, and can be executed.
	Hooks []string
}

// A Queue is what can be found out of a queue.
type Queue struct {
	File string

	// Default says that it is the one that larder takes if none is named.
	Default bool

	// Err says why it can't be opened. Then what is below is not known.
	Err error

	Settings queue.Settings
	Counts   queue.Counts
	Worker   bool // one is alive
}

// Examine makes all checks, and returns what they found, the worst first.
func Examine(ctx context.Context, s *Setup) []Finding {
	var all []Finding
	for _, check := range []struct {
		name string
		do   func(context.Context, *Setup) []Finding
	}{
		{"set-up", checkAny},
		{"nix", checkNix},
		{"trust", checkTrust},
		{"hook", checkHook},
		{"queue", checkQueue},
		{"cache", checkCache},
		{"substituter", checkSubstituter},
		{"key", checkKeys},
		{"disk", checkDisks},
		{"source", checkSource},
	} {
		for _, f := range check.do(ctx, s) {
			f.Check = check.name
			all = append(all, f)
		}
	}
	order := []Severity{Problem, Warning, Fine}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return slices.Index(order, a.Severity) - slices.Index(order, b.Severity)
	})
	return all
}

// checkAny looks whether there is anything to look at.
func checkAny(_ context.Context, s *Setup) []Finding {
	if s.Cache != "" || s.Queue != nil {
		return nil
	}
	return one(Finding{
		Severity: Problem,
		What:     "there is neither a queue nor a cache here",
		Why:      "nothing is kept of what Nix builds, unless larder run does it",
		Advice:   "larder init --cache DIR makes both; larder doctor --cache DIR looks at what larder run uses",
	})
}

// fine returns a finding that all is well.
func fine(format string, args ...any) []Finding {
	return one(Finding{Severity: Fine, What: fmt.Sprintf(format, args...)})
}

func one(f Finding) []Finding { return []Finding{f} }

// daemon tells whether builds of the user are a daemon's.
func (s *Setup) daemon() bool { return s.Nix != nil && s.Nix.Access == nixclient.Daemon }

// builder is the version of the Nix that builds and substitutes.
func (s *Setup) builder() nixclient.Version {
	if s.daemon() {
		if v := nixclient.ParseVersion(s.Nix.DaemonVersion); v.Known() {
			return v
		}
	}
	return s.Version
}

// onNixConf completes a finding that new lines in nix.conf are the end of.
func (s *Setup) onNixConf(f Finding, lines ...string) Finding {
	f.NixConf = lines
	return s.onRestart(f)
}

// onRestart completes a finding that takes a restart of the daemon.
func (s *Setup) onRestart(f Finding) Finding {
	if !s.daemon() && s.StaleDaemon == 0 {
		return f
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		f.Run = append(f.Run, asRoot("systemctl restart nix-daemon"))
		return f
	}
	if f.Advice != "" {
		f.Advice += "; "
	}
	f.Advice += "end the nix-daemon that runs, and start it again"
	return f
}

// asRoot returns a command as the user has to type it.
func asRoot(command string) string {
	if os.Geteuid() == 0 {
		return command
	}
	return "sudo " + command
}

// init returns the larder init that lays the queue's hook down again.
func (s *Setup) init(flags ...string) string {
	words := append([]string{"larder", "init"}, flags...)
	if s.Queue != nil && !s.Queue.Default {
		words = append(words, "--queue", quote(s.Queue.File))
	}
	switch {
	case s.Queue != nil && s.Queue.Settings.Cache != "" || slices.Contains(flags, "--cache"):
	case s.Cache != "":
		words = append(words, "--cache", quote(s.Cache))
	default:
		words = append(words, "--cache", "DIR")
	}
	return strings.Join(words, " ")
}

// quote returns a word as a shell takes it.
func quote(word string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-+:@%=", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// count returns a number with its noun.
func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "y"):
		return strconv.Itoa(n) + " " + strings.TrimSuffix(noun, "y") + "ies"
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// cacheURL is the one form of the cache's URL, as it stands in Nix's substituters.
func (s *Setup) cacheURL() string {
	if len(s.PublicKeys) > 0 {
		return bincache.URL(s.Cache)
	}
	return bincache.SubstituterURL(s.Cache)
}

// existing returns the nearest directory at or above a place that exists.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
