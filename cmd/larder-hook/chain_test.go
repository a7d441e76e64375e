package main

import (
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
	"github.com/nix-larder/larder/queue"
)

// installed lays a hook down in a directory of its own, as larder init does, and
// returns its name. Empty files are left out.
func (s *site) installed(t *testing.T, dir, queue, next string) string {
	t.Helper()
	hook := filepath.Join(s.Dir, dir, "larder-hook")
	must(t, os.MkdirAll(filepath.Dir(hook), 0o755))
	must(t, os.Symlink(program, hook))
	for suffix, text := range map[string]string{".queue": queue, ".next": next} {
		if text != "" {
			must(t, os.WriteFile(hook+suffix, []byte(text+"\n"), 0o644))
		}
	}
	return hook
}

// script writes a hook of somebody else.
func (s *site) script(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(s.Dir, name)
	must(t, os.WriteFile(file, []byte(text), 0o755))
	return file
}

// result runs a hook that need not exit with 0, and returns what Nix would see.
func (s *site) result(t *testing.T, hook string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	return s.resultOf(t, s.called(t, hook, args...))
}

// called is command with another program.
func (s *site) called(t *testing.T, hook string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := s.command(t, args...)
	cmd.Path, cmd.Args[0] = hook, hook
	return cmd
}

func (s *site) resultOf(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, exit int) {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	begin := time.Now()
	must(t, cmd.Start())
	watchdog := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	_ = cmd.Wait() // (ignored) the exit code tells
	if d := time.Since(begin); d > patience {
		t.Errorf("hook took %v", d)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

func TestNextHooksOutputAndExitCodeAreNixs(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		next := s.script(t, "next", "#!/bin/sh\necho out $# $0\necho err >&2\nexit 7\n")
		hook := s.installed(t, "bin", "", next)
		stdout, stderr, exit := s.result(t, hook, "--deadline", "10s")
		if want := "out 0 " + next + "\n"; stdout != want || stderr != "err\n" || exit != 7 {
			t.Errorf("hook prints %q and %q, exits with %d, want what the next one does", stdout, stderr, exit)
		}
		s.WantRows(t, s.Path("a"))
		s.WantRoots(t, s.Path("a"))
	})
}

// Larder's part comes first: it makes the roots.
func TestNextHookFindsTheRowInTheQueue(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	next := s.script(t, "next", "#!/bin/sh\nls $NIX_STATE_DIR/gcroots/larder/*\n")
	stdout, _, _ := s.result(t, s.installed(t, "bin", "", next))
	if !strings.Contains(stdout, filepath.Base(s.Path("a"))) {
		t.Errorf("the next hook finds no root: %q", stdout)
	}
}

func TestNothingOfLarderKeepsTheNextHook(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			spoil func(t *testing.T, s *site)
			says  string
		}{
			"no queue":   {func(t *testing.T, s *site) { must(t, os.RemoveAll(filepath.Dir(s.File))) }, "no such file"},
			"corrupt":    {func(t *testing.T, s *site) { s.garble(t) }, "the queue is corrupt"},
			"no outputs": {func(t *testing.T, s *site) { delete(s.env, "OUT_PATHS") }, "neither DRV_PATH nor OUT_PATHS"},
			"locked":     {func(t *testing.T, s *site) { s.lock(t) }, "database is locked"},
			"derivation hangs": {func(t *testing.T, s *site) {
				s.env["DRV_PATH"] = s.Path("x.drv")
				must(t, syscall.Mkfifo(s.env["DRV_PATH"], 0o644))
			}, "gave up after 1s while reading the derivation"},
			"name of the queue hangs": {func(t *testing.T, s *site) {
				delete(s.env, "LARDER_QUEUE")
				must(t, syscall.Mkfifo(filepath.Join(s.Dir, "bin", "larder-hook.queue"), 0o644))
			}, "gave up after 1s while finding the queue"},
		} {
			t.Run(name, func(t *testing.T) {
				s, q := newSiteWithQueue(t)
				must(t, q.Close())
				hook := s.installed(t, "bin", "", s.script(t, "next", "#!/bin/sh\necho next\nexit 9\n"))
				s.env["LARDER_HOOK_DEADLINE"] = "1s"
				test.spoil(t, s)
				stdout, stderr, exit := s.result(t, hook)
				hooktest.WantSays(t, stderr, test.says)
				if strings.Count(stderr, "\n") > 1 || stdout != "next\n" || exit != 9 {
					t.Errorf("hook prints %q and %q, exits with %d, want the next one's", stdout, stderr, exit)
				}
			})
		}
	})
}

