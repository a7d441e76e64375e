package integration

import (
	"fmt"
	"os"
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
	someRoles(t, func(t *testing.T, n nix, r role) {
		j := provider{n, r}.job(t, "")
		o := j.runs(t, append([]string{"larder", "run", "--cache", "cache", "--"}, buildProject()...)...)
		if strings.Count(o.stderr, "added to") != 1 || len(warnings(o.stderr)) != 0 {
			t.Errorf("there is not one report: %s", o.stderr)
		}
		j.holdsAll(t)
	})
}

func TestRunInARunOfAnotherCacheFillsBoth(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		j := provider{n, r}.job(t, "")
		j.runs(t, append([]string{"larder", "run", "--cache", "inner", "--"}, buildProject()...)...)
		j.holdsAll(t)
		inner := *j
		inner.cache = j.host(j.user.home + "/inner")
		equalPaths(t, "inner cache", inner.cached(t), j.cached(t))
	})
}

// Root on a machine with a daemon builds by himself, unless he is told otherwise.
func TestRootThroughTheDaemon(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		j := provider{n, roles[0]}.job(t, "")
		j.startDaemon(t)
		j.machine = j.with("NIX_REMOTE=daemon")
		if out, stderr, _ := j.tryRun(t, "larder", "run", "--cache", "cache", "--", "sh", "-c", "echo $NIX_CONFIG"); !strings.Contains(out, "post-build-hook = ") {
			t.Errorf("there is no hook: %s%s", out, stderr)
		}
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

// elsewhere returns the machine as a container of its own sees it, that has nothing in
// some directories.
func (m *machine) elsewhere(t *testing.T, hidden ...string) *machine {
	t.Helper()
	view := *m
	tid, opened := make(chan int), make(chan struct{})
	made := make(chan error, 1)
	go func() {
		made <- m.inside(func() error {
			err := unix.Unshare(unix.CLONE_NEWNS)
			for _, dir := range hidden {
				if err == nil {
					err = unix.Mount("tmpfs", dir, "tmpfs", 0, "")
				}
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
		for what, c := range map[string]struct {
			role   role
			hidden []string
			reads  bool
			note   string
		}{
			"sees next to nothing": {roles[1], []string{"/home", "/root", "/var/lib", "/larder"}, false, "nix-daemon does not see /home/alice/cache"},
			"does not trust":       {roles[2], []string{"/home"}, false, "nix-daemon does not see /home/bob/cache"},
			"does not see larder":  {roles[1], []string{"/larder"}, true, ""},
			"does not see the run": {roles[1], []string{"/home/alice/.local"}, true, ""},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, n, c.role.conf...)
				m.as(c.role.user).run(t, "mkdir", "-p", ".local")
				m.elsewhere(t, c.hidden...).startDaemon(t)
				j := &ciJob{role: c.role, larder: larder{machine: m.as(c.role.user).with("NIX_REMOTE="), cache: m.host(c.role.user.home + "/cache")}}
				build := []string{"nix-build", "--no-out-link", "--expr", `import /larder/graphs/derive.nix "top" { one = ` + oneExpr("one") + `; } "echo $one > $out"`}
				o := j.runs(t, build...)
				o.hasBuilt(t, "one", "top")
				if o.report.Built != 2 || o.report.Added != 2 {
					t.Errorf("report is %+v", o.report)
				}
				if c.note != "" && !strings.Contains(o.stderr, c.note) {
					t.Errorf("larder does not say %q: %s", c.note, o.stderr)
				}
				j.whole(t)
				m.collectGarbage(t)
				if o = j.runs(t, build...); c.reads {
					o.hasBuilt(t)
				}
			})
		}
	})
}
