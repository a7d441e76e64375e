package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// jobName is the name of what refers to all that a job builds.
const jobName = "larder-bench-job"

// A jobShop is where the jobs of the rows job-idle and job-busy run: in the root of
// Debian sid's Nix, since hooks of older ones are not told of all that was built.
//
//	below the root
//	    /nix    the store, in memory and new for each job
//	    /mnt    the corpus's store, to take files from
//	    /tmp    the workshop
//	    /var/lib    empty
type jobShop struct {
	b       *bench
	root    string
	version string   // of Nix
	drv     string   // that all others are inputs of
	outputs []string // of all of them
	bytes   int64    // of the NARs that their contents come from
}

// jobBuilds is how many derivations a job has, beside the one that needs all others.
func (b *bench) jobBuilds() int {
	if b.Quick {
		return 40
	}
	return 200
}

// openJobShop makes the store that all jobs begin with: it has derivations, and
// nothing that was built.
func openJobShop(ctx context.Context, b *bench) (*jobShop, error) {
	s := &jobShop{b: b, root: filepath.Join(b.Roots, "sid")}
	if err := b.w.enterRoot(s.root); err != nil {
		return nil, err
	}
	if err := s.mount(); err != nil {
		return nil, err
	}
	for _, file := range []string{filepath.Join(b.Bin, "larder"), filepath.Join(b.Bin, "larder-hook"), findQueuedBuildHook()} {
		if err := copyProgram(file, b.w.path("bin")); err != nil {
			return nil, err
		}
	}
	out, err := s.command(ctx, "nix", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask Nix for its version: %w", err)
	}
	if words := strings.Fields(string(out)); len(words) > 0 {
		s.version = words[len(words)-1]
	}

	chosen := s.choose()
	if err := s.writeExpression(chosen); err != nil {
		return nil, err
	}
	if err := s.mountStore(); err != nil {
		return nil, err
	}
	defer s.unmountStore()
	if s.drv, err = s.ask(ctx, "nix-instantiate", "/tmp/job.nix"); err != nil {
		return nil, err
	}
	all, err := s.ask(ctx, "nix-store", "--query", "--requisites", s.drv)
	if err != nil {
		return nil, err
	}
	drvs := slices.DeleteFunc(strings.Fields(all), func(path string) bool { return !strings.HasSuffix(path, ".drv") })
	outputs, err := s.ask(ctx, "nix-store", append([]string{"--query", "--outputs"}, drvs...)...)
	if err != nil {
		return nil, err
	}
	s.outputs = strings.Fields(outputs)
	if len(s.outputs) != len(chosen)+1 {
		return nil, fmt.Errorf("make store of the jobs: it has derivations with %d outputs, want %d", len(s.outputs), len(chosen)+1)
	}
	return s, copyTree(ctx, filepath.Join(s.root, "nix"), b.w.path("template"))
}

func (s *jobShop) mount() error {
	corpus, state := filepath.Join(s.root, "mnt"), filepath.Join(s.root, "var/lib")
	for _, dir := range []string{corpus, state, s.b.w.path("state")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
	}
	if err := bind("/nix", corpus); err != nil {
		return err
	}
	if err := syscall.Mount("", corpus, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s read-only: %w", corpus, err)
	}
	return bind(s.b.w.path("state"), state)
}

// choose takes the largest paths of the corpus, but none so large that the job would
// be about that one.
func (s *jobShop) choose() []entry {
	limit := s.b.corpus.narBytes() / 50
	entries := slices.DeleteFunc(slices.Clone(s.b.corpus.Entries), func(e entry) bool {
		return e.Path == s.b.corpus.Root || e.NarSize > limit
	})
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.NarSize, a.NarSize), cmp.Compare(a.Path, b.Path))
	})
	entries = entries[:min(len(entries), s.b.jobBuilds())]
	for _, e := range entries {
		s.bytes += e.NarSize
	}
	return entries
}

