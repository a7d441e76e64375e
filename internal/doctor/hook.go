package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hookOnly and watchOnly are modes of a queue.
const (
	hookOnly  = "hook-only"
	watchOnly = "watch-only"
)

// checkHook looks for the hook: whether Nix can execute it, and whether it feeds this
// queue.
func checkHook(_ context.Context, s *Setup) []Finding {
	if s.Nix == nil {
		return nil
	}
	var findings []Finding
	hook := s.Nix.String("post-build-hook")
	if s.daemon() && !s.Nix.Trusted && s.System != nil {
		if system := s.System.String("post-build-hook"); system != hook {
			if hook != "" {
				findings = append(findings, s.untrustedSetting("post-build-hook", hook))
			}
			hook = system
		}
	}
	if hook != "" {
		if f, bad := s.hookFile(hook); bad {
			return append(findings, f)
		}
	}
	for _, next := range s.Chain[min(1, len(s.Chain)):] {
		if f, bad := s.hookFile(next); bad {
			return append(findings, s.nextHook(f, next))
		}
	}
	if s.StaleDaemon != 0 {
		findings = append(findings, s.onRestart(Finding{
			Severity: Warning,
			What:     fmt.Sprintf("nix-daemon (process %d) started before nix.conf was last changed, or serves a build that did", s.StaleDaemon),
			Why:      "it has the settings from before: hook and substituters may be others than those below",
		}))
	}
	switch {
	case s.Queue != nil && s.Queue.Err == nil:
		return append(findings, s.hookOfQueue(hook)...)
	case s.Queue != nil:
		return findings // that is what is told of
	case hook != "" && s.HooksEnded:
		return append(findings, fine("the hook %s does nothing, since its larder start has ended; larder run sets its own", hook)...)
	case hook != "":
		return append(findings, fine("larder run calls the hook %s after its own", hook)...)
	}
	return append(findings, fine("larder run sets its own hook")...)
}

// hookFile looks for what keeps Nix from executing the hook: then every build fails.
func (s *Setup) hookFile(hook string) (f Finding, bad bool) {
	const fails = "Nix fails every build whose post-build-hook it can't execute"
	f = Finding{Severity: Problem, Why: fails}
	info, err := os.Stat(hook)
	switch {
	case !filepath.IsAbs(hook):
		f.What = fmt.Sprintf("the hook %q is not an absolute path", hook)
		f.Why = "which program that is depends on the PATH of whoever builds, and the hook does not find its queue"
		return s.layDown(f), true
	case errors.Is(err, fs.ErrPermission):
		f.What = fmt.Sprintf("the hook %s can't be looked at: %v", hook, err)
		if s.daemon() {
			f.Severity, f.Run = Warning, []string{"sudo larder doctor"}
			f.Why = "nix-daemon runs it as root, who may"
			return f, true
		}
		return s.layDown(f), true
	case err != nil:
		f.What = fmt.Sprintf("the hook %s does not exist", hook)
		if strings.Contains(hook, " ") {
			f.Why += "; it takes the whole line for the program's name, without arguments"
		}
		return s.layDown(f, "--next", "''"), true
	case info.IsDir():
		f.What = fmt.Sprintf("the hook %s is a directory", hook)
		return s.layDown(f, "--next", "''"), true
	case info.Mode()&0o111 == 0, !s.daemon() && errors.Is(unix.Access(hook, unix.X_OK), unix.EACCES) && !noexec(hook):
		f.What = fmt.Sprintf("the hook %s is not executable for %s", hook, s.builderName())
		if inStore(s.Dirs.Store, hook) {
			return s.layDown(f), true
		}
		f.Run = []string{"chmod a+rx " + quote(hook)}
		f.Advice = "and a+x for the directories above it"
		return f, true
	case noexec(hook):
		f.What = fmt.Sprintf("the hook %s is on a file system that is mounted noexec", hook)
		return s.layDown(f), true
	}
	if sees, known := s.daemonSees(hook); !sees && !inStore(s.Dirs.Store, hook) {
		f.What = fmt.Sprintf("nix-daemon, which is in another container, does not see the hook %s", hook)
		if !known {
			f.Severity = Warning
			f.What = fmt.Sprintf("nix-daemon may be in another container, and not see the hook %s", hook)
		}
		return s.layDown(f), true
	}
	if s.daemon() && info.Mode()&0o005 != 0o005 && remoteName(filepath.Dir(hook)) != "" {
		f.Severity = Warning
		f.What = fmt.Sprintf("the hook %s is on %s, and not for everybody to read", hook, remoteName(filepath.Dir(hook)))
		f.Why = "such a server often takes root for nobody, and " + fails
		f.Run = []string{"chmod a+rx " + quote(hook)}
		return f, true
	}
	return f, false
}

