package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// otherHook is the hook of somebody else. It notes for what it was called, and as
// whom, and fails if it is told to.
const otherHook = `#!/bin/sh
echo "$DRV_PATH $(id -u):$(id -g):$(id -G) $#" >> /var/tmp/called
test ! -e /var/tmp/refuse || exit 5
`

// addOtherHook puts the other hook into the store, and into nix.conf.
func (m *machine) addOtherHook(t *testing.T) (hook string) {
	t.Helper()
	must(t, os.WriteFile(m.host("/root/other-hook"), []byte(otherHook), 0o755))
	hook = m.lines(t, "nix-store", "--add", "/root/other-hook")[0]
	m.configure(t, "post-build-hook = "+hook)
	return hook
}

// calls returns what the other hook has noted since the last call of calls.
func (m *machine) calls(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(m.host("/var/tmp/called"))
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	must(t, os.Remove(m.host("/var/tmp/called")))
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// wantCall fails the test if the other hook was not called by root, once, for what
// was built.
func (m *machine) wantCall(t *testing.T, path string) {
	t.Helper()
	want := []string{m.as(root).query(t, "--deriver", path)[0] + " 0:0:0 0"}
	if got := m.calls(t); !slices.Equal(got, want) {
		t.Errorf("the other hook was called with %q, want %q", got, want)
	}
}

// reconfigure changes what stands in nix.conf.
func (m *machine) reconfigure(t *testing.T, old, new string) {
	t.Helper()
	file := m.host("/etc/nix/nix.conf")
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), old, new)), 0o644))
}

// The hook of root becomes the user whose queue it is, and what comes after it stays
// root.
func TestHookThatWasThereBeforeGoesOnBeingCalled(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n).with(patient)
		other := m.addOtherHook(t)
		nixDaemon := m.startDaemon(t)
		l := &larder{machine: m.as(alice), cache: m.host("/home/alice/cache"), queue: "/home/alice/q/queue.db"}
		init := []string{"larder", "init", "--queue", l.queue, "--cache", "/home/alice/cache"}
		stdout, stderr, exit := l.tryRun(t, init...)
		told := "larder: /etc/nix/nix.conf has post-build-hook = " + other + ", which larder's hook calls after itself from now on\n"
		if exit != 0 || strings.Count(stderr, told) != 1 {
			t.Errorf("init exits with %d and says %q, want %q", exit, stderr, told)
		}
		l.conf = strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
		m.configure(t, l.conf[0])
		nixDaemon = m.restartDaemon(t, nixDaemon)
		l.asRoot().collectGarbage(t) // neither hook
		path := l.as(bob).buildOne(t, "built")
		l.wantCall(t, path)
		if rooted := l.rooted(t); !slices.Equal(rooted, []string{path}) {
			t.Errorf("rooted is %q, want %q", rooted, path)
		}

		// Once more is as good as once.
		stdout, stderr, exit = l.tryRun(t, init...)
		if exit != 0 || stdout != strings.Join(l.conf, "\n")+"\n" || strings.Contains(stderr, other) {
			t.Errorf("init exits with %d, prints %q, and says %q, want %q", exit, stdout, stderr, l.conf)
		}

		// It may fail builds, as it could before.
		must(t, os.WriteFile(m.host("/var/tmp/refuse"), nil, 0o644))
		if _, stderr, exit := l.as(bob).tryRun(t, "nix-build", "--no-out-link", "--expr", oneExpr("refused")); exit == 0 || !strings.Contains(stderr, "exit code 5") {
			t.Errorf("the build exits with %d: %s", exit, stderr)
		}
		must(t, os.Remove(m.host("/var/tmp/refuse")))
		l.calls(t)
		release := l.hold(t)
		l.drain(t)
		release()
		refused := slices.IndexFunc(l.cached(t), func(path string) bool { return strings.HasSuffix(path, "-refused") })
		if refused < 0 {
			t.Errorf("what was built for nothing is not in the cache: %q", l.cached(t))
		}

		refusal{1, "still has post-build-hook", "put post-build-hook = " + other + " in its place"}.of(t, l.machine, "larder", "uninstall", "--queue", l.queue)
		l.unconfigure(t) // the other hook's line is still there
		l.asRoot().restartDaemon(t, nixDaemon)
		if out := l.run(t, "larder", "uninstall", "--queue", l.queue); strings.Contains(out, other) {
			t.Errorf("uninstall says %q: that one is called anyway", out)
		}
		if left := files(t, l.host("/home/alice/q")); len(left) != 1 {
			t.Errorf("left beside the queue: %q", left[1:])
		}
		l.wantCall(t, l.as(bob).buildOne(t, "afterwards"))
	})
}

