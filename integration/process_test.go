package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process runs in a machine, in the background.
type process struct {
	machine        *machine
	args           []string
	cmd            *exec.Cmd
	stdout, stderr buffer
	tty            *os.File // if not nil, where it runs in the foreground, instead of those

	done chan struct{} // closed when the process has ended and its output was read
	err  error         // of cmd.Wait; written before done is closed
}

// run runs a command, expects it to exit with 0, and returns its stdout without
// the last newline.
func (m *machine) run(t *testing.T, args ...string) string {
	t.Helper()
	p := m.start(t, args...)
	if _, _, exit := p.wait(t); exit != 0 {
		t.Fatalf("exit %d, want 0: %v", exit, p)
	}
	return strings.TrimSuffix(p.stdout.String(), "\n")
}

// lines is run, with stdout split into lines.
func (m *machine) lines(t *testing.T, args ...string) []string {
	t.Helper()
	out := m.run(t, args...)
	if out == "" {
		return nil
	}
	return strings.Split(out, "\n")
}

// tryRun runs a command that may fail. As in a shell, exit is 128+n if the
// command died from signal n.
func (m *machine) tryRun(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	return m.start(t, args...).wait(t)
}

// start runs a command in the background, with an empty stdin, in its user's
// home. It is killed when the test ends, if not before.
func (m *machine) start(t *testing.T, args ...string) *process {
	t.Helper()
	if strings.HasPrefix(filepath.Base(args[0]), "larder") {
		needBinaries(t)
	}
	p := &process{machine: m, args: args}
	m.launch(t, p)
	return p
}

// launch is start for a process of which more is said.
func (m *machine) launch(t *testing.T, p *process) {
	t.Helper()
	p.done = make(chan struct{})
	if err := m.inside(p.start); err != nil {
		t.Fatalf("start %s: %v", m, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		if p.ended() {
			return
		}
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("was still running: %v", p)
		}
	})
}

// start is called inside the machine.
func (p *process) start() error {
	path, err := lookPath(p.args[0])
	if err != nil {
		return err
	}
	p.cmd = exec.Command(path)
	p.cmd.Args = p.args
	p.cmd.Env = p.machine.environ()
	p.cmd.Dir = p.machine.user.home
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = 5 * time.Second // for children that keep the output open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true, // as in a shell; then signals for its group don't reach the test
		Credential: &syscall.Credential{Uid: p.machine.user.uid, Gid: p.machine.user.gid},
	}
	if p.tty != nil {
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = p.tty, p.tty, p.tty
		p.cmd.SysProcAttr.Setpgid, p.cmd.SysProcAttr.Setsid, p.cmd.SysProcAttr.Setctty = false, true, true
	}
	return p.cmd.Start()
}

// lookPath is exec.LookPath for the machine's PATH instead of the test's.
func lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(machinePATH) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// signal sends a signal to the process, not to its children.
func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("signal %s: %v: %v", sig, err, p)
	}
}

// kill ends the process with SIGKILL and waits until it is gone. Its children
// live on.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait waits until the process ends. It fails the test if that takes longer than
// the machine's time limit, or if the process left a child that keeps its output
// open: Nix, too, would wait for that.
func (p *process) wait(t *testing.T) (stdout, stderr string, exit int) {
	t.Helper()
	if err := p.tryWait(); err != nil {
		t.Fatal(err)
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return p.stdout.String(), p.stderr.String(), 128 + int(status.Signal())
	}
	return p.stdout.String(), p.stderr.String(), status.ExitStatus()
}

// tryWait is wait, but returns what would fail the test. A process that took too
// long has been killed by then.
func (p *process) tryWait() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.machine.timeout)
	defer cancel()
	select {
	case <-p.done:
	case <-ctx.Done():
		running := p.machine.processes()
		group := -p.cmd.Process.Pid
		syscall.Kill(group, syscall.SIGQUIT) // Go programs then print what their goroutines do
		select {
		case <-p.done:
		case <-time.After(2 * time.Second):
			syscall.Kill(group, syscall.SIGKILL)
			<-p.done
		}
		return fmt.Errorf("hangs: %v\nrunning then:\n%s", p, strings.Join(running, "\n"))
	}
	if errors.Is(p.err, exec.ErrWaitDelay) {
		return fmt.Errorf("left a child that keeps its output open: %v\nrunning now:\n%s", p, strings.Join(p.machine.processes(), "\n"))
	}
	return nil
}

// String describes the process and all it has said, for failure messages.
func (p *process) String() string {
	return fmt.Sprintf("%s (%v)\nstdout:\n%s\nstderr:\n%s", strings.Join(p.args, " "), p.machine, &p.stdout, &p.stderr)
}

// processes returns the command lines of all that runs in the machine.
func (m *machine) processes() []string {
	var lines []string
	err := m.inside(func() error {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range files {
			args, _ := os.ReadFile(file) // it may be gone by now
			if file != "/proc/1/cmdline" && len(args) > 0 {
				lines = append(lines, string(bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '})))
			}
		}
		return err
	})
	if err != nil {
		return []string{err.Error()}
	}
	return slices.Sorted(slices.Values(lines))
}

// nothingRunsOf waits until no process is left in the machine with that in its command
// line. A worker gives up its lock, which others wait for, and then ends.
func (m *machine) nothingRunsOf(t *testing.T, name string) {
	t.Helper()
	eventually(t, fmt.Sprintf("processes with %q in their command lines to end", name), func() bool {
		return !slices.ContainsFunc(m.processes(), func(line string) bool { return strings.Contains(line, name) })
	})
}

// A buffer is a bytes.Buffer that may be read while a process writes to it.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
