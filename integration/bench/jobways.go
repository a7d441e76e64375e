package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// What jobs see of the workshop.
const (
	jobQueue  = "/tmp/queue/queue.db"
	jobCache  = "file:///tmp/cache"
	jobSocket = "/tmp/home/hook.sock"
	nixCache  = jobCache + "?compression=zstd"
)

// A jobWay is a way to get what a job builds into a cache.
type jobWay struct {
	Key, Label string

	// Begin, if it is not nil, does what is done once for a machine, and takes no
	// time of the job's.
	Begin func(ctx context.Context, j *job) error

	// Around, if it is not nil, is the command that has the job as its arguments.
	Around []string

	// Finish, if it is not nil, is the command that ends when the cache is complete.
	Finish []string
}

// A job is one run of the builds.
type job struct {
	*jobShop
	hook   string    // Nix's post-build-hook
	daemon *exec.Cmd // beside it
}

var noCache = jobWay{Key: "none", Label: "no cache"}

// ways returns the ways that can be measured here. The first is without a cache.
func (s *jobShop) ways() []jobWay {
	ways := []jobWay{
		noCache,
		{Key: "larder", Label: "larder, hook and daemon", Begin: beginLarder,
			Finish: []string{"/tmp/bin/larder", "drain", "--quiet"}},
		{Key: "larder-run", Label: "larder run",
			Around: []string{"/tmp/bin/larder", "run", "--quiet", "--strict", "--cache", jobCache, "--"}},
		{Key: "hook", Label: "nix copy in the hook",
			Begin: func(_ context.Context, j *job) error {
				return j.setHook("exec nix copy --to '" + nixCache + "' $OUT_PATHS")
			}},
		{Key: "queued", Label: "queued-build-hook", Begin: beginQueued,
			Finish: []string{"/tmp/bin/queued-build-hook", "wait", "--socket", jobSocket}},
		{Key: "copy", Label: "nix copy at the end",
			Finish: []string{"nix", "copy", "--to", nixCache, s.last()}},
	}
	if findQueuedBuildHook() == "" {
		status("skipped: queued-build-hook is neither in the PATH nor named by $QUEUED_BUILD_HOOK")
		ways = slices.DeleteFunc(ways, func(w jobWay) bool { return w.Key == "queued" })
	}
	return ways
}

// last is the output that refers to all others.
func (s *jobShop) last() string {
	i := slices.IndexFunc(s.outputs, func(path string) bool { return strings.HasSuffix(path, "-"+jobName) })
	return s.outputs[i]
}

// findQueuedBuildHook returns where that program is, or "".
func findQueuedBuildHook() string {
	if file := os.Getenv("QUEUED_BUILD_HOOK"); file != "" {
		return file
	}
	file, _ := exec.LookPath("queued-build-hook") // (ignored) it need not be there
	return file
}

// setHook makes a script the hook.
func (j *job) setHook(script string) error {
	j.hook = "/tmp/home/hook"
	err := os.WriteFile(filepath.Join(j.root, j.hook), []byte("#!/bin/sh\nset -euf\n"+script+"\n"), 0o755)
	if err != nil {
		return fmt.Errorf("write hook: %w", err)
	}
	return nil
}

var hookLine = regexp.MustCompile(`(?m)^post-build-hook = (.*)$`)

// beginLarder sets larder up as README.md says, and starts its daemon.
func beginLarder(ctx context.Context, j *job) error {
	said, err := j.ask(ctx, "/tmp/bin/larder", "init", "--cache", jobCache, "--queue", jobQueue)
	if err != nil {
		return err
	}
	line := hookLine.FindStringSubmatch(said)
	if line == nil {
		return fmt.Errorf("set larder up: init says %q, want a line for nix.conf with the hook", said)
	}
	j.hook = line[1]
	daemon := j.command(ctx, "/tmp/bin/larder", "daemon")
	log, err := daemon.StderrPipe()
	if err != nil {
		return fmt.Errorf("start larder's daemon: %w", err)
	}
	if err := j.start(daemon); err != nil {
		return err
	}
	// Its first line says that it is ready.
	in := bufio.NewReader(log)
	if _, err := in.ReadString('\n'); err != nil {
		return fmt.Errorf("start larder's daemon: %w", err)
	}
	go io.Copy(io.Discard, in) // until it ends
	return nil
}

// beginQueued starts queued-build-hook's daemon as systemd would, with as many
// copies at a time as there are cores.
func beginQueued(ctx context.Context, j *job) error {
	if err := j.setHook("exec /tmp/bin/queued-build-hook queue --socket " + jobSocket); err != nil {
		return err
	}
	copying := j.b.w.path("home/copy")
	if err := os.WriteFile(copying, []byte("#!/bin/sh\nset -euf\nexec nix copy --to '"+nixCache+"' $OUT_PATHS\n"), 0o755); err != nil {
		return fmt.Errorf("write hook: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: j.b.w.path("home/hook.sock")})
	if err != nil {
		return fmt.Errorf("start queued-build-hook: %w", err)
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	socket, err := listener.File()
	if err != nil {
		return fmt.Errorf("start queued-build-hook: %w", err)
	}
	defer socket.Close()
	daemon := j.command(ctx, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", "/tmp/bin/queued-build-hook", "daemon",
		"--hook", "/tmp/home/copy", "--concurrency", strconv.Itoa(runtime.NumCPU()))
	daemon.Env = append(daemon.Env, "LISTEN_FDS=1")
	daemon.ExtraFiles = []*os.File{socket}
	return j.start(daemon)
}

// start starts what runs beside the job. It has a session of its own, as what a
// machine starts has.
func (j *job) start(daemon *exec.Cmd) error {
	daemon.SysProcAttr.Setsid = true
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(daemon.Path), err)
	}
	j.daemon = daemon
	return nil
}

// end ends what runs beside the job, and returns what that used, its children
// included.
func (j *job) end() (sample, error) {
	if j.daemon == nil {
		return sample{}, nil
	}
	daemon := j.daemon
	j.daemon = nil
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return sample{}, fmt.Errorf("end %s: %w", filepath.Base(daemon.Path), err)
	}
	err := daemon.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // some have no other end than the signal
		return sample{}, fmt.Errorf("end %s: %w", filepath.Base(daemon.Path), err)
	}
	return sampleOf(daemon.ProcessState), nil
}
