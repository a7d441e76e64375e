package integration

import (
	"path/filepath"
	"slices"
	"testing"
)

// closedCache fills a cache as a root whose umask shuts everybody out, and
// returns it with what is in it.
func closedCache(t *testing.T, n nix) (cache string, paths []string) {
	t.Helper()
	m := newMachine(t, n).with(patient)
	cache = filepath.Join(tempDir(t), "new", "cache")
	closed := []string{"sh", "-euc", `umask 077; exec "$@"`, "-"}
	l := &larder{machine: m, cache: cache, queue: rootsQueue}
	l.conf = m.lines(t, append(closed, "larder", "init", "--cache", cache)...)
	m.configure(t, l.conf[0]) // without the substituter: root's Nix makes what is missing there
	outs := l.built(t, standardGraph)
	m.run(t, append(closed, "larder", "drain")...)
	return cache, l.closure(t, outs...)
}

// Whatever Nix does when it opens a cache, it must not need to write there.
func TestReaderNeedsNoRightToWrite(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		cache, want := closedCache(t, n)
		url := "file://" + cache
		before := files(t, cache)
		for _, n := range nixes {
			t.Run(n.name+" alone", func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, n)
				user := m.as(alice).with("NIX_REMOTE=")
				cannotWrite(t, user, cache)
				user.run(t, append([]string{"nix", "copy", "--from", url, "--to", "local?root=/home/alice/copied", "--no-check-sigs"}, want...)...)
				user.run(t, append([]string{"nix-store", "--store", "local?root=/home/alice/substituted", "--realise", "--max-jobs", "0",
					"--option", "substituters", url + "?trusted=1"}, want...)...)
				for _, store := range []string{"copied", "substituted"} {
					store = "local?root=/home/alice/" + store
					have := user.lines(t, "nix", "path-info", "--store", store, "--all")
					slices.Sort(have)
					equalPaths(t, store, have, want)
					user.run(t, "nix", "store", "verify", "--store", store, "--all", "--no-trust")
				}
				unchanged(t, "a cache that was read", before, files(t, cache))
			})
			t.Run(n.name+" by a daemon", func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, n, "substituters = "+url+"?trusted=true")
				m.startDaemon(t)
				user := m.as(alice)
				cannotWrite(t, user, cache)
				user.run(t, append([]string{"nix-store", "--realise", "--max-jobs", "0"}, want...)...)
				equalPaths(t, "store", m.validPaths(t), want)

				// These open the cache as alice herself.
				listed := user.lines(t, append([]string{"nix", "path-info", "--recursive", "--store", url}, want...)...)
				slices.Sort(listed)
				equalPaths(t, "nix path-info", listed, want)
				user.run(t, "nix", "store", "verify", "--store", url, "--all", "--no-trust")
				unchanged(t, "a cache that was read", before, files(t, cache))
			})
		}
	})
}

func cannotWrite(t *testing.T, m *machine, cache string) {
	t.Helper()
	for _, dir := range []string{"", "nar", "log", "realisations", "build-trace-v2", ".larder/tmp", ".larder/runs"} {
		if _, _, exit := m.tryRun(t, "test", "-r", filepath.Join(cache, dir), "-a", "-x", filepath.Join(cache, dir)); exit != 0 {
			t.Errorf("%s can't read %s", m, dir)
		}
		if _, _, exit := m.tryRun(t, "test", "-w", filepath.Join(cache, dir)); exit == 0 {
			t.Errorf("%s may write to %s", m, dir)
		}
	}
}

// A cache for a group is for that group: those who are in it write, and others
// see nothing.
func TestModeAndGroupOfACacheAreKeptByWhateverIsAdded(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--mode", "0660", "--group", "alice")
	path := l.buildOne(t, "shared")
	l.drain(t)
	user := l.as(alice).with("NIX_REMOTE=")
	user.run(t, "nix", "store", "verify", "--store", "file://"+l.cache, "--all", "--no-trust")
	user.run(t, "sh", "-euc", "for dir in . nar .larder/tmp; do : > "+l.cache+"/$dir/mine; rm "+l.cache+"/$dir/mine; done")
	if _, _, exit := l.as(bob).with("NIX_REMOTE=").tryRun(t, "ls", l.cache); exit == 0 {
		t.Error("bob reads the cache")
	}
	n := entries(t, l.cache)[path]
	for _, name := range []string{n.nar, filepath.Base(path)[:32] + ".narinfo", "nix-cache-info", "nar/.keep", ".larder/lock"} {
		if got := l.run(t, "stat", "--format", "%a %G", filepath.Join(l.cache, name)); got != "660 alice" {
			t.Errorf("%s is %q, want mode 660 of group alice", name, got)
		}
	}
	for _, name := range []string{"", "nar", "log", "realisations", "build-trace-v2", ".larder", ".larder/tmp", ".larder/runs"} {
		if got := l.run(t, "stat", "--format", "%a %G", filepath.Join(l.cache, name)); got != "2770 alice" {
			t.Errorf("%s is %q, want mode 2770 of group alice", name, got)
		}
	}
}
