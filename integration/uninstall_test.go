package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// daemonLarder is newLarder on a machine with a nix-daemon that has read init's
// lines.
func daemonLarder(t *testing.T, n nix) (*larder, *process) {
	t.Helper()
	l := newLarder(t, n)
	return l, l.startDaemon(t)
}

// A nix-daemon has the settings that nix.conf had when it started.
func TestUninstallWaitsForTheNixDaemonToBeRestarted(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, nixDaemon := daemonLarder(t, n)
		l.as(alice).buildOne(t, "built")
		l.drain(t)
		l.unconfigure(t)
		must(t, os.Chtimes(l.host("/etc/nix/nix.conf"), time.Time{}, time.Now()))
		stale := refusal{1, "started before nix.conf was last changed", "restart it"}
		stale.changesNothing(t, l.machine, "larder", "uninstall")
		l.collectGarbage(t)
		l.as(alice).buildOne(t, "built-while-uninstall-was-refused")
		l.drain(t)

		l.unconfigure(t) // a while ago, as people are slow
		l.restartDaemon(t, nixDaemon)
		l.run(t, "larder", "uninstall")
		l.nothingInstalled(t)
		l.collectGarbage(t)
		l.as(alice).buildOne(t, "built-afterwards")
	})
}

// Scripts are fast.
func TestUninstallBelievesADaemonThatWasRestartedAtOnce(t *testing.T) {
	t.Parallel()
	l, nixDaemon := daemonLarder(t, nixes[0])
	l.unconfigure(t)
	must(t, os.Chtimes(l.host("/etc/nix/nix.conf"), time.Time{}, time.Now()))
	l.restartDaemon(t, nixDaemon)
	l.run(t, "larder", "uninstall")
	l.nothingInstalled(t)
}

// Restarting nix-daemon does not end what it does for its clients (systemd's
// KillMode=process), and that goes on with the settings of the one that is gone.
func TestUninstallWaitsForBuildsOfAnEarlierNixDaemon(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, nixDaemon := daemonLarder(t, n)
		l.unconfigure(t)
		gate := newGate(t)
		// It connects after nix.conf was changed, but to the daemon from before.
		build := l.as(alice).start(t, "nix-build", "--no-out-link", "--expr",
			`import /larder/graphs/derive.nix "slow" { } "read line < `+string(gate)+`; echo slow > $out"`)
		var open func()
		eventually(t, "the build to begin", func() (begun bool) {
			open, begun = gate.reached(t)
			return begun
		})
		l.restartDaemon(t, nixDaemon)
		refusal{1, "nix-daemon", "build"}.of(t, l.machine, "larder", "uninstall")
		open()
		build.endsWell(t)
		eventually(t, "the earlier nix-daemon's children to end", func() bool { return len(l.processes()) == 1 })
		l.drain(t)
		l.run(t, "larder", "uninstall")
	})
}

// The hook names its queue by one name, and uninstall has to know it again.
func TestUninstallKnowsAQueueThatIsBehindALink(t *testing.T) {
	t.Parallel()
	l := &larder{machine: newMachine(t, nixes[0]).with(patient), cache: filepath.Join(tempDir(t), "cache"), queue: "/root/link/queue.db"}
	l.run(t, "sh", "-euc", "mkdir real; ln -s real link")
	l.conf = l.lines(t, "larder", "init", "--queue", l.queue, "--cache", l.cache)
	l.configure(t, l.conf...)
	path := l.buildOne(t, "built")
	equalPaths(t, "queue", l.queued(t), []string{path})
	if conf := l.lines(t, "larder", "init", "--queue", "/root/real/queue.db"); conf[0] != l.conf[0] {
		t.Errorf("by another name init prints %q, want %q", conf[0], l.conf[0])
	}
	l.drain(t)
	for _, name := range []string{l.queue, "/root/real/queue.db"} {
		refusal{1, "still has " + l.conf[0], "remove that line"}.changesNothing(t, l.machine, "larder", "uninstall", "--queue", name)
	}
	l.unconfigure(t)
	l.run(t, "larder", "uninstall", "--queue", l.queue)
	if left := l.run(t, "ls", "-A", "/root/real"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	l.queue = "/root/real/queue.db"
	l.nothingInstalled(t)
}

// What lies around the queue may be anybody's.
func TestUninstallRemovesOnlyWhatInitLaidDown(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.run(t, "sh", "-euc", "cd /var/lib/larder; echo mine > queue.db.backup; mkdir larder-hook.old; echo mine > larder-hook.old/notes; : > /nix/var/nix/gcroots/mine")
	mine := func() []string {
		return slices.DeleteFunc(files(t, l.host("/var/lib/larder")), func(line string) bool {
			return strings.Contains(line, "/queue.db ") || strings.Contains(line, "/queue.db-lock ")
		})
	}
	before := mine()
	l.unconfigure(t)
	l.run(t, "larder", "uninstall")
	unchanged(t, "beside the queue", before, mine())
	if _, err := os.Stat(l.host("/nix/var/nix/gcroots/mine")); err != nil {
		t.Error(err)
	}
}
