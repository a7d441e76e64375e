package integration

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stop ends a daemon.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	p.endsWell(t)
}

// Numbers of a database that was restored are used again, for other paths.
func TestWhatComesAfterTheDatabaseWasRestoredGetsIn(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, lost := range map[string]int{"one is lost": 1, "more than anybody remembers": 150} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLarder(t, n, "--watch-only")
				kept := l.add(t, "kept")
				l.drain(t)
				restore := l.saveDatabase(t)
				d := l.startWorker(t, "--poll", "1h")
				gone := l.addTexts(t, "lost", lost)
				l.settles(t)
				d.stop(t)
				cached := l.cached(t)
				equalPaths(t, "cache", cached, slices.Sorted(slices.Values(append(gone[:lost:lost], kept))))

				restore(gone...)
				later := l.add(t, "later")
				l.drain(t)
				l.nothingLeft(t)
				l.holds(t, slices.Sorted(slices.Values(append(cached, later))))

				// The same again, seen by a daemon, with more than there was.
				restore(later)
				d = l.startWorker(t, "--poll", "1h")
				more := l.addTexts(t, "more", lost+2)
				l.settles(t)
				d.stop(t)
				l.holds(t, slices.Sorted(slices.Values(append(append(cached, later), more...))))
			})
		}
	})
}

// A power failure, too, may take back what was there before larder.
func TestWhatComesAfterADatabaseOlderThanTheQueueWasRestoredGetsIn(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, after := range map[string]int{"queue has seen nothing": 0, "queue has seen something": 3} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, n)
				m.addTexts(t, "old", 40) // more than the queue remembers of its beginning
				restore := m.saveDatabase(t)
				gone := m.addTexts(t, "lost", 100)
				l := initLarder(t, m, "--watch-only")
				for i := range after {
					gone = append(gone, l.add(t, fmt.Sprintf("seen-%d", i)))
				}
				l.drain(t)
				restore(gone...)
				later := l.add(t, "later")
				l.drain(t)
				l.nothingLeft(t)
				hasPaths(t, "cache", l.cached(t), []string{later})
				l.startWorker(t, "--poll", "1h")
				more := l.addTexts(t, "more", 20)
				l.settles(t)
				hasPaths(t, "cache", l.cached(t), more)
				checkWhole(t, l.cache)
				l.verify(t)
			})
		}
	})
}

// saveDatabase copies Nix's database. restore puts the copy back, and removes the
// files of what that does not know.
func (m *machine) saveDatabase(t *testing.T) (restore func(gone ...string)) {
	t.Helper()
	m.run(t, "cp", "-a", "/nix/var/nix/db", "/root/db")
	return func(gone ...string) {
		t.Helper()
		m.run(t, append([]string{"sh", "-euc", `rm -r /nix/var/nix/db; cp -a /root/db /nix/var/nix/db; rm "$@"`, "-"}, gone...)...)
	}
}

// A queue outlives its store.
func TestWhatComesIntoANewStoreGetsIn(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, count := range map[string]int{"with less in it": 1, "with more in it": 12} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, n)
				m.addTexts(t, "old", 40) // more than the queue remembers of its beginning
				l := initLarder(t, m, "--watch-only")
				l.add(t, "before")
				l.drain(t)
				cached := l.cached(t)
				l.run(t, "sh", "-euc", "chmod -R u+w /nix/store; rm -r /nix/store /nix/var/nix/db; exec nix-store --init")
				want := l.addTexts(t, "new", count)
				l.startWorker(t, "--poll", "1h")
				l.settles(t)
				want = append(want, l.add(t, "later"))
				l.settles(t)
				l.holds(t, slices.Sorted(slices.Values(append(cached, want...))))
			})
		}
	})
}

