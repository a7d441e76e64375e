package integration

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// foreignCaches returns copies of the caches in testdata, by name.
func foreignCaches(t *testing.T) map[string]string {
	t.Helper()
	dirs, err := os.ReadDir("testdata/caches")
	must(t, err)
	caches := make(map[string]string)
	for _, dir := range dirs {
		if dir.IsDir() {
			copied := filepath.Join(tempDir(t), "cache")
			must(t, os.CopyFS(copied, os.DirFS(filepath.Join("testdata/caches", dir.Name()))))
			caches[dir.Name()] = copied
		}
	}
	if len(caches) < 6 {
		t.Fatalf("only %d caches", len(caches))
	}
	return caches
}

// contents returns what is in the files below a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = string(text)
		return err
	}))
	return all
}

// keeps fails the test if a file is not as it was.
func keeps(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := contents(t, dir)
	for name, text := range before {
		if now, ok := after[name]; !ok || now != text {
			t.Errorf("%s is %q (there: %v), was %q", name, now, ok, text)
		}
	}
}

// What others wrote is taken as it is, and nothing of it is changed by what comes.
func TestCachesOfOthersAreAdopted(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for name, cache := range foreignCaches(t) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := &larder{machine: newMachine(t, n), cache: cache, queue: rootsQueue}
				before := contents(t, cache)
				var paths []string
				for path := range entries(t, cache) {
					paths = append(paths, path)
				}
				slices.Sort(paths)
				if len(paths) != 2 {
					t.Fatalf("entries are %q", paths)
				}
				isAdopted(t, l, paths)
				keeps(t, cache, before)
			})
		}
	})
}

// isAdopted has larder, and Nix, use a cache in all ways.
func isAdopted(t *testing.T, l *larder, paths []string) {
	t.Helper()
	listed := l.lines(t, "larder", "list", "--cache", l.cache)
	slices.Sort(listed)
	equalPaths(t, "larder list", listed, paths)
	if stdout, stderr, _ := l.tryRun(t, "larder", "doctor", "--cache", l.cache); strings.Contains(stdout+stderr, "can't be used") || strings.Contains(stdout+stderr, "damaged") {
		t.Errorf("larder doctor says %s%s", stdout, stderr)
	}
	merged := filepath.Join(tempDir(t), "merged")
	if r := l.merge(t, merged, l.cache); r.Added != len(paths) || len(r.Damaged)+len(r.LeftOut)+len(r.Conflicts)+r.Relying > 0 {
		t.Errorf("merge of it says %+v", r)
	}

	// What a run builds comes beside them, and what it takes from there is not added.
	_, stderr, exit := l.tryRun(t, "larder", "run", "--cache", l.cache, "--", "sh", "-euc",
		`nix-build --no-out-link --expr "$0" > /root/built; nix-store --realise --max-jobs 0 "$@"`, oneExpr("new"), paths[0], paths[1])
	if exit != 0 || strings.Contains(stderr, "larder: warning") {
		t.Errorf("larder run exits with %d: %s", exit, stderr)
	}
	built := l.run(t, "cat", "/root/built")
	equalPaths(t, "cache", l.cached(t), slices.Sorted(slices.Values(append(slices.Clone(paths), built))))
	if out := l.push(t, paths...); !strings.HasPrefix(out, "copied 0 of ") {
		t.Errorf("larder push says %q", out)
	}
	// Nix has got them out of the cache once; now all, and out of both.
	for from, want := range map[string][]string{l.cache: append(slices.Clone(paths), built), merged: paths} {
		store := "local?root=/root/from-" + filepath.Base(from)
		l.run(t, append([]string{"nix", "copy", "--no-check-sigs", "--from", "file://" + from, "--to", store}, want...)...)
		have := l.lines(t, "nix", "path-info", "--store", store, "--all")
		slices.Sort(have)
		hasPaths(t, from, have, want)
		l.run(t, "nix", "store", "verify", "--store", store, "--all", "--no-trust")
	}
}