// Whatever becomes of larder's part: somebody stops it, or kills it.
func TestLardersPartMayBeStoppedOrKilled(t *testing.T) {
	for sig, test := range map[syscall.Signal]struct{ deadline, says string }{
		syscall.SIGSTOP: {"3s", "killed: its deadline passed, and it did not end"},
		syscall.SIGKILL: {"1m", "ended by signal 9"},
		syscall.SIGSEGV: {"1m", "ended by a memory fault"},
	} {
		t.Run(sig.String(), func(t *testing.T) {
			s, _ := newSiteWithQueue(t)
			s.lock(t)
			hook := s.installed(t, "bin", "", s.script(t, "next", "#!/bin/sh\ngrep SigIgn: /proc/$$/status\nexit 9\n"))
			cmd := s.called(t, hook, "--deadline", test.deadline)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			must(t, cmd.Start())
			t.Cleanup(func() { cmd.Process.Kill() })
			trouble.Eventually(t, "larder's part has the queue open", func() bool {
				maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", childOf(cmd.Process.Pid)))
				return strings.Contains(string(maps), s.File+"-shm")
			})
			child := childOf(cmd.Process.Pid)
			must(t, syscall.Kill(child, sig))
			_ = cmd.Wait() // (ignored) the exit code tells
			var ignored uint64
			if _, err := fmt.Sscanf(stdout.String(), "SigIgn: %x\n", &ignored); err != nil || cmd.ProcessState.ExitCode() != 9 {
				t.Errorf("hook prints %q, exits with %d, want the next one's", &stdout, cmd.ProcessState.ExitCode())
			}
			if ignored&(1<<(syscall.SIGPIPE-1)) != 0 {
				t.Errorf("the next hook ignores the end of its pipe: %s", &stdout)
			}
			hooktest.WantSays(t, stderr.String(), test.says)
			if err := syscall.Kill(child, 0); err != syscall.ESRCH {
				t.Errorf("larder's part is still there: %v", err)
			}
		})
	}
}

// childOf returns the only child of a process, or 0.
func childOf(pid int) (child int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	_, _ = fmt.Sscan(string(text), &child) // (ignored) there is none
	return child
}

func TestImpossibleNextHookFailsTheBuild(t *testing.T) {
	for name, test := range map[string]struct {
		next string // $DIR is the site's
		exit int
		says string
	}{
		"missing":         {"$DIR/none", 127, "run $DIR/none: No such file or directory"},
		"not executable":  {"$DIR/plain", 126, "run $DIR/plain: Permission denied"},
		"a directory":     {"$DIR", 126, "run $DIR: Permission denied"},
		"relative":        {"next", 126, `larder-hook.next says "next", which is no absolute path`},
		"two lines":       {"next\nother", 126, `larder-hook.next says "next?other", which is no absolute path`},
		"empty":           {"", 126, `larder-hook.next says "", which is no absolute path`},
		"a zero":          {"/bin\x00/true", 126, `larder-hook.next says "/bin", which is no absolute path`},
		"too long":        {"/" + strings.Repeat("x", 5000), 126, `larder-hook.next says "/xxx`},
		"just short":      {"/" + strings.Repeat("x", 4094), 126, "run /xxx"},
		"another program": {"$DIR/text", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newSiteWithQueue(t)
			must(t, os.WriteFile(filepath.Join(s.Dir, "plain"), nil, 0o644))
			s.script(t, "text", "exit 0\n") // without #!, which Nix takes for a shell script
			hook := s.installed(t, "bin", "", "")
			place := func(text string) string { return strings.ReplaceAll(text, "$DIR", s.Dir) }
			must(t, os.WriteFile(hook+".next", []byte(place(test.next)+"\n"), 0o644))
			stdout, stderr, exit := s.result(t, hook)
			if exit != test.exit || stdout != "" {
				t.Errorf("hook prints %q and exits with %d, want %d", stdout, exit, test.exit)
			}
			hooktest.WantSays(t, stderr, place(test.says))
			if n := strings.Count(stderr, "\n"); n > 1 || stderr != "" && !strings.HasPrefix(stderr, "larder-hook: ") {
				t.Errorf("hook says %q, want one line", stderr)
			}
			s.WantRows(t, s.Path("a")) // all the same
		})
	}
	for name, plant := range map[string]func(file string) error{
		"directory": func(file string) error { return os.Mkdir(file, 0o755) },
		"pipe":      func(file string) error { return syscall.Mkfifo(file, 0o644) },
		"loop":      func(file string) error { return os.Symlink(file, file) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newSiteWithQueue(t)
			hook := s.installed(t, "bin", "", "")
			must(t, plant(hook+".next"))
			_, stderr, exit := s.result(t, hook)
			if exit != 126 {
				t.Errorf("hook exits with %d, want 126", exit)
			}
			hooktest.WantSays(t, stderr, "larder-hook.next")
			s.WantRows(t, s.Path("a"))
		})
	}
}

