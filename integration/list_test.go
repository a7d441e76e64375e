package integration

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A listed is what larder list --json prints of an entry.
type listed struct {
	Path           string     `json:"path"`
	NarSize        int64      `json:"nar_size"`
	FileSize       int64      `json:"file_size"`
	URL            string     `json:"url"`
	References     []string   `json:"references"`
	Signatures     []string   `json:"signatures"`
	Listing        bool       `json:"listing"`
	Log            bool       `json:"log"`
	SignatureState string     `json:"signature_state"`
	LastUse        *time.Time `json:"last_use"`
}

func (l *larder) list(t *testing.T, args ...string) []listed {
	t.Helper()
	var all []listed
	for _, line := range l.lines(t, append([]string{"larder", "list", "--json", "--cache", l.cache}, args...)...) {
		var e listed
		must(t, json.Unmarshal([]byte(line), &e))
		all = append(all, e)
	}
	return all
}

func (l *larder) cacheKey(t *testing.T) string {
	t.Helper()
	return l.run(t, "larder", "list", "--key", "--cache", l.cache)
}

// changes returns when everything in a directory was changed last, directories
// included.
func changes(t *testing.T, dir string) (list []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		changed := info.Sys().(*syscall.Stat_t).Ctim
		list = append(list, strings.Join([]string{path, info.ModTime().String(), time.Unix(changed.Unix()).String()}, " "))
		return nil
	}))
	return list
}

// The list is what nix copy takes. Nix 2.8 has no --stdin yet; there it is xargs that
// reads the list.
func TestListedPathsAreWhatNixCopies(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		l.push(t, top)
		list := l.lines(t, "larder", "list", "--cache", l.cache)
		if !slices.IsSortedFunc(list, func(a, b string) int { return strings.Compare(a[len("/nix/store/")+33:], b[len("/nix/store/")+33:]) }) {
			t.Errorf("list is not sorted by name: %q", list)
		}
		want := l.closure(t, top)
		slices.Sort(list)
		equalPaths(t, "list", list, want)

		fresh := newMachine(t, n)
		nixCopy := "nix copy --no-check-sigs --from file://" + l.cache + " --stdin"
		if _, stderr, exit := fresh.tryRun(t, "sh", "-euc", nixCopy+" < /dev/null"); exit != 0 {
			if !strings.HasPrefix(fresh.version, "2.8.") || !strings.Contains(stderr, "unrecognised flag '--stdin'") {
				t.Fatalf("%s has no --stdin: %s", fresh, stderr)
			}
			nixCopy = "xargs " + strings.TrimSuffix(nixCopy, " --stdin")
		}
		fresh.run(t, "sh", "-euc", "larder list --cache "+l.cache+" | "+nixCopy)
		equalPaths(t, "store", fresh.validPaths(t), want)
	})
}

// A CI provider that asks before it saves need not save what has not changed.
func TestWhatIsThereAlreadyLeavesTheCacheUntouched(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		outs := l.built(t, standardGraph)
		l.drain(t)
		key, before := l.cacheKey(t), changes(t, l.cache)
		same := func(what string) {
			t.Helper()
			unchanged(t, what, before, changes(t, l.cache))
			if after := l.cacheKey(t); after != key {
				t.Errorf("%s: key is %s, was %s", what, after, key)
			}
		}
		l.drain(t)
		same("drain of nothing")
		l.push(t, outs...)
		same("push")
		l.run(t, "larder", "sync")
		l.drain(t)
		same("sync")
		l.run(t, "larder", "init", "--cache", l.cache)
		same("init")
		for _, format := range []string{"--json", "--long", "--key"} {
			l.run(t, "larder", "list", format) // of the queue's cache
		}
		same("list")
		// The hook tells of it once more, and all of it is there.
		l.collectGarbage(t)
		l.build(t, standardGraph, "--option", "substitute", "false")
		hasPaths(t, "queue", l.queued(t), outs)
		l.drain(t)
		same("drain of what was built again")

		// What was saved, and comes back elsewhere, is the same.
		restored := tempDir(t)
		tar := exec.Command("sh", "-euc", `tar -C "$0" -cf - . | tar -C "$1" --no-same-owner -xmf -`, l.cache, restored)
		if out, err := tar.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		elsewhere := *l
		elsewhere.cache = restored
		if got := elsewhere.cacheKey(t); got != key {
			t.Errorf("key of a copy is %s, want %s", got, key)
		}

		l.buildOne(t, "new")
		l.drain(t)
		if l.cacheKey(t) == key {
			t.Error("something new came, and the key is the same")
		}
	})
}

