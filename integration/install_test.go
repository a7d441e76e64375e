package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestInitTwiceIsInitOnce(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--compression", "none")
		l.buildOne(t, "built")
		store, cache := l.validPaths(t), files(t, l.cache)
		for _, args := range [][]string{nil, {"--cache", l.cache}, {"--cache", "file://" + l.cache, "--queue", l.queue}} {
			if conf := l.lines(t, append([]string{"larder", "init"}, args...)...); !slices.Equal(conf, l.conf) {
				t.Errorf("init %q prints %q, want %q", args, conf, l.conf)
			}
		}
		equalPaths(t, "store", l.validPaths(t), store)
		unchanged(t, "cache", cache, files(t, l.cache))
		if s := l.status(t); s.Waiting != 1 || s.Cache != "file://"+l.cache {
			t.Errorf("status is %+v", s)
		}
		l.drain(t)
		hasCompression(t, l.cache, "none") // which the later ones did not say
	})
}

// Whatever a directory is called: the line that init prints makes Nix find it.
func TestSubstituterLineWorksForEveryDirectory(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for what, dir := range map[string]struct {
			name     string
			nameless bool // Nix 2.8 takes no URL of it
		}{
			"letters": {"plain", false}, "plus": {"a+b", false}, "parameters": {"x=y&z", false},
			"brackets": {"(old)", false}, "quote": {"it's", false},
			"space": {"with space", true}, "umlaut": {"grün", true}, "percent": {"100%", true},
			"hash": {"hash#tag", true}, "question": {"que?stion", true},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				l := &larder{machine: newMachine(t, n).with(patient), cache: filepath.Join(tempDir(t), dir.name, "cache"), queue: rootsQueue}
				if dir.nameless && l.version == "2.8.0" {
					t.Skip("Nix 2.8 can't")
				}
				l.conf = l.lines(t, "larder", "init", "--cache", l.cache)
				l.configure(t, l.conf...)
				path := l.buildOne(t, "built")
				l.drain(t)
				equalPaths(t, "cache", l.cached(t), []string{path})
				fresh := newMachine(t, n, l.conf[1])
				fresh.run(t, "nix-store", "--realise", "--max-jobs", "0", path)
			})
		}
	})
}

// A relative directory is one of the moment; what is remembered is where it was.
func TestInitKeepsNoRelativeNames(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	conf := m.lines(t, "sh", "-euc", "mkdir here; cd here; larder init --cache cache --queue queue.db")
	if want := "extra-substituters = file:///root/here/cache?trusted=true"; conf[1] != want {
		t.Errorf("init prints %q, want %q", conf[1], want)
	}
	m.configure(t, conf...)
	path := m.with(patient).buildOne(t, "built")
	m.run(t, "larder", "drain", "--queue", "here/queue.db")
	if paths := entries(t, m.host("/root/here/cache")); len(paths) != 1 || paths[path].path == "" {
		t.Errorf("the cache has %v, want %s", paths, path)
	}
}

// From the first line in nix.conf to the last one out of it, no build fails.
func TestUninstallTakesEverythingBackWithoutFailingABuild(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.collectGarbage(t)
		first := l.buildOne(t, "first")
		stays := func(what string) {
			t.Helper()
			l.collectGarbage(t)
			l.build(t, "--expr", oneExpr("built-while-"+what), "--option", "extra-substituters", "")
		}
		left := refusal{1, "uninstall: 1 jobs are left in the queue", "larder drain"}
		left.changesNothing(t, l.machine, "larder", "uninstall")
		stays("jobs-were-left")
		configured := refusal{1, "uninstall: /etc/nix/nix.conf still has post-build-hook = " + l.hook(t), "remove that line"}
		configured.changesNothing(t, l.machine, "larder", "uninstall", "--force")
		stays("uninstall-was-forced")
		l.drain(t)
		configured.changesNothing(t, l.machine, "larder", "uninstall")
		stays("configured")
		l.drain(t)

		l.unconfigure(t)
		out := l.run(t, "larder", "uninstall")
		if !strings.Contains(out, l.queue) || !strings.Contains(out, "file://"+l.cache) {
			t.Errorf("uninstall says %q", out)
		}
		l.nothingInstalled(t)
		hasPaths(t, "cache", l.cached(t), []string{first})
		l.buildOne(t, "last")
		l.collectGarbage(t)
		equalPaths(t, "store", l.validPaths(t), nil)
		refusal{1, "no such file", "larder init"}.of(t, l.machine, "larder", "uninstall")

		// And there is a way back.
		l.configure(t, l.lines(t, "larder", "init", "--cache", l.cache)...)
		again := l.buildOne(t, "again")
		l.drain(t)
		hasPaths(t, "cache", l.cached(t), []string{first, again})
	})
}

// nothingInstalled fails the test if anything of larder but the cache is left.
func (l *larder) nothingInstalled(t *testing.T) {
	t.Helper()
	for _, dir := range []string{filepath.Dir(l.host(l.queue)), l.host("/nix/var/nix/gcroots/larder")} {
		for _, line := range files(t, dir) {
			if !strings.Contains(line, " d") { // an empty directory does no harm
				t.Errorf("left behind: %s", line)
			}
		}
	}
}

