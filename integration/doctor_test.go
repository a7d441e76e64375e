package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A finding is what larder doctor --json prints of one.
type finding struct {
	Severity string   `json:"severity"`
	Check    string   `json:"check"`
	What     string   `json:"what"`
	Why      string   `json:"why"`
	NixConf  []string `json:"nix_conf"`
	Run      []string `json:"run"`
	Advice   string   `json:"advice"`
}

// doctor returns what larder doctor finds that is not fine. What depends on the disk
// that tests happen to run on is left out.
func (m *machine) doctor(t *testing.T, args ...string) []finding {
	t.Helper()
	stdout, stderr, exit := m.tryRun(t, append([]string{"larder", "doctor", "--json"}, args...)...)
	var report struct{ Findings []finding }
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || stderr != "" {
		t.Fatalf("%v: larder doctor: %v\nstdout: %s\nstderr: %s", m, err, stdout, stderr)
	}
	var found []finding
	want := 0
	for _, f := range report.Findings {
		if f.Severity == "problem" {
			want = 5
		}
		if f.Severity != "fine" && f.Check != "disk" && f.Check != "source" {
			found = append(found, f)
		}
	}
	if exit != want {
		t.Errorf("%v: larder doctor: exit %d, want %d: %+v", m, exit, want, report.Findings)
	}
	return found
}

// finds fails the test unless larder doctor finds one thing, of that severity and with
// these words in it.
func (m *machine) finds(t *testing.T, severity, what string, args ...string) finding {
	t.Helper()
	found := m.doctor(t, args...)
	if len(found) != 1 || found[0].Severity != severity || !strings.Contains(found[0].What, what) {
		t.Fatalf("%v: found %+v, want a %s with %q in it", m, found, severity, what)
	}
	return found[0]
}

// isFine fails the test if larder doctor finds something wrong.
func (m *machine) isFine(t *testing.T, args ...string) {
	t.Helper()
	if found := m.doctor(t, args...); len(found) > 0 {
		t.Errorf("%v: found %+v, want nothing", m, found)
	}
}

// does does what a finding says: first the lines of nix.conf, then the commands. Machines
// have no systemd, which would restart the daemon.
func (m *machine) does(t *testing.T, f finding) {
	t.Helper()
	if len(f.NixConf)+len(f.Run) == 0 {
		t.Fatalf("there is nothing to type in %+v", f)
	}
	m.configure(t, f.NixConf...)
	m.past(t)
	for _, command := range f.Run {
		m.run(t, "sh", "-euc", command)
	}
}

// past makes nix.conf a file that was changed a while ago.
func (m *machine) past(t *testing.T) {
	t.Helper()
	ago := time.Now().Add(-10 * time.Second)
	must(t, os.Chtimes(m.host("/etc/nix/nix.conf"), ago, ago))
}

func TestDoctorFindsNothingWrongWithWhatInitMade(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.isFine(t)
		l.buildOne(t, "built")
		l.drain(t)
		l.isFine(t)
		l.past(t)
		l.startDaemon(t)
		l.with("NIX_REMOTE=daemon").isFine(t)
		if out := l.run(t, "larder", "doctor"); !strings.Contains(out, "feeds the queue") || !strings.Contains(out, "Nix "+l.version) {
			t.Errorf("prints %s", out)
		}
		l.isFine(t, "--queue", l.queue, "--cache", l.cache)
	})
}

func TestDoctorFindsNothingWrongWithWhatRunNeeds(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		cache := filepath.Join(tempDir(t), "cache")
		m.isFine(t, "--cache", cache)
		m.run(t, "larder", "run", "--cache", cache, "--", "nix-build", "--no-out-link", "--expr", oneExpr("built"))
		m.isFine(t, "--cache", cache)
		if left := files(t, cache); strings.Contains(strings.Join(left, "\n"), "doctor") {
			t.Errorf("left in the cache: %q", left)
		}
	})
}

func TestDoctorSaysWhatToDoWhereNothingIs(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	if f := m.finds(t, "problem", "neither a queue nor a cache"); !strings.Contains(f.Advice, "larder init") {
		t.Errorf("advice is %q", f.Advice)
	}
	if out, _, exit := m.tryRun(t, "larder", "doctor", "--queue", "/root/none.db", "--cache", "/root/cache"); exit != 5 ||
		!strings.HasPrefix(out, "PROBLEM  queue") || !strings.Contains(out, "type:      larder init --queue /root/none.db --cache /root/cache\n") {
		t.Errorf("exit %d: %s", exit, out)
	}
	refusal{2, "unexpected argument", "--help"}.of(t, m, "larder", "doctor", "x")
	refusal{2, "not on this machine", "file:///"}.of(t, m, "larder", "doctor", "--cache", "s3://x")
	found := m.with("PATH=/larder/bin").doctor(t, "--cache", "/root/cache")
	if len(found) != 1 || !strings.Contains(found[0].What, "no nix in the PATH") {
		t.Errorf("without Nix found %+v", found)
	}
}

