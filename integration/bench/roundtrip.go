package main

import (
	"archive/zip"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

var roundtripRow = row{
	Name:    "roundtrip",
	Title:   "a provider saves the directory and restores it, and Nix takes the closure into an empty store",
	Measure: measureRoundtrip,
}

// A provider keeps a directory from one job to the next, as an archive.
type provider struct {
	Key, Label string
	Needs      []string // programs
	Save       func(ctx context.Context, b *bench, dir, archive string) error
	Restore    func(ctx context.Context, b *bench, archive, dir string) error
}

// providers are those of the recipes: GitHub's, and GitLab's with the compression that
// it calls fastest.
var providers = []provider{
	{"tar", "tar, zstd -T0 --long=30", []string{"tar", "zstd"}, saveTar, restoreTar},
	{"zip", "zip, fastest", nil, saveZip, restoreZip},
}

// networkRate is that of the figures with a network, in bytes a second: each way has to
// carry the archive once.
const networkRate = 100e6

// measureRoundtrip measures every provider with the caches of every compression, in
// turns.
func measureRoundtrip(ctx context.Context, b *bench) ([]result, error) {
	if !b.hasLarder() || len(b.pick("nix-sid")) == 0 {
		status("skipped: a round trip needs larder and Debian sid's Nix")
		return nil, nil
	}
	type trip struct {
		provider
		cache string
		bytes int64
	}
	var trips []trip
	var results []result
	compressions := []string{"none", "zstd:1", "zstd:3"}
	if b.Quick {
		compressions = []string{"none", "zstd:3"}
	}
	for _, compression := range compressions {
		cache := "written-" + compression
		push := exec.CommandContext(ctx, filepath.Join(b.Bin, "larder"), "push", "--quiet", "--compression", compression, "--cache", "file://"+b.w.path(cache), b.corpus.Root)
		push.Env = env(b.w.dir)
		if _, err := measure(push, b.w); err != nil {
			return nil, err
		}
		defer os.RemoveAll(b.w.path(cache)) // or the next start does (ignored)
		bytes, err := narFileBytes(b.w.path(cache))
		if err != nil {
			return nil, err
		}
		for _, p := range providers {
			if missing := lacks(p.Needs); missing != "" {
				status("skipped: %s is not in the PATH: no %s", missing, p.Label)
				continue
			}
			trips = append(trips, trip{p, cache, bytes})
			results = append(results, newResult(contender{Key: p.Key + " " + compression, Label: compression + ", " + p.Label}))
		}
	}
	for n := range b.pickRuns() + 1 {
		for i, t := range trips {
			archive, times, err := tripOnce(ctx, b, t.provider, t.cache)
			if err != nil {
				return nil, fmt.Errorf("round trip of %s: %w", results[i].Label, err)
			}
			all := times[0] + times[1] + times[2]
			status("%d/%d: %s: %.1f MB, save %.2f s, restore %.2f s, substitute %.2f s", n, b.pickRuns(), results[i].Label,
				float64(archive)/1e6, times[0].Seconds(), times[1].Seconds(), times[2].Seconds())
			if n == 0 {
				continue // what is read is in memory from now on
			}
			r := &results[i]
			r.Wall = append(r.Wall, all.Seconds())
			r.note("NAR files", "MB", float64(t.bytes)/1e6)
			r.note("archive", "MB", float64(archive)/1e6)
			r.note("save", "s", times[0].Seconds())
			r.note("restore", "s", times[1].Seconds())
			r.note("substitute", "s", times[2].Seconds())
			r.note("with 100 MB/s", "s", all.Seconds()+2*float64(archive)/networkRate)
		}
	}
	return results, nil
}

// lacks returns the first program that is not there, or "".
func lacks(programs []string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
}

// tripOnce saves a cache, restores it, and substitutes the corpus from it. It returns
// the bytes of the archive and the three times.
func tripOnce(ctx context.Context, b *bench, p provider, cache string) (archive int64, times [3]time.Duration, err error) {
	file, dir := b.w.path("archive"), b.w.path("restored")
	defer os.RemoveAll(dir) // or the next start does (ignored)
	defer os.Remove(file)
	s := &jobShop{b: b, root: filepath.Join(b.Roots, "sid")}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, times, err
	}
	for i, step := range []func() error{
		func() error { return p.Save(ctx, b, b.w.path(cache), file) },
		func() error { return p.Restore(ctx, b, file, dir) },
		func() error { return s.substitute(ctx, "file:///tmp/restored?trusted=true") },
	} {
		syscall.Sync() // nobody waits for what another one wrote
		if i == 2 {
			if err := s.mountStore(); err != nil {
				return 0, times, err
			}
			defer s.unmountStore()
		}
		start := time.Now()
		if err := step(); err != nil {
			return 0, times, err
		}
		times[i] = time.Since(start)
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0, times, err
	}
	return info.Size(), times, nil
}

// substitute takes the corpus from a cache into the store below the root.
func (s *jobShop) substitute(ctx context.Context, cache string) error {
	cmd := s.command(ctx, "nix-store", "--realise", s.b.corpus.Root, "--option", "substituters", cache)
	_, err := measure(cmd, s.b.w)
	return err
}

func saveTar(ctx context.Context, b *bench, dir, archive string) error {
	return b.shell(ctx, `tar --posix -C "$1" -cf - . | zstd -q -T0 --long=30 -o "$2"`, dir, archive)
}

func restoreTar(ctx context.Context, b *bench, archive, dir string) error {
	return b.shell(ctx, `zstd -q -d --long=30 -c "$1" | tar -C "$2" -xf -`, archive, dir)
}

// shell runs a pipe of programs.
func (b *bench) shell(ctx context.Context, script string, args ...string) error {
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	cmd.Env = env(b.w.dir)
	_, err := measure(cmd, b.w)
	return err
}

func saveZip(_ context.Context, _ *bench, dir, archive string) (err error) {
	file, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	z := zip.NewWriter(file)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	if err := z.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return z.Close()
}

func restoreZip(_ context.Context, _ *bench, archive, dir string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if f.FileInfo().IsDir() {
			if err := os.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := unzip(f, name); err != nil {
			return err
		}
	}
	return nil
}

func unzip(f *zip.File, name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(0o644))
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}
