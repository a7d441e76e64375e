package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/bincache"
)

// samples is how many entries are looked at.
const samples = 200

// checkCache looks whether the cache is one, and whether those who need it can read it.
func checkCache(ctx context.Context, s *Setup) []Finding {
	if s.Cache == "" {
		return nil
	}
	cache, err := bincache.OpenReadOnly(s.Cache, s.Dirs.Store)
	if err != nil {
		return s.noCache(err)
	}
	defer cache.Close()
	var findings []Finding
	if !cache.HasInfo() {
		findings = append(findings, s.infoless(cache.StoreDir()))
	}
	if lost, unknown := cache.Missing(); len(lost) > 0 {
		findings = append(findings, s.missing(append(lost, unknown...)))
	} else if len(unknown) > 0 {
		findings = append(findings, s.unknown(unknown))
	}
	sample := sampleOf(ctx, cache)
	closed := s.closed(sample)
	findings = append(findings, closed...)
	if len(closed) == 0 {
		findings = append(findings, s.damaged(sample)...)
	}
	if len(findings) == 0 {
		return fine("%s is a cache; looked at %s", s.Cache, entries(sample.size()))
	}
	return findings
}

// A sample is some of a cache's entries, and what was said of those that are none.
type sample struct {
	entries []*bincache.NarInfo
	errs    []error
}

func (s sample) size() int { return len(s.entries) + len(s.errs) }

func sampleOf(ctx context.Context, cache *bincache.Cache) (s sample) {
	for n, err := range cache.Entries(ctx) {
		switch {
		case s.size() == samples:
			return s
		case err != nil:
			s.errs = append(s.errs, err)
		default:
			s.entries = append(s.entries, n)
		}
	}
	return s
}

func entries(n int) string {
	if n == samples {
		return fmt.Sprintf("%d of its entries", n)
	}
	return "its " + count(n, "entry")
}

// noCache says why a cache can't be opened.
func (s *Setup) noCache(err error) []Finding {
	f := Finding{Severity: Problem, What: err.Error(), Why: "nothing can be read from it, nor written"}
	switch {
	case errors.Is(err, bincache.ErrStoreDir):
		f.Advice = "use a cache of its own for each store directory"
	case errors.Is(err, fs.ErrPermission):
		f.What = fmt.Sprintf("the cache %s can't be looked at: %v", s.Cache, err)
		if closed := s.closedAbove(); closed != "" {
			f.Run = []string{asRoot("chmod a+x " + quote(closed))}
		} else {
			f.Run = []string{asRoot("chmod -R u=rwX,go=rX " + quote(s.Cache))}
		}
	case errors.Is(err, fs.ErrNotExist) && s.empty():
		if s.Queue == nil {
			return fine("larder run makes the cache %s", s.Cache)
		}
		f.What = fmt.Sprintf("the cache %s is not there", s.Cache)
		f.Why = "jobs wait until it is: it is not made anew by itself, since its disk may just not be mounted"
		f.Run = []string{s.init("--cache", quote(s.Cache))}
		f.Advice = "unless its disk is not mounted"
	case errors.Is(err, fs.ErrNotExist), s.isFile():
		f.What = fmt.Sprintf("%s is something else than a cache", s.Cache)
		f.Advice = "name an empty directory, one that is not there yet, or a cache, with --cache DIR"
	default:
		f.Run = []string{"ls -la " + quote(s.Cache)}
	}
	return one(f)
}

// empty tells whether a cache can be made: nothing is there, or less than a cache.
func (s *Setup) empty() bool {
	cache, err := os.ReadDir(s.Cache)
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(cache) == 0
}

// isFile tells whether there is a file where the cache should be.
func (s *Setup) isFile() bool {
	info, err := os.Stat(s.Cache)
	return err == nil && !info.IsDir()
}

// infoless says that the file is gone by which a directory is known for a cache.
func (s *Setup) infoless(storeDir string) Finding {
	f := Finding{
		Severity: Warning,
		What:     "the cache has no nix-cache-info",
		Why:      "whoever may not write to the cache can't read it either: Nix makes that file when it opens it",
		Run:      []string{fmt.Sprintf("echo %s > %s", quote("StoreDir: "+storeDir), quote(filepath.Join(s.Cache, "nix-cache-info")))},
	}
	if unix.Access(s.Cache, unix.W_OK) != nil {
		f.Severity = Problem
	}
	return f
}

// missing says that directories are gone: archives and CI providers drop empty ones. What
// is in the place of one is in the way.
func (s *Setup) missing(dirs []string) Finding {
	f := Finding{
		Severity: Warning,
		What:     fmt.Sprintf("the cache has lost its %s", strings.Join(dirs, ", ")),
		Why:      "whoever may not write to the cache can't read it either: Nix makes them when it opens it",
	}
	if unix.Access(s.Cache, unix.W_OK) != nil {
		f.Severity = Problem
	}
	words := []string{"mkdir -p"}
	var away []string
	for _, dir := range dirs {
		name := filepath.Join(s.Cache, dir)
		words = append(words, quote(name))
		if exists(name) {
			f.Severity = Problem
			f.What += fmt.Sprintf("; %s is a file, or a link that leads out of it", dir)
			away = append(away, fmt.Sprintf("mv %s %s", quote(name), quote(name+".away")))
		}
	}
	f.Run = append(away, strings.Join(words, " "))
	return f
}