// Entries of others get signatures, and nothing else of them changes.
func TestEntriesOfOthersAreSigned(t *testing.T) {
	t.Parallel()
	caches := foreignCaches(t)
	for _, name := range []string{"attic", "mkbinarycache-2022", "nix-push"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &larder{machine: newMachine(t, nixes[0]), cache: caches[name], queue: rootsQueue}
			before, paths := contents(t, l.cache), l.cached(t)
			l.substitute(t, l.cache, paths...)
			secret, key := l.newKey(t, "signer-1")
			l.push(t, append([]string{"--signing-key-file", secret}, paths...)...)
			after := contents(t, l.cache)
			for name, text := range before {
				var rest strings.Builder
				for line := range strings.Lines(after[name]) {
					if !strings.HasPrefix(line, "Sig: signer-1:") {
						rest.WriteString(line)
					}
				}
				if strings.HasSuffix(name, ".narinfo") == (rest.Len() == len(after[name])) || rest.String() != text {
					t.Errorf("%s is\n%s, was\n%s", name, after[name], text)
				}
			}
			for _, n := range nixes {
				if stderr, ok := substitutes(t, n, paths[0], []string{key}, "file://"+l.cache); !ok {
					t.Errorf("%s: %s", n.name, stderr)
				}
			}
		})
	}
}

// compressions are those that some Nix has a name for.
var compressions = []string{"none", "xz", "bzip2", "gzip", "zstd", "br", "lz4", "lzip", "compress", "lzma", "lrzip", "grzip", "lzop"}

// Every Nix writes a cache in all the ways that it knows: all of them are read, and
// adopted.
func TestCachesOfEveryNixAreAdopted(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := &larder{machine: newMachine(t, n), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
		var paths, methods []string
		for _, method := range compressions {
			path := l.buildOne(t, "by-"+method)
			if _, stderr, exit := l.tryRun(t, "nix", "copy", "--to", "file://"+l.cache+"?compression="+method, path); exit != 0 {
				t.Logf("can't write %s: %.200s", method, stderr)
				continue
			}
			paths, methods = append(paths, path), append(methods, method)
		}
		for _, method := range []string{"none", "xz", "bzip2", "gzip", "zstd", "br"} {
			if !slices.Contains(methods, method) {
				t.Errorf("this Nix can't write %s", method)
			}
		}
		slices.Sort(paths)
		before := contents(t, l.cache)
		listed := l.lines(t, "larder", "list", "--cache", l.cache)
		slices.Sort(listed)
		equalPaths(t, "larder list", listed, paths)
		merged := filepath.Join(tempDir(t), "merged")
		if r := l.merge(t, merged, l.cache); r.Added != len(paths) || len(r.Damaged)+len(r.LeftOut)+len(r.Conflicts) > 0 {
			t.Errorf("merge of it says %+v", r)
		}
		if out := l.push(t, paths...); !strings.HasPrefix(out, "copied 0 of ") {
			t.Errorf("larder push says %q", out)
		}
		keeps(t, l.cache, before)
		fresh := newMachine(t, n)
		fresh.substitute(t, merged, paths...)
		equalPaths(t, "merged cache", fresh.validPaths(t), paths)
	})
}

// A damager damages a cache in ways that nobody thought of.
type damager struct {
	*rand.Rand
	dir string
}

// damage does one thing to one file, and says what.
func (d damager) damage(t *testing.T) string {
	t.Helper()
	var names []string
	for name := range contents(t, d.dir) {
		names = append(names, name)
	}
	slices.Sort(names) // as the seed has it
	name := names[d.IntN(len(names))]
	file := filepath.Join(d.dir, name)
	text, err := os.ReadFile(file)
	must(t, err)
	at := d.IntN(len(text) + 1)
	what := d.IntN(8)
	switch what {
	case 0:
		text = text[:at]
	case 1:
		for range 1 + d.IntN(4) {
			if at < len(text) {
				text[at] ^= byte(1 << d.IntN(8))
			}
		}
	case 2:
		text = slices.Concat(text[:at], []byte{byte(d.IntN(256))}, text[at:])
	case 3:
		text = slices.Concat(text[:at], text[min(len(text), at+1+d.IntN(8)):])
	case 4:
		text = slices.Concat(text, text[at:])
	case 5: // two files change places
		other := filepath.Join(d.dir, names[d.IntN(len(names))])
		text, err = os.ReadFile(other)
		must(t, err)
	case 6:
		must(t, os.Remove(file))
		must(t, unix.Mkfifo(file, 0o644))
		return "pipe for " + name
	case 7:
		must(t, os.Remove(file))
		return "nothing for " + name
	}
	must(t, os.WriteFile(file, text, 0o644))
	return fmt.Sprintf("damage %d at %d in %s", what, at, name)
}

