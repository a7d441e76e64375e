package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// farApart adds a path to the machine's store whose NAR begins and ends with the same
// incompressible bytes, so far apart that only the levels with large windows see it.
func farApart(t *testing.T, m *machine, name string) string {
	t.Helper()
	same := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(same)
	file := filepath.Join(tempDir(t), name)
	must(t, os.WriteFile(file, slices.Concat(same, make([]byte, 20<<20), same), 0o644))
	return m.run(t, "nix-store", "--add", file)
}

func TestEveryNixReadsEveryCompression(t *testing.T) {
	t.Parallel()
	writer := newMachine(t, nixes[0])
	paths := []string{farApart(t, writer, "far-apart"), writer.build(t, "--expr", oneExpr("small"))[0]}
	slices.Sort(paths)
	hashes := writer.query(t, "--hash", paths...)
	caches := make(map[string]string)
	for _, compression := range []string{"zstd:1", "zstd:19", "zstd:20", "xz:0", "xz:9", "none"} {
		cache := filepath.Join(tempDir(t), "cache")
		caches[compression] = cache
		writer.run(t, append([]string{"larder", "push", "--cache", cache, "--compression", compression}, paths...)...)
		method, _, _ := strings.Cut(compression, ":")
		hasCompression(t, cache, method)
		size := entries(t, cache)[paths[slices.IndexFunc(paths, func(path string) bool { return strings.HasSuffix(path, "-far-apart") })]].size
		if far := compression == "zstd:20" || compression == "xz:9"; far != (size < 3<<19) {
			t.Errorf("%s: %d bytes, of which 1 MiB comes twice", compression, size)
		}
	}
	for _, n := range nixes {
		t.Run("to "+n.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, n)
			for compression, cache := range caches {
				m.substitute(t, cache, paths...)
				if got := m.query(t, "--hash", paths...); !slices.Equal(got, hashes) {
					t.Errorf("%s: hashes are %q, want %q", compression, got, hashes)
				}
				m.run(t, append([]string{"nix-store", "--delete"}, paths...)...)
			}
		})
	}
}

// A recompressed is what larder recompress --json prints.
type recompressed struct {
	Entries      int        `json:"entries"`
	Candidates   int        `json:"candidates"`
	Recompressed int        `json:"recompressed"`
	Before       int64      `json:"bytes_before"`
	After        int64      `json:"bytes_after"`
	Kept         int        `json:"kept"`
	Left         int        `json:"left"`
	Removed      int        `json:"removed"`
	Waiting      int        `json:"waiting"`
	Damaged      []struct{} `json:"damaged"`
}

func (m *machine) recompress(t *testing.T, cache string, args ...string) (r recompressed) {
	t.Helper()
	must(t, json.Unmarshal([]byte(m.run(t, append([]string{"larder", "recompress", "--cache", cache, "--json"}, args...)...)), &r))
	return r
}

// ofNix are the methods with which every Nix writes.
var ofNix = []string{"none", "br", "bzip2", "compress", "gzip", "lz4", "lzip", "lzma", "xz", "zstd"}

// A cache of Nix's own, in all its compressions, becomes smaller and stays what it is.
func TestRecompressedCacheOfNixComesBackOnEveryNix(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		m.build(t, standardGraph)
		want := m.closure(t, m.outputs(t, m.derivations(t, standardGraph)...)...)
		dumps := m.dumps(t, want)
		l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache")}
		secret, _ := l.newKey(t, "of-nix")
		for i := range want {
			m.run(t, "nix", "copy", "--to", fmt.Sprintf("file://%s?compression=%s&secret-key=%s", l.cache, ofNix[i%len(ofNix)], secret), want[i])
		}
		equalPaths(t, "Nix's cache", l.cached(t), want)
		before := entries(t, l.cache)
		old := files(t, filepath.Join(l.cache, "nar"))

		// Without Nix, and with what it needs for its second look.
		stranger := m.with("NIX_STATE_DIR=/nowhere", "NIX_STORE_DIR=/nowhere/store")
		r := stranger.recompress(t, l.cache, "--compression", "xz:9")
		if r.Entries != len(want) || r.Recompressed == 0 || r.Recompressed+r.Kept != r.Candidates || r.After >= r.Before || r.Waiting != r.Recompressed || len(r.Damaged) > 0 {
			t.Errorf("%+v, want something of %d entries smaller", r, len(want))
		}
		checkWhole(t, l.cache)
		for path, n := range entries(t, l.cache) {
			was := before[path]
			if n.size > was.size || !slices.Equal(n.references, was.references) || !slices.Equal(n.signers, was.signers) || len(n.signers) != 1 {
				t.Errorf("%s: %+v, was %+v", path, n, was)
			}
		}
		now := files(t, filepath.Join(l.cache, "nar"))
		for _, line := range old {
			if !slices.Contains(now, line) {
				t.Errorf("an old NAR that clients may remember: was %s", line)
			}
		}
		l.verify(t)
		whole := files(t, l.cache)
		if r := stranger.recompress(t, l.cache, "--compression", "xz:9"); r.Candidates != 0 {
			t.Errorf("the second time: %+v", r)
		}
		unchanged(t, "a cache with nothing to do", whole, files(t, l.cache))

		if again := stranger.recompress(t, l.cache, "--compression", "xz:9", "--grace", "0s"); again.Removed != r.Recompressed || again.Waiting != 0 {
			t.Errorf("without grace: %+v, want %d removed", again, r.Recompressed)
		}
		checkWhole(t, l.cache)
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				comesBack(t, n, l.cache, want, dumps)
			})
		}
	})
}