// unknown says that there is a directory less than some version of Nix makes, as in a cache
// that another version has written.
func (s *Setup) unknown(dirs []string) Finding {
	f := s.missing(dirs)
	f.What = fmt.Sprintf("the cache has no %s, which only some versions of Nix make", strings.Join(dirs, ", "))
	f.Why = "whoever may not write to the cache can't read it with one of these: they make it when they open it"
	// Since 2.35 it is the one of these that others do not know.
	if newer := slices.Contains(dirs, "build-trace-v2"); !s.Version.Known() || s.Version.Before(2, 35) == newer {
		f.Severity = Warning // at most: our own Nix does without
	}
	return f
}

// closed looks whether what is in the cache is less open than the cache itself, or can't
// be read by us.
func (s *Setup) closed(sample sample) []Finding {
	info, err := os.Stat(filepath.Join(s.Cache, "nix-cache-info"))
	if err != nil {
		return nil // it has just been there
	}
	want := info.Mode().Perm() & 0o444
	var closed []string
	look := func(name string) {
		// A directory that may be entered, too.
		info, err := os.Stat(filepath.Join(s.Cache, name))
		if err != nil {
			return // told of elsewhere
		}
		need := want
		if info.IsDir() {
			need |= want >> 2
		}
		if info.Mode().Perm()&need != need {
			closed = append(closed, name)
		}
	}
	look(".")
	look("nar")
	for _, n := range sample.entries {
		hash, _, _ := strings.Cut(filepath.Base(n.StorePath), "-")
		look(hash + ".narinfo")
		look(n.URL)
	}
	for _, err := range sample.errs {
		if errors.Is(err, fs.ErrPermission) {
			closed = append(closed, err.Error())
		}
	}
	if len(closed) > 0 {
		letters := map[fs.FileMode]string{0o444: "ugo", 0o440: "ug"}[want]
		if letters == "" {
			letters = "u"
		}
		return one(Finding{
			Severity: Problem,
			What:     fmt.Sprintf("%s in the cache may be read by fewer than nix-cache-info, %s for example", count(len(closed), "file"), closed[0]),
			Why:      "whoever may not read one can't use the cache: Nix takes it for damaged, or stops",
			Run:      []string{asRoot(fmt.Sprintf("chmod -R %s+rX %s", letters, quote(s.Cache)))},
		})
	}
	if s.daemon() {
		return s.closedToRoot(remoteName(s.Cache))
	}
	return nil
}

// closedToRoot looks whether nix-daemon can't reach a cache on another machine's disk.
func (s *Setup) closedToRoot(remote string) []Finding {
	above := s.closedAbove()
	if remote == "" || above == "" {
		return nil
	}
	return one(Finding{
		Severity: Warning,
		What:     fmt.Sprintf("the cache is on %s, and not everybody may enter %s above it", remote, above),
		Why:      "nix-daemon reads from it as root, whom such a server often takes for nobody",
		Run:      []string{"chmod a+x " + quote(above)},
	})
}

// closedAbove returns a directory above the cache that others may not enter, or "".
func (s *Setup) closedAbove() string {
	for dir := filepath.Dir(s.Cache); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o001 == 0 {
			return dir
		}
	}
	return ""
}

// damaged looks for entries that clients can't use.
func (s *Setup) damaged(sample sample) []Finding {
	if len(sample.errs) == 0 {
		return nil
	}
	first := sample.errs[0].Error()
	if strings.ContainsFunc(first, unicode.IsControl) { // from a narinfo, which can do anything to a terminal
		first = strconv.Quote(first)
	}
	f := Finding{
		Severity: Warning,
		What:     first,
		Why:      "what such an entry is of is built again by those who need it",
		Advice:   s.verify() + " lists all that is wrong; with --repair it writes anew what the store still has, and withdraws the rest",
	}
	if n := len(sample.errs); n > 1 {
		f.What = fmt.Sprintf("%s of those looked at can't be used; %s", count(n, "entry"), first)
	}
	// larder run sets it.
	if s.Queue != nil && s.Nix != nil && s.Nix.Knows("fallback") && !s.Nix.Bool("fallback") {
		f.Severity = Problem
		f.Why = "builds fail that need them (fallback = false)"
		f = s.onNixConf(f, "fallback = true")
	}
	return one(f)
}

// verify returns the command that looks at all of the cache.
func (s *Setup) verify() string {
	switch {
	case s.Queue == nil || s.Queue.Settings.Cache == "":
		return "larder verify --cache " + quote(s.Cache)
	case s.Queue.Default:
		return "larder verify"
	}
	return "larder verify --queue " + quote(s.Queue.File)
}
