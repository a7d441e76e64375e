package integration

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// hold keeps a connection to the nix-daemon open, as a client does during a build,
// until release is called, or the test ends. Before Nix 2.22 that is when other users
// than root can read its database live, and not as a snapshot.
func (m *machine) hold(t *testing.T) (release func()) {
	t.Helper()
	var conn net.Conn
	must(t, m.inside(func() (err error) {
		conn, err = net.Dial("unix", "/nix/var/nix/daemon-socket/socket")
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	if m.version == "2.8.0" {
		eventually(t, "Nix's database to be open", func() bool {
			_, err := os.Stat(m.host("/nix/var/nix/db/db.sqlite-shm"))
			return err == nil
		})
	}
	return func() { conn.Close() }
}

// ownedBy fails the test if something does not belong to the user.
func (m *machine) ownedBy(t *testing.T, u user, paths ...string) {
	t.Helper()
	for _, path := range paths {
		info, err := os.Lstat(m.host(path))
		must(t, err)
		if sys := info.Sys().(*syscall.Stat_t); sys.Uid != u.uid || sys.Gid != u.gid {
			t.Errorf("%s belongs to %d:%d, want %s", path, sys.Uid, sys.Gid, u.name)
		}
	}
}

func TestRootsQueueGetsWhatOthersBuild(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.startDaemon(t)
		l.as(alice).build(t, standardGraph)
		outs := l.outputs(t, l.derivations(t, standardGraph)...)
		if rooted := l.rooted(t); !slices.Equal(rooted, outs) {
			t.Errorf("rooted is %q, want %q", rooted, outs)
		}
		l.ownedBy(t, root, l.queue, l.queue+"-lock")
		l.drain(t)
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), l.closure(t, outs...))
		l.verify(t)

		// What bob builds goes the same way, but to a worker that is alive.
		l.startWorker(t, "--poll", "1h")
		out := l.as(bob).buildOne(t, "by-bob")
		eventually(t, "the worker", func() bool { return slices.Contains(l.cached(t), out) })
	})
}

// alicesLarder has alice make a queue and a cache in a home that only she can
// enter, and root put her lines into nix.conf.
func alicesLarder(t *testing.T, n nix) (l *larder, nixDaemon *process) {
	t.Helper()
	m := newMachine(t, n).with(patient)
	must(t, os.Chmod(m.host(alice.home), 0o700))
	nixDaemon = m.startDaemon(t)
	l = &larder{
		machine: m.as(alice),
		cache:   m.host("/home/alice/cache"), // where the host sees it
		queue:   "/home/alice/q/queue.db",
	}
	l.conf = l.lines(t, "sh", "-c", "larder init --queue ~/q/queue.db --cache ~/cache")
	m.configure(t, l.conf[0])
	return l, m.restartDaemon(t, nixDaemon)
}

// restartDaemon ends a nix-daemon, but not what it does for its clients, and
// starts another one, which reads nix.conf anew.
func (m *machine) restartDaemon(t *testing.T, old *process) *process {
	t.Helper()
	old.signal(t, syscall.SIGTERM)
	eventually(t, "the nix-daemon to end", func() bool {
		return errors.Is(old.cmd.Process.Signal(syscall.Signal(0)), os.ErrProcessDone)
	})
	return m.startDaemon(t)
}

func (l *larder) asRoot() *machine { return l.as(root) }

