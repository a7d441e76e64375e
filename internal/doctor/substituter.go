package doctor

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixclient"
)

// checkSubstituter looks whether Nix reads from the cache.
func checkSubstituter(_ context.Context, s *Setup) []Finding {
	if s.Cache == "" || s.Nix == nil || s.Nix.Access == nixclient.Elsewhere {
		return nil
	}
	findings := s.bareDirectories()
	if sees, known := s.daemonSees(s.Cache); !sees && exists(s.Cache) {
		f := Finding{
			Severity: Problem,
			What:     fmt.Sprintf("nix-daemon, which is in another container, does not see the cache %s", s.Cache),
			Why:      "it substitutes nothing from there, or from another directory of that name",
			Advice:   "mount it in the daemon's container, too, at the same place",
		}
		if !known {
			f.Severity = Warning
			f.What = fmt.Sprintf("nix-daemon may be in another container, and not see the cache %s", s.Cache)
		}
		findings = append(findings, f)
	}
	return append(findings, s.named()...)
}

// bareDirectories looks for the cache's directory among the substituters without
// file://, which is a whole store to Nix.
func (s *Setup) bareDirectories() []Finding {
	for _, entry := range s.Nix.Strings("substituters") {
		plain, _, _ := strings.Cut(entry, "?")
		if strings.Contains(plain, "://") || !strings.Contains(plain, "/") || !same(plain, s.Cache) {
			continue
		}
		f := Finding{
			Severity: Problem,
			What:     fmt.Sprintf("the substituter %s is a directory without file://", entry),
			Why:      fmt.Sprintf("Nix takes that for a whole store, finds nothing, and makes %s", filepath.Join(plain, "nix")),
			Advice:   "remove that one",
		}
		if exists(filepath.Join(s.Cache, "nix", "store")) {
			f.Advice += fmt.Sprintf(", and then %s, where there is no cache", filepath.Join(s.Cache, "nix"))
		}
		return one(s.onNixConf(f, "extra-substituters = "+s.cacheURL()))
	}
	return nil
}

// named looks for the cache among the substituters.
func (s *Setup) named() []Finding {
	var theirs []string // what a daemon takes, whoever asks
	picky := s.daemon() && !s.Nix.Trusted && s.System != nil
	if picky {
		theirs = slices.Concat(s.System.Strings("substituters"), s.System.Strings("trusted-substituters"))
	}
	used := s.Nix.Strings("substituters")
	allowed := slices.Concat(used, s.Nix.Strings("trusted-substituters"))
	plain, trusting := bincache.URL(s.Cache), bincache.SubstituterURL(s.Cache)
	for _, name := range []string{trusting, plain} {
		if !slices.Contains(used, name) {
			continue
		}
		if picky && !slices.Contains(theirs, name) {
			return one(s.untrustedSetting("extra-substituters", name))
		}
		return fine("Nix reads from %s", name)
	}
	if near := s.nearMiss(allowed); near != "" {
		return one(s.onNixConf(Finding{
			Severity: Warning,
			What:     fmt.Sprintf("the substituter %s is the cache by another name than %s", near, s.cacheURL()),
			Why:      "names are compared letter by letter when a user whom nix-daemon does not trust asks for one, as larder run does",
			Advice:   "replace the one by the other",
		}, "extra-substituters = "+s.cacheURL()))
	}
	return s.unnamed(allowed)
}

// unnamed says what it means that the cache is not among the substituters.
func (s *Setup) unnamed(allowed []string) []Finding {
	may := s.Nix.Trusted || slices.Contains(allowed, s.cacheURL())
	switch {
	case s.Queue == nil && may:
		return fine("larder run tells Nix of the cache")
	case s.Queue == nil:
		return one(s.onNixConf(Finding{
			Severity: Problem,
			What:     "nix-daemon does not let you use the cache",
			Why:      "it does not trust you, and the cache is not among those that everybody may use: larder run can only write to it",
		}, "extra-trusted-substituters = "+s.cacheURL()))
	case slices.Contains(allowed, s.cacheURL()):
		return fine("the cache is among trusted-substituters: whoever wants it names it, as larder run does")
	}
	return one(s.onNixConf(Finding{
		Severity: Warning,
		What:     "Nix does not read from the cache",
		Why:      "it is not among the substituters; that is right if only other machines are to",
	}, "extra-substituters = "+s.cacheURL()))
}

// nearMiss returns what names the cache, but not as we do, or "".
func (s *Setup) nearMiss(names []string) string {
	for _, name := range names {
		if name == s.cacheURL() {
			return ""
		}
	}
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, "file://")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, "?")
		dir, err := url.PathUnescape(rest)
		if err == nil && (same(dir, s.Cache) || same(rest, s.Cache)) {
			return name
		}
	}
	return ""
}

// same tells whether two names are of one directory.
func same(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}
