package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/internal/nixtest"
)

// Three outputs, one of which is named by nobody.
const threeOutputs = `derivation {
	name = "three";
	system = builtins.currentSystem;
	builder = "/bin/sh";
	outputs = [ "out" "dev" "doc" ];
	args = [ "-c" "echo 1 > $out; echo 2 > $dev; echo 3 > $doc; exit 0" ];
}`

// nixSite is a site whose store is a real one.
func nixSite(t *testing.T) (*site, *nixtest.Store) {
	t.Helper()
	store := nixtest.New(t)
	s, _ := newSiteWithQueue(t)
	s.Store, s.State = store.Dir, store.State
	s.env["NIX_STORE_DIR"], s.env["NIX_STATE_DIR"] = s.Store, s.State
	delete(s.env, "OUT_PATHS")
	return s, store
}

func TestNixsOwnHookQueuesEveryOutput(t *testing.T) {
	s, store := nixSite(t)
	hook := filepath.Join(s.Dir, "larder-hook")
	must(t, os.Symlink(program, hook))
	must(t, os.WriteFile(hook+".queue", []byte(s.File+"\n"), 0o644))
	cmd := store.Command("nix-build", "--no-out-link", "--option", "post-build-hook", hook, "-E", threeOutputs)
	cmd.Env = append(slices.Clone(cmd.Env), "LARDER_HOOK_DEADLINE=1m")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nix-build: %v\n%s", err, out)
	}
	drv := store.Run(t, "nix-instantiate", "-E", threeOutputs)
	want := store.Lines(t, "nix-store", "--query", "--outputs", drv)
	if len(want) != 3 {
		t.Fatalf("outputs are %q, want three", want)
	}
	s.WantRows(t, want...)
	s.WantRoots(t, want...)
	if strings.Contains(string(out), "larder-hook:") {
		t.Errorf("Nix's output has the hook's complaint:\n%s", out)
	}

	store.Run(t, "nix-store", "--gc")
	for _, path := range want {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("the collector took what is queued: %v", err)
		}
	}
}

func TestOutputsThatNixDoesNotNameAreFound(t *testing.T) {
	for name, test := range map[string]struct {
		named int  // how many are in OUT_PATHS
		noDrv bool // the derivation is gone from the disk, and only Nix's database knows
	}{
		"none":                 {0, false},
		"one":                  {1, false},
		"all":                  {3, false},
		"none, from database":  {0, true},
		"two, and in database": {2, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, store := nixSite(t)
			drv := store.Run(t, "nix-instantiate", "-E", threeOutputs)
			store.Run(t, "nix-store", "--realise", drv)
			want := store.Lines(t, "nix-store", "--query", "--outputs", drv)
			if test.noDrv {
				must(t, os.Remove(drv))
			}
			s.env["DRV_PATH"] = drv
			s.env["OUT_PATHS"] = strings.Join(want[:test.named], " ")
			hooktest.WantSays(t, s.run(t), "")
			s.WantRows(t, want...)
			s.WantRoots(t, want...)
		})
	}
}
