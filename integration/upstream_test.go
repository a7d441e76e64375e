package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An upstream is a cache that others keep, whose entries have their signature.
type upstream struct {
	dir string
	key string // for trusted-public-keys
}

// newUpstream makes a key of that name, and a cache with the closure of some paths of
// the machine, signed by it.
func (m *machine) newUpstream(t *testing.T, name string, paths ...string) upstream {
	t.Helper()
	secret, key := m.newKey(t, name)
	up := upstream{filepath.Join(tempDir(t), "cache"), key}
	m.run(t, append([]string{"nix", "copy", "--to", "file://" + up.dir + "?secret-key=" + secret}, paths...)...)
	return up
}

// newKey has Nix make a key of that name, and returns the file of the secret key, and
// the public key as it is in trusted-public-keys.
func (m *machine) newKey(t *testing.T, name string) (secret, public string) {
	t.Helper()
	secret = filepath.Join(tempDir(t), "secret")
	m.run(t, "nix-store", "--generate-binary-cache-key", name, secret, secret+".pub")
	key, err := os.ReadFile(secret + ".pub")
	must(t, err)
	return secret, strings.TrimSpace(string(key))
}

// chain is count derivations, each of which needs the one before it.
func chain(count string) []string {
	return []string{manyGraph, "--arg", "count", count, "--arg", "chained", "true"}
}

// A signedChain is a larder into which the first two of a chain of four came from
// two upstreams, and the others were built.
type signedChain struct {
	*larder
	left, other upstream // of which larder leaves the first one's to it
	items       []string
}

func newSignedChain(t *testing.T, n nix, args ...string) signedChain {
	t.Helper()
	m := newMachine(t, n)
	items := m.build(t, chain("2")...)
	c := signedChain{left: m.newUpstream(t, "left-1", items[0]), other: m.newUpstream(t, "left-10", items[1])}
	c.larder = newLarder(t, n, append([]string{"--skip-signed-by", "left-1"}, args...)...)
	c.unconfigure(t)
	c.configure(t, c.larder.conf[0], "trusted-public-keys = "+c.left.key+" "+c.other.key)
	for i, up := range []upstream{c.left, c.other} {
		c.run(t, "nix-store", "--realise", "--max-jobs", "0", "--option", "substituters", "file://"+up.dir, items[i])
	}
	c.items = c.build(t, chain("4")...)
	return c
}

// substitutes tells whether a fresh machine gets a path from some caches.
func substitutes(t *testing.T, n nix, path string, keys []string, urls ...string) (stderr string, ok bool) {
	t.Helper()
	fresh := newMachine(t, n, "substituters = "+strings.Join(urls, " "), "trusted-public-keys = "+strings.Join(keys, " "))
	_, stderr, exit := fresh.tryRun(t, "nix-store", "--realise", "--max-jobs", "0", path)
	return stderr, exit == 0
}

// What an upstream has signed stays there, and only that.
func TestWhatAnUpstreamSignedIsLeftToIt(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		c := newSignedChain(t, n)
		c.drain(t)
		c.nothingLeft(t)
		equalPaths(t, "cache", c.cached(t), slices.Sorted(slices.Values(c.items[1:])))
		if e := c.explained(t, c.items[0]); e.State != "upstream" || e.Upstream != "left-1" || !strings.Contains(e.Rule, "signed by left-1") {
			t.Errorf("explained is %+v", e)
		}
		for _, path := range c.items[1:] {
			if e := c.explained(t, path); e.State != "cached" || e.Upstream != "" || e.MissingReferences != nil || e.Missing != nil {
				t.Errorf("explained is %+v", e)
			}
		}

		ours, last := "file://"+c.cache+"?trusted=true", c.items[3]
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				if stderr, ok := substitutes(t, n, last, []string{c.left.key}, ours, "file://"+c.left.dir); !ok {
					t.Errorf("with the upstream: %s", stderr)
				}
			})
		}
		if stderr, ok := substitutes(t, n, last, nil, ours); ok || !strings.Contains(stderr, c.items[0]) {
			t.Errorf("the cache alone has all, or more than the upstream's is missing: %s", stderr)
		}
	})
}

// A path that an upstream has need not come in, so that no rule keeps it out.
func TestUpstreamBeatsRulesThatLeaveOut(t *testing.T) {
	t.Parallel()
	c := newSignedChain(t, nixes[0], "--exclude", "item-1")
	c.drain(t)
	equalPaths(t, "cache", c.cached(t), slices.Sorted(slices.Values(c.items[1:])))
	if e := c.explained(t, c.items[0]); e.State != "upstream" {
		t.Errorf("explained is %+v", e)
	}
}

// Once the rule is gone, what it left out comes, whatever needed it before.
func TestUpstreamsPathsComeWhenTheRuleGoes(t *testing.T) {
	t.Parallel()
	c := newSignedChain(t, nixes[0])
	c.drain(t)
	c.run(t, "larder", "init", "--skip-signed-by", "")
	if e := c.explained(t, c.items[3]); e.State != "cached" {
		t.Errorf("the last one is explained by %+v", e)
	}
	if e := c.explained(t, c.items[1]); e.State != "broken" || !slices.Equal(e.MissingReferences, c.items[:1]) {
		t.Errorf("the one that refers to it is explained by %+v", e)
	}
	c.drain(t)
	equalPaths(t, "cache", c.cached(t), slices.Sorted(slices.Values(c.items)))
	checkWhole(t, c.cache)
}

// The store forgets who signed what when it is collected, but an entry that was as it
// should be is not broken by that.
func TestEntryIsNotBrokenOnceTheUpstreamsPathIsCollected(t *testing.T) {
	t.Parallel()
	c := newSignedChain(t, nixes[0])
	c.drain(t)
	c.collectGarbage(t)
	if e := c.explained(t, c.items[1]); e.State != "cached" {
		t.Errorf("explained is %+v", e)
	}
}