// Nix has many places for its settings.
func TestUninstallFindsTheHookWhereverItIsConfigured(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.unconfigure(t)
	conf, err := os.ReadFile(l.host("/etc/nix/nix.conf"))
	must(t, err)
	line := l.conf[0]
	for name, place := range map[string]struct{ nixConf, other, otherText, env string }{
		"nix.conf":               {nixConf: line},
		"with spaces":            {nixConf: "  post-build-hook  =  " + l.hook(t) + "  # larder's"},
		"before another setting": {nixConf: line + "\ncores = 1"},
		"an included file":       {"include larder.conf", "/etc/nix/larder.conf", line, ""},
		"an absolute include":    {"include /srv/larder.conf", "/srv/larder.conf", line, ""},
		"an optional include":    {"!include /nowhere\n!include larder.conf", "/etc/nix/larder.conf", line, ""},
		"the user's own file":    {"", "/root/.config/nix/nix.conf", line, ""},
		"a file that is named":   {"", "/srv/mine.conf", line, "NIX_USER_CONF_FILES=/nowhere:/srv/mine.conf"},
		"the environment":        {"", "", "", "NIX_CONFIG=cores = 1\n" + line},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(l.host("/etc/nix/nix.conf"), []byte(string(conf)+place.nixConf+"\n"), 0o644))
			if place.other != "" {
				must(t, os.MkdirAll(filepath.Dir(l.host(place.other)), 0o755))
				must(t, os.WriteFile(l.host(place.other), []byte(place.otherText+"\n"), 0o644))
				defer os.Remove(l.host(place.other))
			}
			m := l.with(place.env)
			// Nix agrees that it is set.
			if config := m.run(t, "nix", "show-config"); !strings.Contains(config, line) {
				t.Fatalf("Nix has not read it: %s", config)
			}
			refusal{1, "still has " + line, "remove that line"}.changesNothing(t, m, "larder", "uninstall")
		})
	}
	must(t, os.WriteFile(l.host("/etc/nix/nix.conf"), append(conf, "# "+line+"\npost-build-hook = /somebody/elses\n"...), 0o644))
	l.run(t, "larder", "uninstall")
	l.nothingInstalled(t)
}

func TestUninstallLeavesAWorkerAlone(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.unconfigure(t)
	d := l.startWorker(t)
	refusal{1, "another worker has this queue", "stop it first"}.changesNothing(t, l.machine, "larder", "uninstall", "--force")
	if d.ended() {
		t.Errorf("ended: %v", d)
	}
}

func TestForcedUninstallForgetsJobs(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.buildOne(t, "forgotten")
	l.unconfigure(t)
	l.run(t, "larder", "uninstall", "--force")
	l.nothingInstalled(t)
	equalPaths(t, "cache", l.cached(t), nil)
}

// Where Nix is not to be found, the hook lies beside the queue.
func TestInitWithoutNixLaysTheHookBesideTheQueue(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := &larder{machine: newMachine(t, n).with(patient), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
		l.conf = l.with("PATH=/larder/bin").lines(t, "/larder/bin/larder", "init", "--cache", l.cache)
		if want := "/var/lib/larder/larder-hook/larder-hook"; l.hook(t) != want {
			t.Errorf("the hook is %s, want %s", l.hook(t), want)
		}
		l.configure(t, l.conf...)
		outs := l.built(t, standardGraph)
		equalPaths(t, "queue", l.queued(t), outs)
		l.with("PATH=/larder/bin").lines(t, "/larder/bin/larder", "init") // while it may be in use
		l.drain(t)
		equalPaths(t, "cache", l.cached(t), l.closure(t, outs...))
		refusal{1, "still has post-build-hook", "remove that line"}.changesNothing(t, l.machine, "larder", "uninstall")
		l.buildOne(t, "built-meanwhile")
		l.drain(t)
		l.unconfigure(t)
		l.run(t, "larder", "uninstall")
		l.nothingInstalled(t)
	})
}

// A newer larder lays down a newer hook. nix.conf may name the older one for long.
func TestHookOfAnEarlierInitStays(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.run(t, "sh", "-euc", "cp /larder/bin/larder-hook newer-hook; echo >> newer-hook; chmod 755 newer-hook")
	newer := l.lines(t, "larder", "init", "--hook", "newer-hook")
	if newer[0] == l.conf[0] {
		t.Fatal("both hooks are the same")
	}
	l.collectGarbage(t)
	one := l.buildOne(t, "by-the-older")
	l.configure(t, newer[0])
	other := l.buildOne(t, "by-the-newer")
	equalPaths(t, "queue", l.queued(t), slices.Sorted(slices.Values([]string{one, other})))
	l.drain(t)
	l.unconfigure(t) // takes the older one out; the newer one is still there
	refusal{1, "still has " + newer[0], "remove that line"}.changesNothing(t, l.machine, "larder", "uninstall")
}

// Queues do not touch each other's roots, nor hooks.
func TestUninstallTakesBackOneQueue(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	other := l.lines(t, "larder", "init", "--queue", "/root/other/queue.db", "--cache", "/root/cache")
	path := l.buildOne(t, "built")
	before := l.rootFiles(t)
	l.run(t, "larder", "uninstall", "--queue", "/root/other/queue.db")
	if after := l.rootFiles(t); !slices.Equal(after, before) {
		t.Errorf("roots are %q, were %q", after, before)
	}
	l.collectGarbage(t)
	l.buildOne(t, "built-later")
	hasPaths(t, "store", l.validPaths(t), []string{path})
	if gone := strings.TrimPrefix(filepath.Dir(other[0]), "post-build-hook = "); slices.Contains(l.validPaths(t), gone) {
		t.Errorf("the other's hook %s is still there", gone)
	}
}