// A collector took the hook: somebody has removed its root.
func TestDoctorHasALostHookLaidDownAgain(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		must(t, os.RemoveAll(l.host("/nix/var/nix/gcroots/larder/hooks")))
		l.collectGarbage(t)
		if _, _, exit := l.tryRun(t, "nix-build", "--no-out-link", "--expr", oneExpr("fails")); exit == 0 {
			t.Error("Nix builds without its hook: that is not as bad as larder doctor says")
		}
		f := l.finds(t, "problem", "does not exist")
		l.does(t, f)
		l.isFine(t)
		l.buildOne(t, "built")

		// Who types less gets the same, and not one that calls the one that is gone.
		l.drain(t)
		must(t, os.RemoveAll(l.host("/nix/var/nix/gcroots/larder/hooks")))
		l.collectGarbage(t)
		l.run(t, "larder", "init")
		l.isFine(t)
	})
}

func TestDoctorFindsAMissingHook(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.unconfigure(t)
		found := l.doctor(t)
		if len(found) != 2 || found[0].Check != "hook" || found[1].Check != "substituter" {
			t.Fatalf("found %+v, want hook and substituter", found)
		}
		for i, f := range found {
			l.does(t, f)
			if f.NixConf[0] != l.conf[i] {
				t.Errorf("nix.conf %q, want what init says: %q", f.NixConf, l.conf[i])
			}
		}
		l.isFine(t)
		path := l.buildOne(t, "built")
		equalPaths(t, "queue", l.queued(t), []string{path})
	})
}

// NixOS/nix#9790: what is there is ignored, and with old versions nobody says so.
func TestDoctorFindsWhatTheDaemonIgnoresOfAUser(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		l.unconfigure(t)
		nixDaemon := l.startDaemon(t)
		a := l.as(alice)
		dir := l.host("/home/alice/.config/nix")
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "nix.conf"), []byte(strings.Join(l.conf, "\n")+"\n"), 0o644))
		var mended []string
		for _, f := range a.doctor(t, "--cache", l.cache) {
			if strings.Contains(f.What, "in your own settings") {
				if f.Severity != "problem" {
					t.Errorf("found %+v", f)
				}
				mended = append(mended, f.NixConf...)
			}
		}
		equalPaths(t, "lines for nix.conf", slices.Sorted(slices.Values(mended)), slices.Sorted(slices.Values(l.conf)))
		a.buildOne(t, "not-kept")
		equalPaths(t, "queue", l.queued(t), nil)

		l.configure(t, mended...)
		l.past(t)
		l.restartDaemon(t, nixDaemon)
		for _, f := range a.doctor(t, "--cache", l.cache) {
			if f.Check != "queue" { // which is root's, and not for alice to look into
				t.Errorf("still found %+v", f)
			}
		}
		path := a.buildOne(t, "kept")
		equalPaths(t, "queue", l.queued(t), []string{path})
	})
}

func TestDoctorTellsTheAdministratorWhatAUserNeedsForRun(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		nixDaemon := m.startDaemon(t)
		a := m.as(alice)
		cache := "/home/alice/cache"
		found := a.doctor(t, "--cache", cache)
		if len(found) != 2 || found[0].Check != "substituter" || found[1].Check != "trust" {
			t.Fatalf("found %+v", found)
		}
		// That the cache may be used is enough.
		m.configure(t, found[0].NixConf...)
		m.past(t)
		nixDaemon = m.restartDaemon(t, nixDaemon)
		a.finds(t, "warning", "does not trust you", "--cache", cache)
		m.configure(t, found[1].NixConf...)
		m.past(t)
		m.restartDaemon(t, nixDaemon)
		a.isFine(t, "--cache", cache)
		_, stderr, exit := a.tryRun(t, "larder", "run", "--cache", cache, "--", "nix-build", "--no-out-link", "--expr", oneExpr("built"))
		if exit != 0 || strings.Contains(stderr, "trust") || strings.Contains(stderr, "container") {
			t.Errorf("larder run: exit %d: %s", exit, stderr)
		}
	})
}

func TestDoctorFindsADaemonThatHasNotReadNixConf(t *testing.T) {
	t.Parallel()
	l, nixDaemon := daemonLarder(t, nixes[0])
	later := time.Now().Add(time.Hour)
	must(t, os.Chtimes(l.host("/etc/nix/nix.conf"), later, later))
	l.finds(t, "warning", "started before nix.conf was last changed")
	l.past(t)
	l.restartDaemon(t, nixDaemon)
	l.isFine(t)
}

