package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// A pkg is an installed Debian package.
type pkg struct {
	Name    string
	Query   string // what dpkg-query calls it, as in libc6:amd64
	Version string
	Depends []string // names of installed packages, sorted, without cycles
	Files   []string // leaves only: files, symbolic links, empty directories; relative to /
	Bytes   int64    // roughly the size of its NAR
}

// readPackages returns the packages of this machine by name.
func readPackages(ctx context.Context) (map[string]*pkg, error) {
	arch, err := output(ctx, hostEnv(), "dpkg", "--print-architecture")
	if err != nil {
		return nil, err
	}
	table, err := output(ctx, hostEnv(), "dpkg-query", "-W", "-f",
		`${db:Status-Status}\t${Architecture}\t${Package}\t${binary:Package}\t${Version}\t${Provides}\t${Pre-Depends}, ${Depends}\n`)
	if err != nil {
		return nil, err
	}
	pkgs := parsePackages(string(table), strings.TrimSpace(string(arch)))
	breakCycles(pkgs)
	return pkgs, nil
}

// parsePackages reads dpkg-query's table. Packages of a foreign architecture
// are left out: they have the names of native ones.
func parsePackages(table, arch string) map[string]*pkg {
	pkgs := make(map[string]*pkg)
	wants := make(map[string]string)
	providers := make(map[string][]string)
	for line := range strings.Lines(table) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 7 || f[0] != "installed" || (f[1] != arch && f[1] != "all") {
			continue
		}
		name := f[2]
		pkgs[name] = &pkg{Name: name, Query: f[3], Version: f[4]}
		wants[name] = f[6]
		for p := range strings.SplitSeq(f[5], ",") {
			if p = bareName(p); p != "" {
				providers[p] = append(providers[p], name)
			}
		}
	}
	for name, p := range pkgs {
		p.Depends = resolve(wants[name], func(want string) string {
			if _, ok := pkgs[want]; ok {
				return want
			}
			if by := providers[want]; len(by) > 0 {
				return slices.Min(by)
			}
			return ""
		})
	}
	return pkgs
}

// resolve reads a field such as "libc6 (>= 2.36), awk | mawk:any". Of several
// alternatives it takes the first that find knows. find returns "" for a name
// that is not installed.
func resolve(field string, find func(string) string) []string {
	var names []string
	for alternatives := range strings.SplitSeq(field, ",") {
		for a := range strings.SplitSeq(alternatives, "|") {
			if name := find(bareName(a)); name != "" {
				names = append(names, name)
				break
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// bareName cuts version and architecture: "mawk:any (>= 1)" is "mawk".
func bareName(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, " (:["); i >= 0 {
		s = s[:i]
	}
	return s
}

// breakCycles removes every dependency that leads back to where it came from.
// Debian has cycles (libc6 and libgcc-s1 need each other), store paths cannot.
// Names are visited in order, so the same ones go each time.
func breakCycles(pkgs map[string]*pkg) {
	const visiting, done = 1, 2
	state := make(map[string]int)
	var visit func(p *pkg)
	visit = func(p *pkg) {
		state[p.Name] = visiting
		p.Depends = slices.DeleteFunc(p.Depends, func(d string) bool {
			if state[d] == 0 {
				visit(pkgs[d])
			}
			return state[d] == visiting
		})
		state[p.Name] = done
	}
	for _, name := range slices.Sorted(maps.Keys(pkgs)) {
		if state[name] == 0 {
			visit(pkgs[name])
		}
	}
}

// readFiles fills in Files and Bytes.
func readFiles(ctx context.Context, pkgs map[string]*pkg) error {
	names := slices.Sorted(maps.Keys(pkgs))
	args := []string{"-L"}
	for _, name := range names {
		args = append(args, pkgs[name].Query)
	}
	lists, err := output(ctx, hostEnv(), "dpkg-query", args...)
	if err != nil {
		return err
	}
	// One block for each package, in the order asked for.
	blocks := strings.Split(strings.TrimSuffix(string(lists), "\n"), "\n\n")
	if len(blocks) != len(names) {
		return fmt.Errorf("read file lists: dpkg-query gave %d, want %d", len(blocks), len(names))
	}
	for i, name := range names {
		p := pkgs[name]
		for _, file := range leaves(strings.Split(blocks[i], "\n")) {
			fi, err := os.Lstat("/" + file)
			if err != nil {
				continue // not unpacked, as with dpkg's path-exclude
			}
			if t := fi.Mode().Type(); t != 0 && t != fs.ModeSymlink && t != fs.ModeDir {
				continue // devices and such have no place in a store
			}
			const frame = 256 // what a NAR needs for a node, roughly
			p.Bytes += frame
			if fi.Mode().IsRegular() {
				p.Bytes += fi.Size()
			}
			p.Files = append(p.Files, file)
		}
	}
	return nil
}

// leaves returns the absolute paths of list that are no parent of another one,
// relative to / and sorted. Parents are left out because on a machine where /lib
// is a link to usr/lib, the list's /lib is a directory to some packages' files.
func leaves(list []string) []string {
	parents := make(map[string]bool)
	for _, f := range list {
		for d := path.Dir(f); len(d) > 1 && !parents[d]; d = path.Dir(d) {
			parents[d] = true
		}
	}
	var files []string
	for _, f := range list {
		// dpkg mixes remarks about diversions into the list, and calls / "/.".
		if len(f) > 2 && f[0] == '/' && !parents[f] {
			files = append(files, f[1:])
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// selectPackages takes packages with all they depend on, until both limits are
// near. No package may have more than an eighth of the bytes: one huge file
// would make it the benchmark of that file. Where bytes run out long before
// paths do, large packages are restricted further.
func selectPackages(pkgs map[string]*pkg, maxPaths int, maxBytes int64) map[string]*pkg {
	var best map[string]*pkg
	for share := int64(8); share <= 32 && len(best) < maxPaths; share++ {
		if chosen := fill(pkgs, maxPaths, maxBytes, maxBytes/share); len(chosen) > len(best) {
			best = chosen
		}
	}
	return best
}

// fill takes packages with all they depend on, in the order of a hash of their
// names, as long as they fit. That order mixes large and small, has nothing to
// do with who ends up fast on it, and is the same everywhere.
func fill(pkgs map[string]*pkg, maxPaths int, maxBytes, maxOne int64) map[string]*pkg {
	names := slices.SortedFunc(maps.Keys(pkgs), func(a, b string) int {
		x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
		return bytes.Compare(x[:], y[:])
	})
	chosen := make(map[string]*pkg)
	var total int64
	for _, name := range names {
		more := make(map[string]*pkg)
		var add func(name string)
		add = func(name string) {
			if chosen[name] != nil || more[name] != nil {
				return
			}
			more[name] = pkgs[name]
			for _, d := range pkgs[name].Depends {
				add(d)
			}
		}
		add(name)
		sum, fits := total, len(chosen)+len(more) <= maxPaths
		for _, p := range more {
			sum += p.Bytes
			fits = fits && p.Bytes <= maxOne
		}
		if fits && sum <= maxBytes {
			maps.Copy(chosen, more)
			total = sum
		}
	}
	return chosen
}

// hostEnv is the caller's environment, in the one language that we can read.
func hostEnv() []string { return append(os.Environ(), "LC_ALL=C.UTF-8") }

// output runs a program and returns what it prints.
func output(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", name, err, lastLine(stderr.String()))
	}
	return out, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
