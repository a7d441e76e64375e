package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// corpusFormat changes when the same packages would give another corpus. One of
// another format is built anew.
const corpusFormat = 1

// rootName is the attribute and the name of the path that has all others in its
// closure. No Debian package is called so.
const rootName = "larder-bench-corpus"

// A corpus is a closure of store paths to copy. It is what corpus.json holds.
type corpus struct {
	Format  int     `json:"format"`
	Root    string  `json:"root"` // see rootName
	Entries []entry `json:"entries"`
}

type entry struct {
	Path    string `json:"path"`
	Deriver string `json:"deriver"`
	NarSize int64  `json:"nar_size"`
}

func (c *corpus) narBytes() int64 {
	var sum int64
	for _, e := range c.Entries {
		sum += e.NarSize
	}
	return sum
}

// openCorpus mounts the store of the corpus that cfg asks for over /nix, and
// builds the corpus first if it is not there yet.
func openCorpus(ctx context.Context, cfg config, w *workshop) (*corpus, error) {
	dir := filepath.Join(cfg.Dir, fmt.Sprintf("corpus-%d-%d", cfg.Paths, cfg.Megabytes))
	file := filepath.Join(dir, "corpus.json")

	c, err := readCorpus(file)
	complete := err == nil && c.Format == corpusFormat && !cfg.Rebuild
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if !complete {
		// Half a store is not worth mending.
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("remove old corpus: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "nix"), 0o755); err != nil {
		return nil, fmt.Errorf("make corpus directory: %w", err)
	}
	if _, err := w.mountStore(filepath.Join(dir, "nix")); err != nil {
		return nil, err
	}
	// Only now: a Nix that lives in the host's /nix is out of sight.
	if _, err := exec.LookPath("nix-build"); err != nil {
		return nil, hintError{fmt.Errorf("find host's Nix: %w", err), "one that lives outside of /nix is needed, on Debian: apt-get install nix-bin"}
	}
	if complete {
		return c, nil
	}
	if c, err = buildCorpus(ctx, cfg, w, dir); err != nil {
		return nil, err
	}
	return c, writeCorpus(file, c)
}

func readCorpus(file string) (*corpus, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c corpus
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, hintError{fmt.Errorf("read %s: %w", file, err), "run it with --rebuild"}
	}
	return &c, nil
}

// writeCorpus makes the corpus count as complete, by a rename.
func writeCorpus(file string, c *corpus) error {
	data, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(file+".new", data, 0o644)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func buildCorpus(ctx context.Context, cfg config, w *workshop, dir string) (*corpus, error) {
	pkgs, err := readPackages(ctx)
	if err != nil {
		return nil, err
	}
	if err := readFiles(ctx, pkgs); err != nil {
		return nil, err
	}
	chosen := selectPackages(pkgs, cfg.Paths, int64(cfg.Megabytes)*1e6)
	if len(chosen) == 0 {
		return nil, hintError{errors.New("select packages: none is small enough"), "raise --megabytes"}
	}
	status("building %d of %d packages as derivations, once (%s)", len(chosen), len(pkgs), dir)
	start := time.Now()
	if err := writeExpression(dir, chosen); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "build.log"))
	if err != nil {
		return nil, fmt.Errorf("write build log: %w", err)
	}
	defer log.Close()
	build := exec.CommandContext(ctx, "nix-build", filepath.Join(dir, "corpus.nix"),
		"--attr", rootName, "--no-out-link", "--max-jobs", "auto")
	build.Env = env(w.dir)
	build.Stderr = log // every builder's name
	out, err := build.Output()
	if err != nil {
		said, _ := os.ReadFile(log.Name()) // only for the message (ignored)
		return nil, hintError{fmt.Errorf("build corpus: %w: %s", err, lastLine(string(said))), "all that nix-build said is in " + log.Name()}
	}
	c := &corpus{Format: corpusFormat, Root: strings.TrimSpace(string(out))}
	if c.Entries, err = queryStore(ctx, w, c.Root); err != nil {
		return nil, err
	}
	status("built %d paths in %.0f s", len(c.Entries), time.Since(start).Seconds())
	return c, nil
}

