package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestNixRunsTheHookForEveryDerivation(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		hook, calls := recordingHook(t)
		m := newMachine(t, n, "post-build-hook = "+hook)
		m.build(t, standardGraph)

		var built []string
		for _, call := range calls() {
			built = append(built, call.drv)
			want := m.outputs(t, call.drv)
			if m.version == "2.8.0" {
				want = nil // NixOS/nix#6446
			}
			if !slices.Equal(call.outs, want) {
				t.Errorf("OUT_PATHS of %s = %q, want %q", call.drv, call.outs, want)
			}
		}
		slices.Sort(built)
		if want := m.derivations(t, standardGraph); !slices.Equal(built, want) {
			t.Errorf("hook ran for %q, want %q", built, want)
		}
	})
}

func TestNothingKeepsABuildFromTheGarbageCollector(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		m.build(t, standardGraph)
		m.collectGarbage(t)
		if left := m.validPaths(t); left != nil {
			t.Errorf("left in the store: %q", left)
		}
	})
}

func TestEveryNixSubstitutesWhatAnyCopied(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		m.build(t, standardGraph)
		outs := m.outputs(t, m.derivations(t, standardGraph)...)
		hashes := m.query(t, "--hash", outs...)
		cache := tempDir(t)
		m.run(t, append([]string{"nix", "copy", "--to", "file://" + cache + "?compression=zstd"}, outs...)...)

		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				fresh := newMachine(t, n)
				if paths := fresh.validPaths(t); paths != nil {
					t.Fatalf("a fresh machine has %q", paths)
				}
				fresh.substitute(t, cache, outs...)
				if got := fresh.query(t, "--hash", outs...); !slices.Equal(got, hashes) {
					t.Errorf("hashes are %q, want %q", got, hashes)
				}
				fresh.run(t, "nix-store", "--verify", "--check-contents")
			})
		}
	})
}

func TestDaemonBuildsForOtherUsers(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		hook, calls := recordingHook(t)
		m := newMachine(t, n, "post-build-hook = "+hook)
		m.startDaemon(t)
		for _, u := range []user{alice, bob} {
			out := m.as(u).build(t, "--expr", `import /larder/graphs/derive.nix "by-`+u.name+`" { } "id -u > $out"`)
			builder, err := os.ReadFile(m.host(out[0]))
			must(t, err)
			if !strings.HasPrefix(string(builder), "3000") {
				t.Errorf("built by user %s, want a build user", builder)
			}
		}
		if c := calls(); len(c) != 2 || c[0].uid != "0" || c[1].uid != "0" {
			t.Errorf("hook calls are %v, want two by root", c)
		}
		if _, stderr, exit := m.as(alice).tryRun(t, "sh", "-c", ": > /nix/store/x"); exit == 0 {
			t.Errorf("alice writes to the store: %s", stderr)
		}
	})
}

func TestManyDerivationsAreAsIndependentAsAsked(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	for chained, want := range map[string]int{"false": 1, "true": 5} {
		outs := m.build(t, manyGraph, "--arg", "count", "5", "--arg", "chained", chained)
		if len(outs) != 5 {
			t.Fatalf("chained %s: built %q, want 5", chained, outs)
		}
		if closure := m.query(t, "--requisites", outs[4]); len(closure) != want {
			t.Errorf("chained %s: the last one needs %q, want %d", chained, closure, want)
		}
	}
}

func TestMachinesAreApart(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		one, other := newMachine(t, n), newMachine(t, n)
		one.start(t, "sleep", "1000")
		for _, path := range []string{"/nix/x", "/etc/x", "/var/x", "/root/x"} {
			one.run(t, "sh", "-c", "echo x > "+path)
			if _, _, exit := other.tryRun(t, "test", "-e", path); exit == 0 {
				t.Errorf("another machine sees %s", path)
			}
			if _, err := os.Stat(path); err == nil {
				t.Errorf("the host sees %s", path)
			}
			if _, err := os.Stat(one.host(path)); err != nil {
				t.Error(err)
			}
		}
		if _, _, exit := one.tryRun(t, "sh", "-c", ": > /usr/x"); exit == 0 {
			t.Error("the machine changes its base")
		}
		if got := one.processes(); !slices.Equal(got, []string{"sleep 1000"}) {
			t.Errorf("running in one: %q", got)
		}
		if got := other.processes(); got != nil {
			t.Errorf("running in the other: %q", got)
		}
	})
}

func TestMachineEndsWhatRunsInIt(t *testing.T) {
	t.Parallel()
	var dir, namespace string
	t.Run("test", func(t *testing.T) {
		m := newMachine(t, nixes[0])
		m.run(t, "sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
		p := m.start(t, "sleep", "2000")
		eventually(t, "both to run", func() bool { return slices.Equal(m.processes(), []string{"sleep 1000", "sleep 2000"}) })
		var err error
		namespace, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.cmd.Process.Pid))
		must(t, err)
		dir = m.dir
	})
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	must(t, err)
	for _, link := range all {
		if ns, _ := os.Readlink(link); ns == namespace {
			t.Errorf("still running: %s", link)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the machine's files are still there")
	}
}

func TestEnvironmentAndSignals(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	if got := m.as(alice).with("A=1").with("A=2", "B=3").run(t, "sh", "-c", "echo $(id -un) $HOME $A $B $NIX_REMOTE; pwd"); got != "alice /home/alice 2 3 daemon\n/home/alice" {
		t.Errorf("alice says %q", got)
	}
	p := m.start(t, "sh", "-c", "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.01; done")
	eventually(t, "the trap", func() bool { return p.stdout.String() == "ready\n" })
	p.signal(t, syscall.SIGTERM)
	if stdout, _, exit := p.wait(t); stdout != "ready\ngot it\n" || exit != 7 {
		t.Errorf("stdout %q, exit %d", stdout, exit)
	}
	p = m.start(t, "sleep", "1000")
	p.kill(t)
	if _, _, exit := p.wait(t); exit != 128+9 {
		t.Errorf("exit %d after SIGKILL", exit)
	}
}

func TestHangingCommandIsReportedWithItsOutput(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0]).within(100 * time.Millisecond)
	p := m.start(t, "sh", "-c", "echo started; sleep 1000; exit")
	eventually(t, "output", func() bool { return p.stdout.String() != "" })
	err := p.tryWait()
	for _, want := range []string{"hangs: sh -c", "root on host with Nix", "stdout:\nstarted\n", "running then:\n", "sleep 1000"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}
}

func TestChildThatKeepsTheOutputOpenIsReported(t *testing.T) {
	t.Parallel()
	p := newMachine(t, nixes[0]).start(t, "sh", "-c", "sleep 1000 & exit 0")
	if err := p.tryWait(); err == nil || !strings.Contains(err.Error(), "running now:\nsleep 1000") {
		t.Errorf("error is %v", err)
	}
}