// A reader needs neither Nix nor a queue.
func TestListNeedsOnlyTheCache(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	l.push(t, top)
	m := newMachine(t, nixes[0])
	must(t, os.RemoveAll(m.host("/nix")))
	reader := &larder{machine: m.as(alice).with("NIX_REMOTE=", "PATH=/larder/bin:/nowhere"), cache: l.cache}
	if got, want := len(reader.list(t)), len(l.closure(t, top)); got != want {
		t.Errorf("%d entries are listed, want %d", got, want)
	}
	if reader.cacheKey(t) != l.cacheKey(t) {
		t.Error("the key depends on who asks")
	}
	refusal{1, "no such file", "larder init"}.of(t, reader.machine, "larder", "list")
}

func TestListSaysWhoHasSignedAndWhatWasUsed(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		items := m.build(t, chain("3")...)
		source := m.run(t, "nix-store", "--add", "/larder/graphs/derive.nix")
		up := m.newUpstream(t, "signer-1", append(slices.Clone(items[:2]), source)...)
		l := &larder{machine: m, cache: up.dir, queue: rootsQueue}
		l.push(t, items...) // the last one without a signature

		l.forgetRuns(t)
		record := "larder-run 1\nended 2026-11-21T12:00:00Z\nused " + filepath.Base(items[1]) + "\nend\n"
		must(t, os.WriteFile(filepath.Join(l.cache, ".larder/runs/20261121T120000Z-host-x"), []byte(record), 0o644))

		other := m.newUpstream(t, "other-1", items[0])
		impostor := "signer-1:" + strings.TrimPrefix(other.key, "other-1:")
		for key, want := range map[string][]string{
			up.key:    {"valid", "valid", "unsigned", "content-addressed"},
			other.key: {"unsigned", "unsigned", "unsigned", "content-addressed"},
			impostor:  {"invalid", "invalid", "unsigned", "content-addressed"},
			"":        {"", "", "", ""},
		} {
			list := l.with("LARDER_TRUSTED_PUBLIC_KEY=" + key)
			found := 0
			for _, e := range (&larder{machine: list, cache: l.cache}).list(t) {
				i := slices.Index(append(slices.Clone(items), source), e.Path)
				if i < 0 {
					continue
				}
				found++
				if e.SignatureState != want[i] {
					t.Errorf("with %q, %s is %q, want %q", key, e.Path, e.SignatureState, want[i])
				}
				if signed := slices.Contains(e.Signatures, "signer-1"); signed != (i != 2) {
					t.Errorf("signatures of %s are %q", e.Path, e.Signatures)
				}
				// What an entry that was used refers to was used as well.
				if used := e.LastUse != nil; used != (i < 2) {
					t.Errorf("last use of %s is %v", e.Path, e.LastUse)
				}
			}
			if found != len(want) {
				t.Errorf("%d of %d are listed", found, len(want))
			}
		}
	})
}

func TestListNamesDamagedEntries(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	l.push(t, top)
	all := entries(t, l.cache)
	must(t, os.Remove(filepath.Join(l.cache, all[top].nar)))
	stdout, stderr, exit := l.tryRun(t, "larder", "list", "--cache", l.cache)
	name := filepath.Base(top)[:32] + ".narinfo"
	if exit != 1 || strings.Count(stdout, "\n") != len(all)-1 || strings.Contains(stdout, top) ||
		!strings.Contains(stderr, name+": entry is damaged: "+all[top].nar+" is missing") {
		t.Errorf("exit %d; stdout:\n%sstderr:\n%s", exit, stdout, stderr)
	}
	l.push(t, top) // as its hint says
	if got := l.list(t); len(got) != len(all) {
		t.Errorf("%d entries are listed, want %d", len(got), len(all))
	}
}
