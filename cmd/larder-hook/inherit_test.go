package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/trouble"
)

// A probe says everything of itself that a hook could notice.
const probe = `#!/bin/sh
exec 9< /proc/$$/status; cat <&9 | grep -v -e ^State -e ^Vm -e ^Rss -e ctxt_switches -e ^Cpus -e ^Mems -e ^SigQ
exec 9<&-
cat /proc/$$/limits
tr '\0' '\n' < /proc/$$/environ
tr '\0' '\n' < /proc/$$/cmdline
cat /proc/$$/timers /proc/$$/oom_score_adj
cd -P .; pwd
umask
for fd in /proc/$$/fd/*; do echo $fd; readlink $fd; done
for fd in 0 1 2; do grep -e flags -e pos /proc/$$/fdinfo/$fd; done
read children < /proc/$$/task/$$/children; echo children: $children
cut -d ' ' -f 4-8,19 /proc/$$/stat
trap
read line; echo input: $line
`

func TestNextHookFindsWhatNixGave(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			shell string // what Nix did before, if it is not what it does
			spoil func(t *testing.T, s *site)
		}{
			"plain": {},
			"odd":   {shell: `umask 7; cd /proc; ulimit -S -n 100; ulimit -c 0; trap '' USR1 HUP; exec 7</dev/null 5>&1`},
			"users queue": {spoil: func(t *testing.T, s *site) {
				trouble.NeedRoot(t)
				makeQueueOf(t, s, nobody)
			}},
			"deadline": {spoil: func(t *testing.T, s *site) {
				s.env["LARDER_HOOK_DEADLINE"] = "300ms"
				s.env["DRV_PATH"] = s.Path("x.drv")
				must(t, syscall.Mkfifo(s.env["DRV_PATH"], 0o644))
			}},
			"trouble": {spoil: func(t *testing.T, s *site) { s.env["LARDER_QUEUE"] = "/nowhere/queue.db" }},
		} {
			t.Run(name, func(t *testing.T) {
				s, _ := newSiteWithQueue(t)
				if test.spoil != nil {
					test.spoil(t, s)
				}
				s.env["LARDER_CACHE"] = "file:///somewhere"
				next := s.script(t, "next", probe)
				told := make(map[string]string)
				for _, hook := range []string{next, s.installed(t, "bin", "", next)} {
					cmd := s.called(t, hook)
					// The same shell, so that the parent is the same.
					cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", test.shell + "\nexec " + hook}
					reader, writer, err := os.Pipe()
					must(t, err)
					_, err = writer.WriteString("what Nix has to say\n")
					must(t, err)
					must(t, writer.Close())
					cmd.Stdin = reader
					stdout, _, exit := s.resultOf(t, cmd)
					if exit != 0 || !strings.Contains(stdout, "input: what Nix has to say") || !strings.Contains(stdout, "SigIgn:") {
						t.Fatalf("the probe exits with %d and says %q", exit, stdout)
					}
					told[hook] = normal(stdout, cmd.Process.Pid)
					must(t, reader.Close())
				}
				if diff := cmp.Diff(told[next], told[s.Dir+"/bin/larder-hook"]); diff != "" {
					t.Errorf("the next hook finds (-as Nix calls it +after larder):\n%s", diff)
				}
				if name == "users queue" {
					s.WantRows(t, s.Path("a"))
				}
			})
		}
	})
}

// normal takes out what differs between any two processes.
func normal(told string, pid int) string {
	told = strings.ReplaceAll(told, fmt.Sprint(pid), "PID")
	var lines []string
	for line := range strings.Lines(told) {
		if i := strings.Index(line, "pipe:["); i >= 0 {
			line = line[:i] + "pipe\n"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// makeQueueOf gives the queue to a user.
func makeQueueOf(t *testing.T, s *site, uid int) {
	t.Helper()
	for _, file := range []string{filepath.Dir(s.File), s.File, s.File + "-lock", s.File + "-wal", s.File + "-shm"} {
		if err := os.Chown(file, uid, uid); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}