// builderName says as whom the hook runs.
func (s *Setup) builderName() string {
	if s.daemon() {
		return "root"
	}
	return userName()
}

// layDown completes a finding that a hook that can be executed is the end of. flags are
// for the larder init that lays it down, if none was.
func (s *Setup) layDown(f Finding, flags ...string) Finding {
	switch {
	case s.Queue == nil:
		f.Advice = "remove that post-build-hook from nix.conf, or put the program there"
		return s.onRestart(f)
	case len(s.Hooks) == 1: // of several the newest may be meant
		return s.onNixConf(f, "post-build-hook = "+s.Hooks[0])
	}
	return s.layDownAnew(f, flags...)
}

// layDownAnew completes a finding that another hook is the end of.
func (s *Setup) layDownAnew(f Finding, flags ...string) Finding {
	f.NixConf = nil
	f.Run = []string{s.init(flags...)}
	f.Advice = "put the line post-build-hook = … that it prints into nix.conf"
	return s.onRestart(f)
}

// nextHook says that a hook that is called after another one can't be.
func (s *Setup) nextHook(f Finding, next string) Finding {
	f.What += ", which is called after another one"
	f.Why = "the hook before it takes its failure for its own, and Nix fails every build"
	if s.Queue == nil {
		return f
	}
	return s.layDownAnew(f, "--next", "''")
}

// inStore tells whether a file is in the Nix store.
func inStore(storeDir, file string) bool { return strings.HasPrefix(file, storeDir+"/") }

// hookOfQueue looks whether a hook that can be executed feeds the queue.
func (s *Setup) hookOfQueue(hook string) []Finding {
	f := Finding{
		Severity: Warning,
		Why:      "what is built is only found by the watcher: later, and if the garbage collector was not faster",
	}
	if s.Queue.Settings.Mode == hookOnly {
		f.Severity = Problem
		f.Why = "nothing comes into this queue, since it is fed by the hook alone (--hook-only)"
	}
	switch {
	case s.Queue.Settings.Mode == watchOnly:
		return fine("the queue does without a hook (--watch-only)")
	case hook != "" && s.HookQueue == s.Queue.File:
		return s.queueSeen(hook, f)
	case hook == "" || s.HooksEnded:
		f.What = "Nix has no post-build-hook"
		if hook != "" {
			f.What += fmt.Sprintf(" but %s, which does nothing, since its larder start has ended; a new shell does not have it", hook)
		}
		return one(s.layDown(f))
	case s.HookQueue != "":
		f.What = fmt.Sprintf("the hook %s is for another queue, %s", hook, s.HookQueue)
		return one(s.layDownAnew(f))
	case callsLarder(hook):
		return fine("the hook %s is a script that calls larder-hook", hook)
	}
	f.What = fmt.Sprintf("the hook %s is not larder's", hook)
	f = s.layDownAnew(f)
	f.Advice += "; larder's hook then calls that one after itself"
	return one(f)
}

// queueSeen looks whether a hook that is for the queue can reach it where it runs.
func (s *Setup) queueSeen(hook string, f Finding) []Finding {
	dir := filepath.Dir(s.Queue.File)
	sees, known := s.daemonSees(dir)
	if sees {
		return fine("the hook %s feeds the queue", hook)
	}
	f.What = fmt.Sprintf("nix-daemon, which is in another container, does not see the queue's directory %s", dir)
	if !known {
		f.Severity = Warning
		f.What = fmt.Sprintf("nix-daemon may be in another container, and not see the queue's directory %s", dir)
	}
	f.Why += "; the hook leaves roots, which only a worker here can turn into jobs"
	f.Run = []string{s.init("--watch-only")}
	f.Advice = "or mount that directory in the daemon's container, too, at the same place"
	return one(f)
}

// callsLarder tells whether a hook looks like a script that calls ours.
func callsLarder(hook string) bool {
	f, err := os.Open(hook)
	if err != nil {
		return false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return err == nil && bytes.HasPrefix(text, []byte("#!")) && bytes.Contains(text, []byte("larder-hook"))
}

// Executable tells whether Nix could execute a file here.
func Executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