// jobPrologue is the start of job.nix. What a builder does is copy real files, and
// compress them with zlib, which takes one core for about as long as a fast compiler
// takes for its output: what is slower than that gives larder more time.
const jobPrologue = `let
  package = name: source: depends: derivation {
    inherit name source depends;
    passAsFile = [ "depends" ];
    system = builtins.currentSystem;
    PATH = "/usr/bin:/bin";
    builder = "/bin/bash";
    args = [ "-c" ''
      set -e
      mkdir -p $out/nix-support
      if [ -n "$source" ]; then
        cp -r $source/. $out
        chmod -R u+w $out/nix-support
        LC_ALL=C perl -MCompress::Raw::Zlib -MFile::Find -e '
          my $d = Compress::Raw::Zlib::Deflate->new(-Level => 1) or die;
          find(sub {
            return if -l $_ || !-f $_;
            open my $f, "<:raw", $_ or die "$_: $!";
            local $/ = \1048576;
            while (<$f>) { $d->deflate($_, my $packed) }
          }, $ENV{out});
        '
      fi
      cp $dependsPath $out/nix-support/depends
      exit 0
    '' ];
  };
  packages = {
`

// writeExpression writes job.nix: the derivations, with those of the corpus's
// dependencies that are among them.
func (s *jobShop) writeExpression(chosen []entry) error {
	attr := make(map[string]string)
	for _, e := range chosen {
		attr[e.Path] = filepath.Base(e.Path)
	}
	var nix strings.Builder
	nix.WriteString(jobPrologue)
	for _, e := range chosen {
		base := attr[e.Path]
		depends, err := os.ReadFile(filepath.Join(e.Path, "nix-support/depends"))
		if err != nil {
			return fmt.Errorf("read corpus: %w", err)
		}
		fmt.Fprintf(&nix, "    %q = package %q %q [", base, base[33:], "/mnt/store/"+base)
		for _, path := range strings.Fields(string(depends)) {
			if attr[path] != "" {
				fmt.Fprintf(&nix, " packages.%q", attr[path])
			}
		}
		nix.WriteString(" ];\n")
	}
	fmt.Fprintf(&nix, "  };\nin package %q \"\" (builtins.attrValues packages)\n", jobName)
	if err := os.WriteFile(s.b.w.path("job.nix"), []byte(nix.String()), 0o644); err != nil {
		return fmt.Errorf("write job.nix: %w", err)
	}
	return nil
}

// command returns a command that runs below the root.
func (s *jobShop) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if !strings.Contains(name, "/") {
		name = "/usr/bin/" + name
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = env("/tmp", "LARDER_QUEUE="+jobQueue)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.root}
	return cmd
}

// ask runs a command below the root for what it says.
func (s *jobShop) ask(ctx context.Context, name string, args ...string) (string, error) {
	out, err := s.command(ctx, name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, lastLine(string(exit.Stderr)))
		}
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *jobShop) mountStore() error {
	if err := syscall.Mount("tmpfs", filepath.Join(s.root, "nix"), "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount store of a job: %w", err)
	}
	return nil
}

// unmountStore ends a store. A process that still holds it keeps it for itself.
func (s *jobShop) unmountStore() {
	_ = syscall.Unmount(filepath.Join(s.root, "nix"), syscall.MNT_DETACH) // (ignored) the namespace ends with us
}

// renew makes everything new that the job before has touched.
func (s *jobShop) renew(ctx context.Context) error {
	for _, name := range []string{"cache", "queue", "home", "tmp", "state"} {
		dir := s.b.w.path(name)
		left, err := os.ReadDir(dir) // the directory itself may be mounted
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("empty scratch directory: %w", err)
		}
		for _, e := range left {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("empty scratch directory: %w", err)
			}
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("empty scratch directory: %w", err)
		}
	}
	if err := s.mountStore(); err != nil {
		return err
	}
	if err := copyTree(ctx, s.b.w.path("template"), filepath.Join(s.root, "nix")); err != nil {
		s.unmountStore()
		return err
	}
	syscall.Sync() // nobody waits for what another one wrote
	return nil
}

// check returns an error if the cache lacks any output: who does less is not fast.
func (s *jobShop) check() error {
	for _, path := range s.outputs {
		hash, _, _ := strings.Cut(filepath.Base(path), "-")
		data, err := os.ReadFile(s.b.w.path("cache/" + hash + ".narinfo"))
		if err != nil {
			return fmt.Errorf("look for %s in the cache: %w", path, err)
		}
		url := ""
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			if value, ok := strings.CutPrefix(lines.Text(), "URL: "); ok {
				url = value
			}
		}
		if info, err := os.Stat(s.b.w.path("cache/" + url)); err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("look for %s in the cache: it has no NAR: %w", path, err)
		}
	}
	return nil
}

func copyTree(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	_, err := output(ctx, os.Environ(), "cp", "-a", from+"/.", to)
	return err
}

// copyProgram copies a program, "" for none, to where it is seen below the root.
func copyProgram(file, dir string) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), data, 0o755)
	}
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	return nil
}
