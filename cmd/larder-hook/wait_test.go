package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/internal/trouble"
)

// lock keeps everybody from writing to the queue until the test says otherwise.
func (s *site) lock(t *testing.T) (unlock func()) {
	t.Helper()
	tx, err := s.raw(t).Begin()
	must(t, err)
	t.Cleanup(func() { tx.Rollback() })
	return func() { must(t, tx.Rollback()) }
}

func TestDeadlineIsKept(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			block func(t *testing.T, s *site)
			says  string
			roots int
		}{
			"queue is written to": {func(t *testing.T, s *site) { s.lock(t) }, "add to queue: database is locked", 1},
			"queue is locked whole": {func(t *testing.T, s *site) {
				db := s.raw(t)
				db.SetMaxOpenConns(1)
				for _, statement := range []string{"pragma locking_mode = exclusive", "begin exclusive", "update jobs set due = due"} {
					_, err := db.Exec(statement)
					must(t, err)
				}
			}, "database is locked", 1},
			"derivation hangs": {func(t *testing.T, s *site) {
				s.env["DRV_PATH"] = s.Path("x.drv")
				must(t, syscall.Mkfifo(s.env["DRV_PATH"], 0o644))
			}, "gave up after 1s while reading the derivation", 1},
			"name of the queue hangs": {func(t *testing.T, s *site) {
				delete(s.env, "LARDER_QUEUE")
				must(t, syscall.Mkfifo(filepath.Join(s.Dir, "larder-hook.queue"), 0o644))
			}, "gave up after 1s while finding the queue", 0},
			"Nix hangs": {func(t *testing.T, s *site) {
				s.env["DRV_PATH"] = s.Path("none.drv")
				must(t, os.MkdirAll(filepath.Join(s.State, "db"), 0o755))
				must(t, syscall.Mkfifo(filepath.Join(s.State, "db", "schema"), 0o644))
			}, "gave up after 1s while reading the derivation", 1},
		} {
			t.Run(name, func(t *testing.T) {
				s, q := newSiteWithQueue(t)
				must(t, q.Close())
				s.env["LARDER_HOOK_DEADLINE"] = "1s" // of which it waits for the queue for more than half
				test.block(t, s)
				cmd := s.command(t)
				cmd.Args[0] = filepath.Join(s.Dir, "larder-hook")
				hooktest.WantSays(t, finish(t, cmd), test.says)
				roots := s.Roots(t)
				if len(roots) != test.roots {
					t.Errorf("roots are %q, want %d", roots, test.roots)
				}
			})
		}
	})
}

func TestDeadlineMayBeSet(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	s.env["DRV_PATH"] = s.Path("x.drv")
	must(t, syscall.Mkfifo(s.env["DRV_PATH"], 0o644))
	delete(s.env, "LARDER_HOOK_DEADLINE")
	hooktest.WantSays(t, s.run(t), "gave up after 250ms while")
	s.env["LARDER_HOOK_DEADLINE"] = "70ms"
	hooktest.WantSays(t, s.run(t), "gave up after 70ms while")
	hooktest.WantSays(t, s.run(t, "--deadline", "50ms"), "gave up after 50ms while")
	hooktest.WantSays(t, s.run(t, "--deadline", "1ns", "--wrong"), `argument "--wrong" ignored; gave up after 1ns while`)
}

func TestSignalsForOthersAreNotTheHooks(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		for _, sig := range []syscall.Signal{
			syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE,
		} {
			t.Run(sig.String(), func(t *testing.T) {
				s, _ := newSiteWithQueue(t)
				unlock := s.lock(t)
				h := s.startWaiting(t)
				for range 3 {
					must(t, h.cmd.Process.Signal(sig))
				}
				unlock()
				hooktest.WantSays(t, h.end(t), "")
				s.WantRows(t, s.Path("a"))
			})
		}
	})
}

func TestMemoryFaultsAreNoFailure(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		for _, sig := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGABRT} {
			t.Run(sig.String(), func(t *testing.T) {
				s, _ := newSiteWithQueue(t)
				s.lock(t)
				h := s.startWaiting(t)
				must(t, h.cmd.Process.Signal(sig))
				hooktest.WantSays(t, h.end(t), "ended by a memory fault")
				s.WantRoots(t, s.Path("a"))
			})
		}
	})
}

// Somebody cuts the queue's shared memory short, while the hook has it mapped.
func TestSharedMemoryMayVanish(t *testing.T) {
	s, q := newSiteWithQueue(t)
	must(t, q.Close())
	// Who holds the lock touches that memory, too, and had better not be this test.
	holder := exec.Command("/proc/self/exe")
	holder.Env = append(os.Environ(), holdVar+"="+s.File)
	stdin, err := holder.StdinPipe()
	must(t, err)
	stdout, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
		stdin.Close()
	})
	if words, err := bufio.NewReader(stdout).ReadString('\n'); words != "held\n" {
		t.Fatalf("holder says %q, %v", words, err)
	}

	h := s.startWaiting(t)
	must(t, os.Truncate(s.File+"-shm", 0))
	hooktest.WantSays(t, h.end(t), "ended by a memory fault")
	s.WantRoots(t, s.Path("a"))
}

// A running is a hook that waits for the queue.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// startWaiting starts a hook that has a minute, and returns when it has made its
// root and waits for the queue.
func (s *site) startWaiting(t *testing.T) *running {
	t.Helper()
	h := &running{cmd: s.command(t, "--deadline", "1m")}
	h.cmd.Stdout, h.cmd.Stderr = &h.stdout, &h.stderr
	must(t, h.cmd.Start())
	t.Cleanup(func() { h.cmd.Process.Kill() })
	trouble.Eventually(t, "the hook has the queue open", func() bool {
		maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", h.cmd.Process.Pid))
		return strings.Contains(string(maps), s.File+"-shm")
	})
	return h
}

// end returns what the hook says when it ends.
func (h *running) end(t *testing.T) string {
	t.Helper()
	return ended(t, h.cmd, time.Now(), &h.stdout, &h.stderr)
}
