package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A contender is a program that copies closures into a cache directory.
type contender struct {
	Key     string // one of allContenders
	Version string
	Label   string // its name in tables

	// copy returns the command that copies the corpus into the cache called name in
	// the workshop.
	copy func(ctx context.Context, name string, c *corpus) *exec.Cmd

	// files are those in a cache of which there is one for each path.
	files string
}

// allContenders are their keys, in the order in which they take turns.
var allContenders = []string{"larder", "larder-1", "floor", "nix-host", "nix-sid", "nix-sid-parallel"}

// findContenders returns those that cfg names, larder first. If it names none,
// a Nix that is not there is skipped, with the reason in skipped.
func findContenders(ctx context.Context, cfg config, w *workshop) (found []contender, skipped []string, err error) {
	keys := cfg.Contenders
	if keys == nil {
		keys = allContenders
	}
	for _, key := range keys {
		var c contender
		switch key {
		case "larder":
			c, err = findLarder(cfg, w, key, "larder push")
		case "larder-1":
			c, err = findLarder(cfg, w, key, "larder push, 1 worker", "--workers", "1")
		case "floor":
			c = findFloor(w)
		case "nix-host":
			c, err = findHostNix(ctx, w)
		case "nix-sid":
			c, err = findSidNix(ctx, cfg, w, key, "")
		case "nix-sid-parallel":
			c, err = findSidNix(ctx, cfg, w, key, "&parallel-compression=true")
			c.Label += " parallel"
		}
		if errors.Is(err, errNotUnpacked) && cfg.Contenders == nil {
			if !slices.Contains(skipped, err.Error()) {
				skipped = append(skipped, err.Error())
			}
			err = nil
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		found = append(found, c)
	}
	return found, skipped, nil
}

func findLarder(cfg config, w *workshop, key, label string, flags ...string) (contender, error) {
	bin := filepath.Join(cfg.Bin, "larder")
	for _, file := range []string{bin, bin + "-hook"} {
		if _, err := os.Stat(file); err != nil {
			return contender{}, hintError{fmt.Errorf("find larder: %w", err), "run `make build` first, or measure Nix alone: --contenders nix-host,nix-sid"}
		}
	}
	return contender{
		Key:   key,
		Label: label,
		files: "*.narinfo",
		copy: func(ctx context.Context, name string, c *corpus) *exec.Cmd {
			args := append([]string{"push", "--cache", "file://" + w.path(name)}, flags...)
			cmd := exec.CommandContext(ctx, bin, append(args, c.Root)...)
			cmd.Env = env(w.dir)
			return cmd
		},
	}, nil
}

func findHostNix(ctx context.Context, w *workshop) (contender, error) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		return contender{}, fmt.Errorf("find host's Nix: %w", err)
	}
	return nixContender(ctx, "nix-host", "", func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, nix, args...)
		cmd.Env = env(w.dir)
		return cmd
	}, w.dir)
}

var errNotUnpacked = errors.New("it is not unpacked")

func findSidNix(ctx context.Context, cfg config, w *workshop, key, options string) (contender, error) {
	root := filepath.Join(cfg.Roots, "sid")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/nix")); err != nil {
		return contender{}, hintError{fmt.Errorf("find Nix of Debian sid in %s: %w", root, errNotUnpacked), "run integration/nix-roots, or name where it is: LARDER_NIX_ROOTS"}
	}
	if err := w.enterRoot(root); err != nil {
		return contender{}, err
	}
	return nixContender(ctx, key, options, func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "/usr/bin/nix", args...)
		cmd.Dir = "/"
		cmd.Env = env("/tmp")
		// Chrooting in the child costs no process more than the others have.
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		return cmd
	}, "/tmp")
}

// nixContender makes a contender of a Nix that sees the workshop as dir. Options
// are more parameters of the cache's URL.
func nixContender(ctx context.Context, key, options string, nix func(ctx context.Context, args ...string) *exec.Cmd, dir string) (contender, error) {
	out, err := nix(ctx, "--version").Output()
	if err != nil {
		return contender{}, fmt.Errorf("ask %s for its version: %w", key, err)
	}
	words := strings.Fields(string(out)) // nix (Nix) 2.8.0
	if len(words) == 0 {
		return contender{}, fmt.Errorf("ask %s for its version: it says nothing", key)
	}
	version := words[len(words)-1]
	return contender{
		Key:     key,
		Version: version,
		Label:   "nix " + version,
		files:   "*.narinfo",
		copy: func(ctx context.Context, name string, c *corpus) *exec.Cmd {
			return nix(ctx, "copy", "--to", "file://"+filepath.Join(dir, name)+"?compression=zstd"+options, c.Root)
		},
	}, nil
}

// A sample is what one process used, its children included.
type sample struct {
	Wall time.Duration
	CPU  time.Duration // user and system
	RSS  int64         // peak resident bytes of the largest one
}

// measure runs cmd to its end. What it prints is kept for the error message; it
// goes to a file, because reading a pipe would cost us time beside the child.
func measure(cmd *exec.Cmd, w *workshop) (sample, error) {
	log, err := os.Create(w.path("output"))
	if err != nil {
		return sample{}, fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	start := time.Now()
	err = cmd.Run()
	wall := time.Since(start)
	if err != nil {
		return sample{}, fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), err, lastLine(said(log)))
	}
	s := sampleOf(cmd.ProcessState)
	s.Wall = wall
	return s, nil
}

// said returns what was written to log so far.
func said(log *os.File) string {
	data, _ := io.ReadAll(io.NewSectionReader(log, 0, 1<<20)) // only for messages (ignored)
	return string(data)
}

func sampleOf(p *os.ProcessState) sample {
	s := sample{CPU: p.UserTime() + p.SystemTime()}
	if u, ok := p.SysUsage().(*syscall.Rusage); ok {
		s.RSS = u.Maxrss * 1024
	}
	return s
}

// median returns the middle value, or the mean of the two middle ones.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
