package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What is in NIX_CONFIG already still counts.
func TestRunAddsToNixConfig(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		j := provider{n, roles[0]}.job(t, "")
		for what, config := range map[string]string{
			"nothing":          "",
			"a line":           "max-silent-time = 77",
			"lines":            "max-silent-time = 77\nextra-substituters = file:///mine\n",
			"substituters":     "substituters = file:///mine\nmax-silent-time = 77",
			"the cache itself": "max-silent-time = 77\nextra-substituters = " + substituter("/root/cache"),
		} {
			t.Run(what, func(t *testing.T) {
				out := j.with("NIX_CONFIG="+config).run(t, "larder", "run", "--quiet", "--cache", "cache", "--", "sh", "-c", `echo "$NIX_CONFIG"; echo; exec nix show-config`)
				text, settings, _ := strings.Cut(out, "\n\n")
				if !strings.HasPrefix(text, strings.TrimSuffix(config, "\n")) {
					t.Errorf("NIX_CONFIG is %q, was %q", text, config)
				}
				want := []string{"fallback = true", "substituters = " + substituter("/root/cache")}
				if config != "" {
					want = append(want, "max-silent-time = 77")
				}
				if strings.Contains(config, "mine") {
					want[1] = "substituters = file:///mine " + substituter("/root/cache")
				}
				for _, line := range want {
					if !strings.Contains("\n"+settings+"\n", "\n"+line+"\n") {
						t.Errorf("Nix has not %q: %s", line, settings)
					}
				}
				if m := j.version != "2.8.0"; m != strings.Contains(settings, "\nalways-allow-substitutes = true\n") {
					t.Errorf("always-allow-substitutes should be %t: %s", m, settings)
				}
			})
		}
	})
}

// Some derivations say that to build them is quicker than to download them. In CI, what
// takes long is that everything they need is downloaded first.
func TestJobSubstitutesEvenWhatIsQuickToBuild(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		p := provider{n, roles[1]}
		build := []string{"nix-build", "--no-out-link", "--expr", `import /larder/graphs/derive.nix "quick" { allowSubstitutes = false; preferLocalBuild = true; } "echo quick > $out"`}
		first := p.job(t, "")
		first.runs(t, build...).hasBuilt(t, "quick")
		second := p.job(t, first.cache)
		o := second.runs(t, build...)
		if second.version == "2.8.0" {
			o.hasBuilt(t, "quick") // there is no way to tell it
			return
		}
		o.hasBuilt(t)
	})
}

func TestRunInARunOfTheSameCacheIsPartOfIt(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, r := range roles {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				if r.name != "trusted" && n != nixes[1] {
					t.Skip("once is enough")
				}
				j := provider{n, r}.job(t, "")
				o := j.runs(t, append([]string{"larder", "run", "--cache", "cache", "--"}, buildProject()...)...)
				if strings.Count(o.stderr, "added to") != 1 || len(warnings(o.stderr)) != 0 {
					t.Errorf("there is not one report: %s", o.stderr)
				}
				j.holdsAll(t)
			})
		}
	})
}

func TestRunInARunOfAnotherCacheFillsBoth(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, r := range roles {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				if r.name != "trusted" && n != nixes[1] {
					t.Skip("once is enough")
				}
				j := provider{n, r}.job(t, "")
				j.runs(t, append([]string{"larder", "run", "--cache", "inner", "--"}, buildProject()...)...)
				j.holdsAll(t)
				inner := *j
				inner.cache = j.host(j.user.home + "/inner")
				equalPaths(t, "inner cache", inner.cached(t), j.cached(t))
			})
		}
	})
}

// Root on a machine with a daemon builds by himself, unless he is told otherwise.
func TestRootThroughTheDaemon(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		j := provider{n, roles[0]}.job(t, "")
		j.startDaemon(t)
		j.machine = j.with("NIX_REMOTE=daemon")
		j.runs(t, buildProject()...).hasBuilt(t, "app", "compiler", "docs", "download", "leaf", "lib", "part")
		j.holdsAll(t)
		j.asRoot().collectGarbage(t)
		j.runs(t, buildProject()...).hasBuilt(t)
	})
}

// A command may use a store of its own, of which larder knows nothing.
func TestOtherStoreOfTheCommandIsLeftAlone(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		j := provider{n, roles[0]}.job(t, "")
		o := j.runs(t, "sh", "-euc", `nix-store --store /root/other --add /larder/graphs/many.nix; nix-build --no-out-link --store /root/other --option sandbox-paths "/bin /usr /lib /lib64 /larder" --expr '`+oneExpr("built")+`'`)
		equalPaths(t, "cache", j.cached(t), nil)
		if len(warnings(o.stderr)) != 0 || strings.Contains(o.stderr, "larder-hook: ") {
			t.Errorf("larder complains: %s", o.stderr)
		}
	})
}

// elsewhere returns the machine as a container of its own sees it, that shares only
// /nix: homes and what is below /var are hidden.
func (m *machine) elsewhere(t *testing.T) *machine {
	t.Helper()
	view := *m
	tid, opened := make(chan int), make(chan struct{})
	made := make(chan error, 1)
	go func() {
		made <- m.inside(func() error {
			err := unix.Unshare(unix.CLONE_NEWNS)
			for _, dir := range []string{"/home", "/root", "/var", "/tmp", "/larder"} {
				if err == nil {
					err = unix.Mount("tmpfs", dir, "tmpfs", 0, "")
				}
			}
			if err == nil {
				err = os.MkdirAll("/var/tmp", 0o777)
			}
			tid <- unix.Gettid()
			<-opened
			return err
		})
	}()
	var err error
	view.mounts, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/mnt", <-tid))
	close(opened)
	must(t, <-made)
	must(t, err)
	t.Cleanup(func() { view.mounts.Close() })
	return &view
}

// A daemon in another container does not see what a user sees. Builds must not fail.
func TestDaemonInAnotherContainer(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, r := range roles[1:3] {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, n, r.conf...)
				m.elsewhere(t).startDaemon(t)
				j := &ciJob{role: r, larder: larder{machine: m.as(r.user).with("NIX_REMOTE="), cache: m.host(r.user.home + "/cache")}}
				graph := `import /larder/graphs/derive.nix "top" { one = ` + oneExpr("one") + `; } "echo $one > $out"`
				o := j.runs(t, "nix-build", "--no-out-link", "--expr", graph)
				o.hasBuilt(t, "one", "top")
				if o.report.Built != 2 || o.report.Added != 2 {
					t.Errorf("report is %+v", o.report)
				}
				if !slices.ContainsFunc(o.report.Notes, func(note string) bool { return strings.Contains(note, "container") }) {
					t.Errorf("notes are %q", o.report.Notes)
				}
				j.whole(t)
				j.runs(t, "nix-build", "--no-out-link", "--expr", graph, "--check")
				if _, err := os.Stat(filepath.Join(m.dir, "home", r.user.name, "cache", "nix")); err == nil {
					t.Error("Nix has taken the cache for a store")
				}
			})
		}
	})
}
