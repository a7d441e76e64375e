package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixclient"
	"github.com/nix-larder/larder/internal/nixstore"
)

// checkNix looks whether there is a Nix, and whether it is one that we can work with.
func checkNix(ctx context.Context, s *Setup) []Finding {
	findings := checkDatabase(ctx, s)
	if s.Nix == nil {
		return append(findings, s.noNix())
	}
	if s.Nix.Access == nixclient.Elsewhere {
		f := Finding{
			Severity: Problem,
			What:     fmt.Sprintf("Nix uses the store %q, which is not this machine's", s.Nix.Store),
			Why:      "nothing that is built there can be kept here",
			Advice:   "remove the line store = " + s.Nix.Store + " from nix.conf",
		}
		if remote := os.Getenv("NIX_REMOTE"); remote == s.Nix.Store && remote != "" {
			f.Run, f.Advice = []string{"unset NIX_REMOTE"}, ""
		}
		return append(findings, f)
	}
	how := map[bool]string{true: "through its daemon", false: "without a daemon"}[s.daemon()]
	findings = append(findings, fine("Nix %s serves you %s", s.builder(), how)...)
	findings = append(findings, s.skew()...)
	return append(findings, s.quirks()...)
}

func (s *Setup) noNix() Finding {
	f := Finding{Severity: Problem, What: fmt.Sprintf("Nix can't be asked: %v", s.NixErr), Why: "what Nix is told of hook, cache and keys is not known"}
	if !errors.Is(s.NixErr, nixclient.ErrNoNix) {
		f.Run = []string{"nix --extra-experimental-features nix-command show-config"}
		return f
	}
	// Many a sudo has a PATH of its own.
	bin := filepath.Join(s.Dirs.State, "profiles", "default", "bin")
	if _, err := os.Stat(filepath.Join(bin, "nix")); err == nil {
		f.Run = []string{"export PATH=$PATH:" + quote(bin)}
		return f
	}
	f.Advice = "install Nix, or name its directory in PATH"
	return f
}

// checkDatabase looks whether what enters the store can be seen.
func checkDatabase(ctx context.Context, s *Setup) []Finding {
	f := Finding{Severity: Problem, Why: "what enters the store can't be seen, and what is queued can't be copied"}
	store, err := nixstore.Open(s.Dirs, 10*time.Second)
	if err == nil {
		defer store.Close()
		_, err = store.Info(ctx, filepath.Join(s.Dirs.Store, strings.Repeat("0", 32)+"-x"))
	}
	switch {
	case errors.Is(err, nixstore.ErrNotValid):
		if s.Nix != nil && s.Nix.Knows("use-sqlite-wal") && !s.Nix.Bool("use-sqlite-wal") {
			return one(s.onNixConf(Finding{
				Severity: Warning,
				What:     "Nix's database has no log (use-sqlite-wal = false)",
				Why:      "it is read as a snapshot, which takes long while Nix writes",
			}, "use-sqlite-wal = true"))
		}
		return nil
	case errors.Is(err, fs.ErrNotExist) && s.Queue == nil && os.Geteuid() == 0 && s.Nix != nil:
		return nil // larder run makes it
	case errors.Is(err, fs.ErrNotExist):
		f.What = fmt.Sprintf("Nix has no database in %s", s.Dirs.State)
		f.Run = []string{asRoot("nix-store --init")}
		f.Advice = "NIX_STATE_DIR names another place than /nix/var/nix"
	case errors.Is(err, nixstore.ErrUnavailable) && strings.Contains(err.Error(), "schema"):
		f.What = fmt.Sprintf("Nix is newer than this larder: %v", err)
		f.Advice = "install a newer larder; jobs wait until then"
	default:
		f.What = fmt.Sprintf("Nix's database can't be read: %v", err)
		f.Run = []string{"ls -la " + quote(filepath.Join(s.Dirs.State, "db"))}
	}
	return one(f)
}

// skew looks whether the daemon is another Nix than the one that is called.
func (s *Setup) skew() []Finding {
	client, daemon := s.Version, s.builder()
	if !client.Known() || !daemon.Known() || client.Major == daemon.Major && client.Minor == daemon.Minor {
		return nil
	}
	return one(s.onRestart(Finding{
		Severity: Warning,
		What:     fmt.Sprintf("nix-daemon is Nix %s, and the one in the PATH is %s", daemon, client),
		Why:      "hook and substituters are as the daemon's version has them; perhaps it was not restarted when Nix was updated",
	}))
}

// quirks looks for what a version or a setting of Nix stands in the way of.
func (s *Setup) quirks() []Finding {
	var findings []Finding
	if url := bincache.URL(s.Cache); s.Cache != "" && strings.Contains(url, "%") && s.builder().Before(2, 26) {
		f := Finding{
			Severity: Warning,
			What:     fmt.Sprintf("Nix %s may not find %s: it has no escapes in URLs that it is sure to understand", s.builder(), url),
			Why:      "the name of the cache's directory has a space, a % or letters beyond ASCII in it, and Nix 2.26 is the first that is known to cope",
			Advice:   "give the directory another name, or install a later Nix",
		}
		if s.builder().Before(2, 9) {
			f.Severity = Problem
			f.What = fmt.Sprintf("Nix %s can't find %s: it takes escapes in URLs literally", s.builder(), url)
		}
		findings = append(findings, f)
	}
	if s.Nix.Knows("substitute") && !s.Nix.Bool("substitute") {
		findings = append(findings, s.onNixConf(Finding{
			Severity: Problem,
			What:     "Nix substitutes nothing (substitute = false)",
			Why:      "whatever is in a cache is built again",
		}, "substitute = true"))
	}
	if jobs, ok := s.Nix.Number("max-jobs"); ok && jobs == 0 && s.noBuilders() {
		findings = append(findings, s.onNixConf(Finding{
			Severity: Warning,
			What:     "Nix builds nothing (max-jobs = 0, and no builders)",
			Why:      "what no cache has can't be had, and a damaged entry can't be made up for",
		}, "max-jobs = auto"))
	}
	switch {
	case s.Nix.Bool("always-allow-substitutes"):
	case s.Nix.Knows("always-allow-substitutes"):
		findings = append(findings, fine("what is marked as quick to build is built in spite of an entry (always-allow-substitutes; larder run sets it)")...)
	default:
		findings = append(findings, fine("what is marked as quick to build is built in spite of an entry (Nix %s has no always-allow-substitutes)", s.Version)...)
	}
	return findings
}

// noBuilders tells whether Nix has no other machines to build on.
func (s *Setup) noBuilders() bool {
	builders := strings.TrimSpace(s.Nix.String("builders"))
	if file, ok := strings.CutPrefix(builders, "@"); ok {
		text, err := os.ReadFile(file)
		return err != nil || strings.TrimSpace(string(text)) == ""
	}
	return builders == ""
}