// Without a log Nix locks its database with a directory, which a killed process
// leaves behind: then Nix waits for ever.
func TestWatcherIsInNobodysWayWhereNixHasNoLog(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		random := rand.New(rand.NewPCG(seed(t), 3))
		l := initLarder(t, newMachine(t, n, "use-sqlite-wal = false"))
		before := l.validPaths(t)
		db, err := os.ReadFile(l.host("/nix/var/nix/db/db.sqlite"))
		must(t, err)
		if db[18] != 1 {
			t.Fatalf("byte 18 of the database is %d: there is a log", db[18])
		}
		noLock := func() {
			t.Helper()
			if _, err := os.Stat(l.host("/nix/var/nix/db/db.sqlite.lock")); err == nil {
				t.Fatal("a killed daemon has left Nix's lock")
			}
		}
		kinds := [][]string{{}, {"--watch-only"}}
		for i := range 6 {
			l.run(t, addTexts(fmt.Sprintf("text-%d", i), 10)...)
			d := l.start(t, append([]string{"larder", "daemon", "--poll", "10ms"}, kinds[i%2]...)...)
			time.Sleep(time.Duration(random.Int64N(int64(100 * time.Millisecond)))) // any moment
			d.kill(t)
			noLock()
			checkWhole(t, l.cache)
		}

		build := l.start(t, "nix-build", "--no-out-link", manyGraph, "--arg", "count", "15")
		for !build.ended() {
			d := l.start(t, "larder", "daemon", "--poll", "10ms")
			time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond)))) // any moment
			d.kill(t)
		}
		build.endsWell(t)
		noLock()

		d := l.startWorker(t)
		l.built(t, standardGraph)
		l.add(t, "added")
		l.settles(t)
		d.stop(t)
		l.buildOne(t, "last")
		l.drain(t)
		l.nothingLeft(t)
		l.holds(t, l.wanted(t, l.arrived(t, before)))
		l.collectGarbage(t)
		equalPaths(t, "store after a collection", l.arrived(t, before), nil)
		noLock()
	})
}

// A newer Nix may change its database while a daemon runs.
func TestNewSchemaMakesJobsWait(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		d := l.startWorker(t, "--poll", "10s") // it is closed after 2 to 4 s without use
		first := l.buildOne(t, "first")
		l.settles(t)
		// Whoever has it open reads on for a minute at most.
		isOpen := func() bool { return d.opens(t, "/nix/var/nix/db/db.sqlite") }
		eventually(t, "Nix's database to be closed", func() bool {
			if isOpen() {
				return false
			}
			l.freezeIdle(t, d) // which wakes it
			if !isOpen() {
				return true
			}
			d.signal(t, syscall.SIGCONT)
			return false
		})
		heard := l.buildOne(t, "heard-of")
		unheard := l.add(t, "unheard-of")
		schema := l.host("/nix/var/nix/db/schema")
		must(t, os.WriteFile(schema, []byte("11"), 0o644))
		d.signal(t, syscall.SIGCONT)

		const why = "its schema is version 11, want 10"
		d.waitFor(t, why)
		d.waitFor(t, "registrations could not be looked at")
		d.waitFor(t, "pausing")
		var s status
		waits := func() bool {
			s = l.status(t)
			return s.Waiting == 1
		}
		eventually(t, "the job to wait", waits)
		if j := s.Jobs[0]; j.Path != heard || j.Attempts != 0 || !strings.Contains(j.Error, why) {
			t.Errorf("job is %+v", j)
		}
		stdout, stderr, exit := l.tryRun(t, "larder", "status")
		if exit != 0 || !strings.Contains(stdout+stderr, why) {
			t.Errorf("status does not say why: exit %d, %s%s", exit, stdout, stderr)
		}
		eventually(t, "another attempt", func() bool { return strings.Count(d.stderr.String(), "msg=pausing") > 1 })
		eventually(t, "the job to wait again", waits)

		must(t, os.WriteFile(schema, []byte("10"), 0o644))
		l.settles(t)
		want := slices.Sorted(slices.Values([]string{first, heard, unheard}))
		l.holds(t, want)
		if d.ended() || strings.Contains(d.stderr.String(), "will retry\" attempt") {
			t.Errorf("ended, or lost attempts: %v", d)
		}
	})
}

// freeze stops a process, until SIGCONT.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	eventually(t, "the process to be stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		must(t, err)
		return strings.Contains(string(stat), ") T ")
	})
}

// freezeIdle stops a daemon that is not writing to its queue: nobody else could.
func (l *larder) freezeIdle(t *testing.T, d *process) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+l.host(l.queue)+"?mode=rw&_txlock=immediate&_busy_timeout=0")
	must(t, err)
	defer db.Close()
	eventually(t, "the daemon to write nothing", func() bool {
		d.freeze(t)
		tx, err := db.Begin()
		if err != nil {
			d.signal(t, syscall.SIGCONT)
			return false
		}
		must(t, tx.Rollback())
		return true
	})
}

// opens tells whether a process has a file of its machine open.
func (p *process) opens(t *testing.T, file string) bool {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	must(t, err)
	return slices.ContainsFunc(links, func(link string) bool {
		target, _ := os.Readlink(link) // it may be closed by now
		return strings.HasSuffix(target, file)
	})
}