func TestHooksThatLeadBackAreCalledOnce(t *testing.T) {
	for name, hooks := range map[string][]string{
		"itself":               {"a>a"},
		"by another name":      {"a>./link/../link"},
		"two":                  {"a>b", "b>a"},
		"three":                {"a>b", "b>c", "c>a"},
		"a circle of others":   {"a>b", "b>b"},
		"two others in circle": {"a>b", "b>c", "c>b"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newSiteWithQueue(t)
			must(t, os.Symlink("a", filepath.Join(s.Dir, "link")))
			for _, hook := range hooks {
				from, to, _ := strings.Cut(hook, ">")
				s.installed(t, from, "", s.Dir+"/"+to+"/larder-hook")
			}
			stdout, stderr, exit := s.result(t, s.Dir+"/a/larder-hook")
			if stdout != "" || exit != 0 {
				t.Errorf("hook prints %q and exits with %d", stdout, exit)
			}
			hooktest.WantSays(t, stderr, "leads back to this hook")
			s.WantRows(t, s.Path("a"))
		})
	}
}

// A larder inside another one's.
func TestHookOfAnotherQueueMayBeNext(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		delete(s.env, "LARDER_QUEUE")
		inner := *s
		inner.File = filepath.Join(s.Dir, "inner", "queue.db")
		q, err := queue.Create(t.Context(), inner.File)
		must(t, err)
		defer q.Close()
		last := s.script(t, "last", "#!/bin/sh\nexit 3\n")
		outer := s.installed(t, "outer-hook", s.File, last)
		hook := s.installed(t, "inner-hook", inner.File, outer)
		stdout, stderr, exit := s.result(t, hook)
		if stdout+stderr != "" || exit != 3 {
			t.Errorf("hook prints %q and %q, exits with %d, want 3", stdout, stderr, exit)
		}
		s.WantRows(t, s.Path("a"))
		s.WantRoots(t, s.Path("a"))
		inner.WantRows(t, s.Path("a"))
		inner.WantRoots(t, s.Path("a"))
	})
}

func TestStandardFilesMayBeClosedBeforeTheNextHook(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	next := s.script(t, "next", "#!/bin/sh\nls -l /proc/$$/fd > "+s.Dir+"/fds\nexit 4\n")
	hook := s.installed(t, "bin", "", next)
	for _, redirections := range []string{"<&- >&- 2>&-", "2>&-", "<&-"} {
		cmd := s.called(t, hook)
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `exec "$0" --wrong ` + redirections, hook}
		if _, _, exit := s.resultOf(t, cmd); exit != 4 {
			t.Errorf("with %s hook exits with %d, want 4", redirections, exit)
		}
		fds, err := os.ReadFile(s.Dir + "/fds")
		must(t, err)
		if strings.Contains(string(fds), "queue") || redirections == "<&-" && strings.Contains(string(fds), " 0 ->") {
			t.Errorf("with %s the next hook has %s", redirections, fds)
		}
	}
}

// Where no process can be started, or not one of Go's: the next hook needs none.
func TestNextHookIsCalledWhereLarderCanNotRun(t *testing.T) {
	trouble.NeedRoot(t)
	for limit, says := range map[string]string{"-u 1": "start a process: ", "-v 100000": "fatal error: "} {
		t.Run(limit, func(t *testing.T) {
			s, _ := newSiteWithQueue(t)
			s.uid = 54321 // who has no other process
			hook := s.installed(t, "bin", "", s.script(t, "next", "#!/bin/sh\necho next\n"))
			cmd := s.called(t, hook)
			cmd.Path, cmd.Args = "/bin/bash", []string{"bash", "-c", "ulimit " + limit + "; exec " + hook}
			stdout, stderr, exit := s.resultOf(t, cmd)
			if !strings.Contains(stderr, says) {
				t.Errorf("hook says %q, want %q", stderr, says)
			}
			if stdout != "next\n" || exit != 0 {
				t.Errorf("hook prints %q and exits with %d", stdout, exit)
			}
		})
	}
}
