package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A collected is what larder gc --json prints.
type collected struct {
	Entries int `json:"entries"`
	Evicted []struct {
		Path string `json:"path"`
		Why  string `json:"why"`
	} `json:"evicted"`
	Pinned       int   `json:"pinned"`
	Short        int64 `json:"short"`
	RemovedBytes int64 `json:"removed_bytes"`
	WaitingBytes int64 `json:"waiting_bytes"`
}

func (m *machine) gc(t *testing.T, cache string, args ...string) (r collected) {
	t.Helper()
	must(t, json.Unmarshal([]byte(m.run(t, append([]string{"larder", "gc", "--cache", cache, "--json"}, args...)...)), &r))
	return r
}

// sharing returns an expression for an output that needs one that others need as well.
func sharing(name string) string {
	return fmt.Sprintf(`let shared = %s; in import /larder/graphs/derive.nix %q { inherit shared; } "echo $shared > $out; head -c 100000 /dev/urandom >> $out"`, oneExpr("shared"), name)
}

// TestReadersAreNotDisturbedByTheCollector has every Nix substitute the same closure again
// and again, while others that share paths with it come and go.
func TestReadersAreNotDisturbedByTheCollector(t *testing.T) {
	t.Parallel()
	writer := newMachine(t, nixes[0])
	cache := filepath.Join(tempDir(t), "cache")
	kept := writer.build(t, "--expr", sharing("kept"))[0]
	closure := writer.closure(t, kept)
	var others []string
	for i := range 6 {
		others = append(others, writer.build(t, "--expr", sharing(fmt.Sprint("other-", i)))[0])
	}
	writer.run(t, "larder", "push", "--cache", cache, kept)
	writer.run(t, "larder", "pin", "--cache", cache, "production", kept)

	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, n := range nixes {
		reader := newMachine(t, n)
		reader.substitute(t, cache, kept)
		readers.Go(func() {
			for times := 0; ; times++ {
				select {
				case <-done:
					if times == 0 {
						t.Errorf("%s has not come to read", n.name)
					}
					return
				default:
				}
				delete := append([]string{"nix-store", "--delete"}, closure...)
				read := []string{"nix-store", "--realise", "--option", "substituters", "file://" + cache + "?trusted=true", kept}
				for _, args := range [][]string{delete, read} {
					if _, stderr, exit := reader.tryRun(t, args...); exit != 0 {
						t.Errorf("%s: %q ends with %d: %s", n.name, args, exit, stderr)
						return
					}
				}
			}
		})
	}
	evicted := 0
	for i := range 12 {
		writer.run(t, "larder", "push", "--cache", cache, others[i%len(others)], others[(i+1)%len(others)])
		evicted += len(writer.gc(t, cache, "--max-size", "150k", "--grace", []string{"0s", "1h"}[i%2]).Evicted)
	}
	close(done)
	readers.Wait()
	if evicted < 6 {
		t.Errorf("%d entries went, want many", evicted)
	}
	checkWhole(t, cache)
	if r := writer.gc(t, cache, "--max-size", "1", "--grace", "0s"); r.Pinned != len(closure) || r.WaitingBytes != 0 {
		t.Errorf("in the end: %+v", r)
	}
	equalPaths(t, "in the end there is", writer.lines(t, "larder", "list", "--cache", cache), closure)
}

// TestRunKeepsACacheWithinLimits has jobs that need other things each time, and the same
// directory, whose times mean nothing.
func TestRunKeepsACacheWithinLimits(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	cache := filepath.Join(tempDir(t), "cache")
	run := func(name string) string {
		t.Helper()
		_, stderr, exit := m.tryRun(t, "larder", "run", "--cache", cache, "--max-size", "320k", "--",
			"nix-build", "--no-out-link", "--expr", sharing(name))
		if exit != 0 {
			t.Fatalf("run ends with %d: %s", exit, stderr)
		}
		return stderr
	}
	for i := range 5 {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // records are to the second
		said := run(fmt.Sprint("job-", i))
		if full := i > 2; full != strings.Contains(said, "removed from the cache") {
			t.Errorf("run %d says:\n%s", i, said)
		}
	}
	list := m.lines(t, "larder", "list", "--cache", cache)
	var names []string
	for _, path := range list {
		names = append(names, path[strings.LastIndexByte(path, '/')+34:])
	}
	if want := []string{"job-2", "job-3", "job-4", "shared"}; !slices.Equal(names, want) {
		t.Errorf("there are %q, want %q", names, want)
	}
	checkWhole(t, cache)
	before := files(t, cache)
	run("job-4")
	unchanged(t, "a run that finds everything", before, files(t, cache))
}

// A pin keeps a closure: what the cache lacks of it comes from the store, or there is no pin.
func TestPinCompletesAClosure(t *testing.T) {
	t.Parallel()
	l := &larder{machine: newMachine(t, nixes[0]), cache: filepath.Join(tempDir(t), "cache")}
	const expr = `let d = import /larder/graphs/derive.nix; base = d "base" { } "echo base > $out"; in d "top" { } "echo ${base} > $out"`
	top := l.build(t, "--expr", expr)[0]
	closure := l.closure(t, top)
	base := closure[slices.IndexFunc(closure, func(path string) bool { return path != top })]
	baseInfo := filepath.Join(l.cache, filepath.Base(base)[:32]+".narinfo")
	l.run(t, "larder", "push", top, "--cache", l.cache)
	for name, spoil := range map[string]func(){
		"a-reference-is-gone": func() { must(t, os.Remove(baseInfo)) },
		"its-nar-is-gone":     func() { must(t, os.Remove(filepath.Join(l.cache, entries(t, l.cache)[base].nar))) },
		"nothing":             func() {},
	} {
		spoil()
		l.run(t, "larder", "pin", name, top, "--cache", l.cache)
		checkWhole(t, l.cache)
		l.verified(t, 0)
	}

	must(t, os.Remove(baseInfo))
	other := newMachine(t, nixes[0])
	refusal{1, base + ", which " + top + " needs, is not in the cache, and can't be copied", "--upstream"}.of(t, other, "larder", "pin", "--cache", l.cache, "other", top)
	if pins := l.run(t, "larder", "pins", "--cache", l.cache); strings.Contains(pins, "other") {
		t.Errorf("there are the pins\n%s", pins)
	}
	other.run(t, "larder", "pin", "--cache", l.cache, "other", top, "--upstream")

	// What the rules leave to an upstream is none.
	c := newSignedChain(t, nixes[0])
	c.drain(t)
	c.run(t, "larder", "pin", "chain", c.items[3])
	equalPaths(t, "cache", c.cached(t), slices.Sorted(slices.Values(c.items[1:])))
}

// TestDaemonKeepsACacheWithinLimits has a daemon collect what it copied.
func TestDaemonKeepsACacheWithinLimits(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	worker := l.startWorker(t, "--gc-interval", "50ms", "--gc-grace", "0s", "--max-size", "250k")
	var last string
	for i := range 5 {
		last = l.built(t, "--expr", sharing(fmt.Sprint("day-", i)))[0]
	}
	l.drain(t)
	worker.waitFor(t, "msg=collected")
	eventually(t, "the cache is within its limit", func() bool {
		return len(l.gc(t, l.cache, "--max-size", "250k", "--dry-run").Evicted) == 0
	})
	worker.signal(t, syscall.SIGTERM)
	worker.wait(t)
	checkWhole(t, l.cache)
	if list := l.cached(t); !slices.Contains(list, last) || len(list) > 3 {
		t.Errorf("there are %q, want %s among them", list, last)
	}
}