// All who write to a cache agree, unless they say something else.
func TestCacheRemembersItsCompression(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	cache := filepath.Join(tempDir(t), "cache")
	compressionOf := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(cache, filepath.Base(path)[:32]+".narinfo"))
		must(t, err)
		_, rest, _ := strings.Cut(string(text), "\nCompression: ")
		is, _, _ := strings.Cut(rest, "\n")
		return is
	}
	push := func(m *machine, want, said string, args ...string) {
		t.Helper()
		path := m.buildOne(t, fmt.Sprintf("path-%d", len(entries(t, cache))))
		p := m.start(t, append(append([]string{"larder", "push", "--cache", cache}, args...), path)...)
		_, stderr, exit := p.wait(t)
		if exit != 0 || compressionOf(path) != want || strings.Contains(stderr, "--remember") != (said != "") || !strings.Contains(stderr, said) {
			t.Errorf("push %q: exit %d, compressed with %s, want %s; it said: %s", args, exit, compressionOf(path), want, stderr)
		}
	}
	push(m, "xz", "", "--compression", "xz:1")
	push(m, "xz", "")
	push(m, "none", "remembered=xz:1", "--compression", "none")
	push(m.with("LARDER_COMPRESSION=zstd:1"), "zstd", "remembered=xz:1")
	push(m.with("LARDER_COMPRESSION=zstd:1"), "xz", "", "--compression", "xz:1")

	run := m.start(t, "larder", "run", "--cache", cache, "--", "nix-build", "--no-out-link", "--expr", oneExpr("of-a-run"))
	if stdout, stderr, exit := run.wait(t); exit != 0 || compressionOf(strings.TrimSpace(stdout)) != "xz" {
		t.Errorf("run: exit %d: %s", exit, stderr)
	}

	m.recompress(t, cache, "--compression", "zstd:19", "--remember")
	push(m, "zstd", "")

	l := &larder{machine: m, cache: cache, queue: rootsQueue}
	l.run(t, "larder", "init", "--cache", cache, "--watch-only")
	path := l.buildOne(t, "of-a-queue")
	l.drain(t)
	if is := compressionOf(path); is != "zstd" {
		t.Errorf("the queue compresses with %s, want what the cache remembers", is)
	}
	l.run(t, "larder", "init", "--cache", cache, "--watch-only", "--compression", "none")
	push(m, "none", "")
}

func TestMissingXzIsSaidBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	path := m.buildOne(t, "small")
	bin := tempDir(t)
	writeScript(t, filepath.Join(bin, "xz"), "echo 'xz: applet not found' >&2; exit 1") // as busybox has it
	for PATH, problem := range map[string]string{"/nowhere": "not found", bin: "can't compress"} {
		m := m.with("PATH=" + PATH)
		refusal{1, problem, "xz-utils"}.changesNothing(t, m, "/larder/bin/larder", "push", "--cache", "/root/cache", "--compression", "xz:6", path)
		refusal{1, problem, "xz-utils"}.changesNothing(t, m, "/larder/bin/larder", "init", "--cache", "/root/cache", "--queue", "/root/queue.db", "--compression", "xz:6", "--watch-only")
	}
	cache := filepath.Join(tempDir(t), "cache")
	m.run(t, "larder", "push", "--cache", cache, "--compression", "xz:6", path)
	before := files(t, cache)
	other := m.buildOne(t, "other")
	refusal{1, "not found", "--compression zstd:19"}.of(t, m.with("PATH=/nowhere"), "/larder/bin/larder", "push", "--cache", cache, other)
	unchanged(t, "cache", before, files(t, cache))
	m.with("PATH=/nowhere").run(t, "/larder/bin/larder", "push", "--cache", cache, "--compression", "zstd:3", other)
}
