package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/nixclient"
	"github.com/nix-larder/larder/internal/trouble"
)

// otherHook puts another hook into Nix's settings.
func (s *site) otherHook(t *testing.T, hook, queueFile string) {
	t.Helper()
	s.configure(t, map[string]any{"post-build-hook": hook})
	s.HookQueue = queueFile
}

func TestHookThatNixCantExecuteIsFound(t *testing.T) {
	for name, test := range map[string]struct {
		hook  func(t *testing.T, s *site) string
		what  string
		cured bool // by one line of nix.conf, since a good one was laid down
	}{
		"missing": {func(t *testing.T, s *site) string { return "/nix/store/none/larder-hook" }, "does not exist", true},
		"a directory": {func(t *testing.T, s *site) string {
			return s.dir
		}, "is a directory", true},
		"with arguments": {func(t *testing.T, s *site) string { return s.Hooks[0] + " --queue x" }, "does not exist", true},
		"relative":       {func(t *testing.T, s *site) string { return "larder-hook" }, "not an absolute path", true},
		"not executable": {func(t *testing.T, s *site) string {
			hook := filepath.Join(s.dir, "plain")
			must(t, os.WriteFile(hook, nil, 0o644))
			s.HookQueue = s.Queue.File
			return hook
		}, "not executable", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.configure(t, map[string]any{"post-build-hook": test.hook(t, s)})
			f := s.finds(t, checkHook, Problem, test.what)
			s.cures(t, checkHook, f)

			// With no hook to name instead, init lays one down.
			if name == "not executable" {
				return
			}
			s.configure(t, map[string]any{"post-build-hook": test.hook(t, s)})
			s.Hooks = nil
			if f := s.finds(t, checkHook, Problem, test.what); !strings.HasPrefix(f.Run[0], "larder init ") || !strings.HasSuffix(f.Run[0], " --queue "+s.Queue.File) {
				t.Errorf("type %q", f.Run)
			}
			// And larder run can do nothing about it.
			hook := s.Nix.String("post-build-hook")
			s.forRun(t)
			s.configure(t, map[string]any{"post-build-hook": hook})
			if f := s.finds(t, checkHook, Problem, test.what); !strings.Contains(f.Advice, "remove") {
				t.Errorf("advice is %q", f.Advice)
			}
		})
	}
}

func TestQueueWithoutItsHookIsFound(t *testing.T) {
	for name, test := range map[string]struct {
		hook func(t *testing.T, s *site)
		what string
	}{
		"none":            {func(t *testing.T, s *site) { s.otherHook(t, "", "") }, "no post-build-hook"},
		"another queue":   {func(t *testing.T, s *site) { s.otherHook(t, "/bin/sh", "/other/queue.db") }, "for another queue, /other/queue.db"},
		"somebody else's": {func(t *testing.T, s *site) { s.otherHook(t, "/bin/sh", "") }, "is not larder's"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			test.hook(t, s)
			f := s.finds(t, checkHook, Warning, test.what)
			s.Queue.Settings.Mode = hookOnly
			s.finds(t, checkHook, Problem, test.what)
			s.Queue.Settings.Mode = watchOnly
			s.isFine(t, checkHook)
			if name != "none" { // init chains it
				if f.Run[0] != "larder init --queue "+s.Queue.File {
					t.Errorf("type %q", f.Run)
				}
				return
			}
			s.Queue.Settings.Mode = ""
			s.do(t, f)
			s.HookQueue = s.Queue.File
			s.isFine(t, checkHook)
		})
	}
}

// What is called after larder's hook fails builds as that would.
func TestNextHookThatNobodyCanExecuteIsFound(t *testing.T) {
	s := newSite(t)
	s.Chain = append(s.Chain, filepath.Join(s.dir, "none"))
	f := s.finds(t, checkHook, Problem, "none does not exist, which is called after another one")
	if !strings.HasPrefix(f.Run[0], "larder init --next ''") {
		t.Errorf("type %q", f.Run)
	}
	must(t, os.WriteFile(s.Chain[1], nil, 0o755))
	s.isFine(t, checkHook)
}

// A shell keeps the hook of a larder start that has ended.
func TestHookOfAnEndedSessionIsNone(t *testing.T) {
	s := newSite(t)
	s.otherHook(t, s.Hooks[0], "")
	s.HooksEnded = true
	f := s.finds(t, checkHook, Warning, "no post-build-hook but "+s.Hooks[0])
	if len(f.NixConf) != 1 {
		t.Errorf("nothing is said about nix.conf: %+v", f)
	}
	hook := s.Hooks[0]
	s.forRun(t)
	s.otherHook(t, hook, "")
	s.isFine(t, checkHook)
}

func TestOfSeveralHooksInitNamesTheNewest(t *testing.T) {
	s := newSite(t)
	s.otherHook(t, "", "")
	s.Hooks = append(s.Hooks, "/another")
	if f := s.finds(t, checkHook, Warning, "no post-build-hook"); f.NixConf != nil || !strings.HasPrefix(f.Run[0], "larder init") {
		t.Errorf("found %s", show([]Finding{f}))
	}
}

func TestScriptThatCallsTheHookIsFine(t *testing.T) {
	s := newSite(t)
	script := filepath.Join(s.dir, "script")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\ncachix push &\nexec larder-hook\n"), 0o755))
	s.otherHook(t, script, "")
	s.isFine(t, checkHook)
	must(t, os.WriteFile(script, []byte("#!/bin/sh\ncachix push\n"), 0o755))
	s.finds(t, checkHook, Warning, "is not larder's")
}

// Nix ignores it without a word: NixOS/nix#9790.
func TestHookInTheSettingsOfAnUntrustedUserIsFound(t *testing.T) {
	s := newSite(t)
	s.Queue.Settings.Mode = watchOnly
	s.untrusted()
	s.System = asked(t, map[string]any{"post-build-hook": ""}, nil)
	f := s.finds(t, checkHook, Problem, "in your own settings")
	if !strings.Contains(f.Why, "9790") {
		t.Errorf("why is %q", f.Why)
	}
	s.cures(t, checkHook, f)

	// What the system has is what counts.
	s.System = asked(t, map[string]any{"post-build-hook": "/none"}, nil)
	s.configure(t, map[string]any{"post-build-hook": ""})
	s.System = asked(t, map[string]any{"post-build-hook": "/none"}, nil)
	s.finds(t, checkHook, Problem, "/none does not exist")
}

func TestDaemonThatHasNotReadItsSettingsIsFound(t *testing.T) {
	s := newSite(t)
	s.Nix.Access = nixclient.Daemon
	s.StaleDaemon = 77
	f := s.finds(t, checkHook, Warning, "process 77")
	if !strings.Contains(strings.Join(f.Run, "")+f.Advice, "start") {
		t.Errorf("nobody says to restart it: %s", show([]Finding{f}))
	}
}

// A daemon that can't be seen may see anything.
func TestDaemonBehindAWallIsFound(t *testing.T) {
	s := newSite(t)
	s.Nix.Access, s.Nix.Apart = nixclient.Daemon, true
	s.finds(t, checkHook, Warning, "and not see the hook")
	if f := s.finds(t, checkSubstituter, Warning, "and not see the cache"); !strings.Contains(f.Advice, "mount it") {
		t.Errorf("advice is %q", f.Advice)
	}
	// Its own process sees what we see, through whatever namespace.
	trouble.NeedRoot(t)
	s.Nix.DaemonPID = os.Getpid()
	s.isFine(t, checkHook)
	s.isFine(t, checkSubstituter)
}
