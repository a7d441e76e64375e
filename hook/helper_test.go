package hook

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/queue"
)

var background = context.Background()

const nobody = 65534

// A hook that gives up root's rights can't give them back: a test of that runs
// this binary again, as a hook that takes all from its environment.
const asHookVar = "LARDER_TEST_HOOK"

func TestMain(m *testing.M) {
	if os.Getenv(asHookVar) == "" {
		os.Exit(m.Run())
	}
	if err := Run(background, Config{Argv0: os.Args[0], Getenv: os.Getenv, Busy: time.Minute}); err != nil {
		fmt.Println(OneLine(err))
	}
	os.Exit(0)
}

// A site is where a hook is called, with what is in its environment.
type site struct {
	*hooktest.Site
	env map[string]string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Site: hooktest.New(t)}
	s.env = map[string]string{"LARDER_QUEUE": s.File}
	t.Setenv("NIX_STORE_DIR", s.Store)
	t.Setenv("NIX_STATE_DIR", s.State)
	return s
}

// newSiteWithQueue makes a site with a queue, and opens that as a worker does.
func newSiteWithQueue(t *testing.T) (*site, *queue.Queue) {
	t.Helper()
	s := newSite(t)
	return s, s.Open(t)
}

// drv writes a derivation with the given outputs, and returns its path.
func (s *site) drv(t *testing.T, name string, outputs ...string) string {
	t.Helper()
	var terms []string
	for i, path := range outputs {
		terms = append(terms, fmt.Sprintf(`("out%d","%s","","")`, i, path))
	}
	drv := s.Path(name + ".drv")
	text := fmt.Sprintf(`Derive([%s],[],[],"x86_64-linux","/bin/sh",[],[])`, strings.Join(terms, ","))
	must(t, os.WriteFile(drv, []byte(text), 0o644))
	return drv
}

func (s *site) config() Config {
	return Config{Getenv: func(name string) string { return s.env[name] }, Busy: time.Minute}
}

// run runs a hook with OUT_PATHS, and returns what it says.
func (s *site) run(t *testing.T, outPaths string) string {
	t.Helper()
	s.env["OUT_PATHS"] = outPaths
	return says(Run(t.Context(), s.config()))
}

func says(err error) string {
	if err == nil {
		return ""
	}
	return OneLine(err)
}

// runAs runs a hook in a process of its own, as a user, and returns what it says.
func (s *site) runAs(t *testing.T, uid uint32, outPaths string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // another user can't reach it by name
	cmd.Env = append(os.Environ(), asHookVar+"=1", "GORACE=atexit_sleep_ms=0", "OUT_PATHS="+outPaths)
	for name, value := range s.env {
		if name != "OUT_PATHS" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	return strings.TrimSuffix(string(out), "\n")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