// Another queue's hook is a hook like any other.
func TestTwoQueuesGetWhatIsBuilt(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		inner := &larder{machine: l.machine, cache: filepath.Join(tempDir(t), "cache"), queue: "/root/inner/queue.db"}
		inner.conf = inner.lines(t, "larder", "init", "--queue", inner.queue, "--cache", inner.cache)
		l.reconfigure(t, l.conf[0], inner.conf[0])
		outs := l.built(t, standardGraph)
		equalPaths(t, "outer queue", l.queued(t), outs)
		equalPaths(t, "inner queue", inner.queued(t), outs)

		// The outer one's hook is where it should be.
		if conf := l.lines(t, "larder", "init"); conf[0] != inner.conf[0] {
			t.Errorf("init of the outer queue prints %q, want %q", conf[0], inner.conf[0])
		}
		for _, q := range []*larder{l, inner} {
			q.drain(t)
		}
		refusal{1, "which calls " + l.hook(t), "larder init --queue /root/inner/queue.db --next ''"}.changesNothing(t, l.machine, "larder", "uninstall")
		alone := l.lines(t, "larder", "init", "--queue", inner.queue, "--next", "")
		l.reconfigure(t, inner.conf[0], alone[0])
		l.run(t, "larder", "uninstall")
		l.collectGarbage(t)
		path := l.buildOne(t, "for-one")
		equalPaths(t, "inner queue", inner.queued(t), []string{path})
	})
}

func TestLarderAloneIsTheHook(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n).with(patient)
		other := m.addOtherHook(t)
		m.run(t, "sh", "-euc", "mkdir bin; cp /larder/bin/larder bin/")
		l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
		l.conf = l.lines(t, "/root/bin/larder", "init", "--cache", l.cache)
		l.configure(t, l.conf...)
		l.collectGarbage(t)
		path := l.buildOne(t, "built")
		equalPaths(t, "queue", l.queued(t), []string{path})
		l.wantCall(t, path)
		l.drain(t)
		equalPaths(t, "cache", l.cached(t), []string{path})

		l.reconfigure(t, "post-build-hook", "# no hook")
		out := l.run(t, "larder", "uninstall")
		if want := "it called " + other + ": to have that called, put post-build-hook = " + other + " into nix.conf"; !strings.HasSuffix(out, want) {
			t.Errorf("uninstall says %q, want %q", out, want)
		}
		l.nothingInstalled(t)
	})
}

// Beside the queue there is one place for the hook, which a script may call already.
func TestInitMakesNoCircleOfHooks(t *testing.T) {
	t.Parallel()
	for name, hook := range map[string]string{
		"itself":           "/var/lib/larder/larder-hook/larder-hook",
		"script around it": "/root/around",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, nixes[0]).with(patient)
			l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
			init := func() string {
				l.conf = l.with("PATH=/larder/bin").lines(t, "/larder/bin/larder", "init", "--cache", l.cache)
				return l.hook(t)
			}
			writeScript(t, m.host("/root/around"), "/var/lib/larder/larder-hook/larder-hook --queue "+l.queue)
			init()
			l.configure(t, "post-build-hook = "+hook)
			if got := init(); got != hook {
				t.Errorf("init prints %s, want %s, which calls it already", got, hook)
			}
			path := l.buildOne(t, "built")
			equalPaths(t, "queue", l.queued(t), []string{path})
			if _, err := os.Stat(l.host("/var/lib/larder/larder-hook/larder-hook.next")); err == nil {
				t.Error("the hook calls itself")
			}
		})
	}
}

func TestInitSaysWhatItCanNotChain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0], "post-build-hook = some-hook")
	init := []string{"larder", "init", "--cache", "/root/cache"}
	refusal{1, "/etc/nix/nix.conf has post-build-hook = some-hook, which is no absolute path", "--next"}.changesNothing(t, m, init...)
	refusal{2, `--next is "some-hook", want an absolute path`, "--next ''"}.changesNothing(t, m, append(init, "--next", "some-hook")...)
	m.run(t, append(init, "--next", "")...)
}