func TestDoctorLooksThroughTheDaemonsEyes(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		other := tempDir(t)
		l.past(t)
		l.elsewhere(t, "/tmp", "/var/lib").startDaemon(t)
		l.past(t)
		r := l.with("NIX_REMOTE=daemon")
		found := r.doctor(t)
		if len(found) != 2 || !strings.Contains(found[0].What, "does not see the cache") || !strings.Contains(found[1].What, "does not see the queue's directory") {
			t.Fatalf("found %+v", found)
		}
		l.does(t, found[1])
		r.finds(t, "problem", "does not see the cache")

		// It does see the hook, which is in the Nix store; elsewhere it would not.
		elsewhere := filepath.Join(filepath.Dir(l.queue), "larder-hook")
		l.run(t, "sh", "-euc", fmt.Sprintf("cp %s %s; cp %[1]s.queue %[2]s.queue", l.hook(t), elsewhere))
		l.configure(t, "post-build-hook = "+elsewhere)
		l.past(t)
		found = r.doctor(t, "--cache", other, "--queue", l.queue)
		if !strings.Contains(fmt.Sprint(found), "does not see the hook "+elsewhere) {
			t.Errorf("found %+v", found)
		}
	})
}

func TestDoctorHasAQueueOfSudoGivenBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[1])
	m.startDaemon(t)
	l := &larder{machine: m.as(alice), cache: m.host("/home/alice/cache"), queue: "/home/alice/.local/state/larder/queue.db"}
	m.run(t, "larder", "init", "--queue", l.queue, "--cache", "/home/alice/cache", "--watch-only")
	m.configure(t, "extra-substituters = file:///home/alice/cache?trusted=true")
	m.past(t)
	f := l.finds(t, "problem", "belongs to root")
	if !strings.HasPrefix(f.Run[0], "sudo chown") {
		t.Errorf("type %q", f.Run)
	}
	for _, command := range f.Run {
		m.run(t, "sh", "-euc", strings.TrimPrefix(command, "sudo "))
	}
	m.run(t, "chown", "-R", "alice:", "/home/alice/cache")
	found := l.doctor(t)
	for _, f := range found {
		if f.Check == "queue" {
			t.Errorf("still found %+v", f)
		}
	}
	path := m.buildOne(t, "built")
	l.hold(t)
	l.drain(t)
	equalPaths(t, "cache", l.cached(t), []string{path})
}

func TestDoctorHasAStrangerGoWhoKeepsTheWorkerOut(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	p := l.as(bob).start(t, "flock", "--no-fork", l.queue+"-lock", "sh", "-c", "echo held; exec sleep 1000")
	eventually(t, "the lock", func() bool { return p.stdout.String() == "held\n" })
	l.does(t, l.finds(t, "problem", "(sleep) of user 1002 holds the queue's lock"))
	p.wait(t)
	l.isFine(t)
	worker := l.startWorker(t)
	l.isFine(t)
	worker.signal(t, syscall.SIGTERM)
	worker.wait(t)
}

func TestDoctorFollowsTheChainOfHooks(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		other, _ := recordingHook(t)
		m := newMachine(t, n, "post-build-hook = "+other).with(patient)
		l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
		m.run(t, "larder", "init", "--cache", l.cache, "--next", "")
		m.configure(t, "extra-substituters = file://"+l.cache+"?trusted=true")
		f := m.finds(t, "warning", "is not larder's")
		l.conf = []string{m.lines(t, "sh", "-euc", f.Run[0])[0]}
		m.configure(t, l.conf...)
		m.isFine(t)

		must(t, os.Remove(other))
		if _, _, exit := m.tryRun(t, "nix-build", "--no-out-link", "--expr", oneExpr("fails")); exit == 0 {
			t.Error("Nix builds without the next hook: that is not as bad as larder doctor says")
		}
		l.drain(t)
		f = m.finds(t, "problem", "which is called after another one")
		m.configure(t, m.lines(t, "sh", "-euc", f.Run[0])[0])
		m.isFine(t)
		m.buildOne(t, "built")
	})
}

func TestDoctorFindsAKeyThatNixDoesNotKnow(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--generate-key", "/root/key", "--key-name", "larder-1")
		l.isFine(t)
		path := l.buildOne(t, "built")
		l.drain(t)
		l.isFine(t)
		if len(l.conf) != 3 {
			t.Fatalf("init prints %q", l.conf)
		}
		all := l.conf
		l.conf = l.conf[2:]
		l.unconfigure(t)
		l.conf = all
		f := l.finds(t, "problem", "does not trust the cache's key larder-1")
		l.collectGarbage(t)
		realise := []string{"nix-store", "--realise", "--max-jobs", "0", path}
		if _, _, exit := l.tryRun(t, realise...); exit == 0 {
			t.Error("Nix substitutes what it does not trust: that is not as bad as larder doctor says")
		}
		l.does(t, f)
		l.isFine(t)
		l.run(t, realise...)
	})
}