// queryStore asks Nix for the closure of root.
func queryStore(ctx context.Context, w *workshop, root string) ([]entry, error) {
	query := func(args ...string) ([]string, error) {
		out, err := output(ctx, env(w.dir), "nix-store", append([]string{"--query"}, args...)...)
		return strings.Fields(string(out)), err
	}
	paths, err := query("--requisites", root)
	if err != nil {
		return nil, err
	}
	sizes, err := query(append([]string{"--size"}, paths...)...)
	if err != nil {
		return nil, err
	}
	derivers, err := query(append([]string{"--deriver"}, paths...)...)
	if err != nil {
		return nil, err
	}
	if len(sizes) != len(paths) || len(derivers) != len(paths) {
		return nil, fmt.Errorf("query store: nix-store gave %d sizes and %d derivers, want %d", len(sizes), len(derivers), len(paths))
	}
	entries := make([]entry, len(paths))
	for i, path := range paths {
		entries[i] = entry{Path: path, Deriver: derivers[i]}
		if entries[i].NarSize, err = strconv.ParseInt(sizes[i], 10, 64); err != nil {
			return nil, fmt.Errorf("query store: %w", err)
		}
	}
	return entries, nil
}

// prologue is the start of corpus.nix. Files come through tar because one
// process then copies a whole package, symbolic and hard links included.
//
// Setuid bits are dropped: Nix forbids builders to set them. A file that cannot
// be read, or that is gone by now, is left out: the first tar's exit code is not
// looked at. The last command is a builtin, because Nix takes a shell that execs
// its last command for finished when that closes its output, and kills it.
const prologue = `let
  package = name: list: depends: derivation {
    inherit name list depends;
    passAsFile = [ "depends" ];
    system = builtins.currentSystem;
    PATH = "/usr/bin:/bin";
    builder = "/bin/sh";
    args = [ "-c" ''
      set -e
      mkdir -p $out/nix-support
      tar -C / -c --null --no-recursion --mode=u+rwX,go+rX,a-s,-t -T $list | tar -C $out -x --no-same-owner
      cp $dependsPath $out/nix-support/depends
      exit 0
    '' ];
  };
  packages = {
`

// writeExpression writes corpus.nix and the file lists that it names.
func writeExpression(dir string, pkgs map[string]*pkg) error {
	lists := filepath.Join(dir, "lists")
	if err := os.MkdirAll(lists, 0o755); err != nil {
		return fmt.Errorf("write file lists: %w", err)
	}
	names := slices.Sorted(maps.Keys(pkgs))
	tops := maps.Clone(pkgs)
	var nix strings.Builder
	nix.WriteString(prologue)
	write := func(attr, name string, files, depends []string) error {
		list := filepath.Join(lists, attr)
		// Attribute names are quoted: Debian's begin with digits and contain "+".
		fmt.Fprintf(&nix, "    %q = package %q %q [", attr, name, list)
		for _, d := range depends {
			fmt.Fprintf(&nix, " packages.%q", d)
		}
		nix.WriteString(" ];\n")
		if err := os.WriteFile(list, []byte(strings.Join(files, "\x00")), 0o644); err != nil {
			return fmt.Errorf("write file lists: %w", err)
		}
		return nil
	}
	for _, name := range names {
		p := pkgs[name]
		for _, d := range p.Depends {
			delete(tops, d)
		}
		if err := write(name, storeName(p), p.Files, p.Depends); err != nil {
			return err
		}
	}
	if err := write(rootName, rootName, nil, slices.Sorted(maps.Keys(tops))); err != nil {
		return err
	}
	nix.WriteString("  };\nin packages\n")
	if err := os.WriteFile(filepath.Join(dir, "corpus.nix"), []byte(nix.String()), 0o644); err != nil {
		return fmt.Errorf("write corpus.nix: %w", err)
	}
	return nil
}

var notInStoreNames = regexp.MustCompile(`[^0-9a-zA-Z+._?=-]`)

// storeName is the package's name and version as far as Nix allows it.
func storeName(p *pkg) string {
	return notInStoreNames.ReplaceAllString(p.Name+"-"+p.Version, "_")
}

// status tells the person who waits what is being done.
func status(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