// However a cache is damaged, larder says what is wrong, ends, and makes nothing worse:
// what was whole stays whole, and what is pushed again is whole.
func TestRandomDamageIsNamedAndNeverMadeWorse(t *testing.T) {
	t.Parallel()
	seed := seed(t)
	l, top := pusher(t, nixes[0])
	l.push(t, "--compression", "none", top)
	want := l.closure(t, top)
	caches := foreignCaches(t)
	other := caches["shared-nar"]
	rounds := 25
	if os.Getenv("LARDER_LONG") == "1" {
		rounds = 1000
	}
	for round := range rounds {
		d := damager{rand.New(rand.NewPCG(seed, uint64(round))), filepath.Join(tempDir(t), "cache")}
		must(t, os.CopyFS(d.dir, os.DirFS(l.cache)))
		must(t, os.WriteFile(filepath.Join(d.dir, "notes.txt"), []byte("somebody's"), 0o644))
		var did []string
		for range 1 + d.IntN(6) {
			did = append(did, d.damage(t))
		}
		ok := checkDamaged(t, l, d.dir, other, want)
		if !ok || t.Failed() {
			t.Fatalf("LARDER_SEED=%d, round %d: %s", seed, round, strings.Join(did, ", "))
		}
		must(t, os.RemoveAll(filepath.Dir(d.dir)))
	}
}

// checkDamaged uses a damaged cache that had some paths.
func checkDamaged(t *testing.T, l *larder, dir, other string, want []string) bool {
	t.Helper()
	run := func(codes []int, args ...string) (stdout string, ok bool) {
		stdout, stderr, exit := l.tryRun(t, args...)
		if !slices.Contains(codes, exit) || strings.Contains(stderr, "goroutine ") || exit != 0 && exit != 5 && !strings.Contains(stderr, "larder: ") {
			t.Errorf("%q: exit %d: %s%s", args, exit, stdout, stderr)
			return "", false
		}
		return stdout, true
	}
	before := files(t, dir)
	stdout, ok := run([]int{0, 1}, "larder", "list", "--cache", dir)
	good := make(map[string]string) // narinfos of those that are listed
	for _, path := range strings.Fields(stdout) {
		text, err := os.ReadFile(narInfoFile(dir, path))
		must(t, err)
		if slices.Contains(want, path) { // or it is for a path that nobody has: the right one takes its place
			good[path] = string(text)
		}
	}
	for _, args := range [][]string{{"list", "--json"}, {"list", "--long"}, {"list", "--key"}, {"doctor"}} {
		_, one := run([]int{0, 1, 5}, append([]string{"larder", args[0], "--cache", dir}, args[1:]...)...)
		ok = ok && one
	}
	unchanged(t, "a damaged cache that was looked at", before, files(t, dir))

	merged := filepath.Join(tempDir(t), "merged")
	_, one := run([]int{0, 1}, "larder", "merge", "--cache", merged, dir, other)
	if _, err := os.Stat(merged); err == nil {
		_, whole := run([]int{0}, "larder", "list", "--cache", merged)
		one = one && whole
	}
	unchanged(t, "a damaged cache that was merged", before, files(t, dir))
	kept := contents(t, dir)
	maps.DeleteFunc(kept, func(name, _ string) bool { // what may be mended
		return strings.HasSuffix(name, ".narinfo") || strings.HasPrefix(name, "/nar/")
	})
	_, two := run([]int{0, 1}, "larder", "merge", "--cache", dir, other)
	stdout, three := run([]int{0, 1, 3, 4}, append([]string{"larder", "push", "--cache", dir}, want...)...)
	built, now := contents(t, l.cache), contents(t, dir)
	maps.DeleteFunc(kept, func(name, _ string) bool { // an entry that was made anew got its log again
		return strings.HasPrefix(name, "/log/") && now[name] == built[name]
	})
	keeps(t, dir, kept)
	for path, text := range good {
		if now, err := os.ReadFile(narInfoFile(dir, path)); err != nil || string(now) != text {
			t.Errorf("entry of %s is %q, %v; was %q", path, now, err, text)
		}
	}
	if strings.HasPrefix(stdout, "copied ") {
		listed, _ := run([]int{0, 1}, "larder", "list", "--cache", dir)
		hasPaths(t, "cache to which all was pushed again", slices.Sorted(slices.Values(strings.Fields(listed))), want)
	}
	return ok && one && two && three
}