func TestHookOfRootFillsAUsersQueueAndTheUserEmptiesIt(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, _ := alicesLarder(t, n)
		l.as(bob).build(t, standardGraph)
		outs := l.asRoot().outputs(t, l.asRoot().derivations(t, standardGraph)...)
		if rooted := l.rooted(t); !slices.Equal(rooted, outs) {
			t.Errorf("rooted is %q, want %q", rooted, outs)
		}
		rootsDir := filepath.Dir(l.rootFiles(t)[0])
		l.ownedBy(t, alice, l.queue, l.queue+"-lock", strings.TrimPrefix(rootsDir, l.dir))
		l.asRoot().collectGarbage(t) // everything queued stays

		l.hold(t)
		l.drain(t)
		l.nothingLeft(t)
		equalPaths(t, "cache", l.cached(t), l.asRoot().closure(t, outs...))
		all, err := filepath.Glob(l.host("/home/alice/q/*"))
		must(t, err)
		for _, file := range all {
			l.ownedBy(t, alice, strings.TrimPrefix(file, l.dir))
		}
		l.run(t, "nix", "store", "verify", "--store", "file:///home/alice/cache", "--all", "--no-trust")

		// A worker of hers is woken by what root's hook writes.
		l.startWorker(t, "--poll", "1h")
		out := l.as(bob).buildOne(t, "for-alice")
		eventually(t, "the worker", func() bool { return slices.Contains(l.cached(t), out) })
		eventually(t, "the root to go", func() bool { return len(l.rootFiles(t)) == 0 })
	})
}

// What root made before, with a umask that shuts others out, is not in the way of
// a user who comes later.
func TestUsersQueueWorksBesideAClosedOneOfRoot(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[1])
	m.run(t, "sh", "-c", "umask 077; larder init --cache /root/cache")
	m.startDaemon(t)
	l := &larder{machine: m.as(alice), cache: m.host("/home/alice/cache"), queue: "/home/alice/queue.db"}
	l.conf = l.lines(t, "larder", "init", "--queue", l.queue, "--cache", "/home/alice/cache")
	path := m.buildOne(t, "built")
	drv := m.query(t, "--deriver", path)[0]
	m.with("DRV_PATH="+drv, "OUT_PATHS="+path, patient).run(t, l.hook(t))
	l.drain(t)
	l.nothingLeft(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
}

// Nix before 2.22 takes the log of its database away when it is idle, and then
// SQLite lets only root in.
func TestUserReadsTheDatabaseOfAnIdleOldNix(t *testing.T) {
	t.Parallel()
	l, _ := alicesLarder(t, nixes[0])
	if l.version != "2.8.0" {
		t.Skipf("Nix %s lets everybody read its database", l.version)
	}
	path := l.as(bob).buildOne(t, "built")
	eventually(t, "Nix to be idle", func() bool {
		_, err := os.Stat(l.host("/nix/var/nix/db/db.sqlite-shm"))
		return err != nil
	})
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
	if _, err := os.Stat(l.host("/nix/var/nix/db/db.sqlite-shm")); err == nil {
		t.Error("there is a log: the test does not show what it should")
	}
}

func TestUserTakesBackWhatSheLaidDown(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, nixDaemon := alicesLarder(t, n)
		path := l.as(bob).buildOne(t, "built")
		l.asRoot().collectGarbage(t) // not the hook
		l.as(bob).buildOne(t, "built-with-the-hook")
		release := l.hold(t)
		l.drain(t)
		release()
		refusal{1, "still has post-build-hook", "remove that line"}.of(t, l.machine, "larder", "uninstall", "--queue", l.queue)

		l.unconfigure(t)
		l.asRoot().restartDaemon(t, nixDaemon)
		l.run(t, "larder", "uninstall", "--queue", l.queue)
		if left := files(t, l.host("/home/alice/q")); len(left) != 1 {
			t.Errorf("left beside the queue: %q", left[1:])
		}
		if roots := l.rootFiles(t); len(roots) > 0 {
			t.Errorf("roots are left: %q", roots)
		}
		hasPaths(t, "cache", l.cached(t), []string{path})
		l.as(bob).buildOne(t, "built-afterwards")
		// The daemon's child that bob spoke to has roots until it ends, a little later.
		eventually(t, "the store to be empty", func() bool {
			l.asRoot().collectGarbage(t)
			return len(l.asRoot().validPaths(t)) == 0
		})
	})
}
