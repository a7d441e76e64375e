package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixclient"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// A site is a set-up with which nothing is wrong: a cache, a queue, and Nix's settings
// with a hook that feeds it.
type site struct {
	*Setup
	dir      string
	settings map[string]any
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // others may look
	s := &site{dir: dir, Setup: &Setup{
		Dirs:    nixstore.Dirs{Store: "/nix/store", State: filepath.Join(dir, "state")},
		Version: nixclient.ParseVersion("2.26.3"),
		Cache:   filepath.Join(dir, "cache"),
		Queue:   &Queue{File: filepath.Join(dir, "q", "queue.db"), Settings: queue.Settings{Cache: bincache.URL(filepath.Join(dir, "cache"))}},
	}}
	cache, err := bincache.Create(s.Cache, s.Dirs.Store, bincache.Options{})
	must(t, err)
	must(t, cache.Close())
	q, err := queue.Create(t.Context(), s.Queue.File)
	must(t, err)
	must(t, q.Close())

	hook := filepath.Join(dir, "hook")
	must(t, os.WriteFile(hook, []byte("\x7fELF"), 0o755))
	s.HookQueue, s.Hooks = s.Queue.File, []string{hook}
	s.settings = map[string]any{
		"post-build-hook":          hook,
		"substituters":             []string{bincache.SubstituterURL(s.Cache)},
		"trusted-substituters":     []string{},
		"trusted-public-keys":      []string{},
		"trusted-users":            []string{"root"},
		"require-sigs":             true,
		"substitute":               true,
		"fallback":                 false,
		"always-allow-substitutes": true,
		"max-jobs":                 1.0,
		"builders":                 "",
	}
	s.configure(t, nil)
	return s
}

// configure changes some of Nix's settings.
func (s *site) configure(t *testing.T, settings map[string]any) {
	t.Helper()
	for name, value := range settings {
		s.settings[name] = value
	}
	s.Chain = nil
	if hook := s.settings["post-build-hook"].(string); hook != "" {
		s.Chain = []string{hook}
	}
	s.Nix, s.System = asked(t, s.settings, s.Nix), asked(t, s.settings, nil)
}

// asked returns what Nix says, served as before.
func asked(t *testing.T, settings map[string]any, before *nixclient.Client) *nixclient.Client {
	t.Helper()
	c := nixclient.New(settings)
	if before != nil {
		c.Access, c.Trusted, c.Apart, c.DaemonPID = before.Access, before.Trusted, before.Apart, before.DaemonPID
	}
	return c
}

// forRun makes it a set-up of larder run, without a queue.
func (s *site) forRun(t *testing.T) {
	t.Helper()
	s.Queue, s.HookQueue, s.Hooks = nil, "", nil
	s.configure(t, map[string]any{"post-build-hook": "", "substituters": []string{}})
}

// untrusted makes it one of a user whom the daemon does not trust.
func (s *site) untrusted() { s.Nix.Access, s.Nix.Trusted = nixclient.Daemon, false }

// A check is one of those that Examine makes.
type check = func(context.Context, *Setup) []Finding

// finds fails the test unless the check finds one thing that is not fine, and returns it.
// what has to be in it.
func (s *site) finds(t *testing.T, check check, want Severity, what string) Finding {
	t.Helper()
	bad := s.wrong(t, check)
	if len(bad) != 1 || bad[0].Severity != want || !strings.Contains(bad[0].What, what) {
		t.Fatalf("found %s, want a %s with %q in it", show(bad), want, what)
	}
	if want == Problem && bad[0].Run == nil && bad[0].NixConf == nil && bad[0].Advice == "" {
		t.Errorf("nothing is said about what to do: %s", show(bad))
	}
	return bad[0]
}

// isFine fails the test unless the check finds nothing wrong.
func (s *site) isFine(t *testing.T, check check) {
	t.Helper()
	if bad := s.wrong(t, check); len(bad) > 0 {
		t.Errorf("found %s, want nothing", show(bad))
	}
}

// wrong returns what a check finds that is not fine, but for the kind of disk that
// the temporary files of the tests are on.
func (s *site) wrong(t *testing.T, check check) (bad []Finding) {
	t.Helper()
	for _, f := range check(t.Context(), s.Setup) {
		if f.Severity != Fine && !strings.Contains(f.Why, "is gone when the ") {
			bad = append(bad, f)
		}
	}
	return bad
}

// cures does what a finding says, and fails the test unless nothing is wrong then.
func (s *site) cures(t *testing.T, check check, f Finding) {
	t.Helper()
	s.do(t, f)
	s.isFine(t, check)
}

// do does what a finding says.
func (s *site) do(t *testing.T, f Finding) {
	t.Helper()
	if len(f.Run)+len(f.NixConf) == 0 {
		t.Fatalf("there is nothing to type in %s", show([]Finding{f}))
	}
	for _, line := range f.NixConf {
		name, value, ok := strings.Cut(line, " = ")
		if !ok {
			t.Fatalf("not a line of nix.conf: %q", line)
		}
		if more, ok := strings.CutPrefix(name, "extra-"); ok {
			s.configure(t, map[string]any{more: append(slices.Clone(s.settings[more].([]string)), value)})
			continue
		}
		typed := map[string]any{"true": true, "false": false}[value]
		if typed == nil {
			typed = value
		}
		s.configure(t, map[string]any{name: typed})
	}
	for _, command := range f.Run {
		out, err := exec.Command("sh", "-euc", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
}

// of returns what a check finds with such words in it.
func (s *site) of(t *testing.T, check check, what string) Finding {
	t.Helper()
	var all []Finding
	for _, f := range check(t.Context(), s.Setup) {
		if strings.Contains(f.What, what) {
			return f
		}
		all = append(all, f)
	}
	t.Fatalf("found %s, want something with %q in it", show(all), what)
	return Finding{}
}

// not fails the test if a check finds something with such words in it.
func (s *site) not(t *testing.T, check check, what string) {
	t.Helper()
	for _, f := range check(t.Context(), s.Setup) {
		if strings.Contains(f.What, what) {
			t.Errorf("found %s", show([]Finding{f}))
		}
	}
}

func show(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "\n%s: %s (%s) nix.conf %q, run %q, %s", f.Severity, f.What, f.Why, f.NixConf, f.Run, f.Advice)
	}
	return b.String()
}

// parts are what children do, where there are any.
var parts = map[string]func(args []string) error{}

// examine prints what a check finds in a cache that larder run is to use.
func examine(args []string) error {
	check := map[string]check{"disk": checkDisks, "cache": checkCache}[args[0]]
	s := &Setup{Dirs: nixstore.Dirs{Store: "/nix/store"}, Cache: args[1]}
	return json.NewEncoder(os.Stdout).Encode(check(context.Background(), s))
}

// inChild returns the one finding of a child that is not fine.
func inChild(t *testing.T, part string, args ...string) Finding {
	t.Helper()
	out, err := trouble.Command(t, part, args...).Output()
	must(t, err)
	var all []Finding
	must(t, json.Unmarshal(out, &all))
	bad := slices.DeleteFunc(all, func(f Finding) bool { return f.Severity == Fine })
	if len(bad) != 1 {
		t.Fatalf("found %s, want one thing", show(bad))
	}
	return bad[0]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
