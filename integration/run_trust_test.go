package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A job of a fork may not write, and is given no secret; what it gets from the cache it
// must be able to trust, and so must who is given a cache that a fork could write to.
func TestForksJobReadsWithThePublicKey(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		scratch := newMachine(t, n)
		secret, public := scratch.newKey(t, "ci-1")
		_, other := scratch.newKey(t, "ci-1")
		if r.name == "allowed" {
			r.conf = []string{"trusted-substituters = file:///home/bob/cache", "extra-trusted-public-keys = " + public}
		}
		p := provider{n, r}

		first := p.job(t, "")
		first.machine = first.with("LARDER_SIGNING_KEY=" + readFile(t, secret))
		o := first.runs(t, "sh", "-euc", `test -z "${LARDER_SIGNING_KEY-}"; exec "$@"`, "-", "nix-build", "--no-out-link", projectGraph)
		o.hasBuilt(t, "app", "compiler", "docs", "download", "leaf", "lib", "part")
		first.signedBy(t, first.cached(t), "ci-1")
		first.holdsAll(t)

		for what, c := range map[string]struct {
			key   string
			reads bool
		}{"the key": {public, r.reads}, "another key of that name": {other, r.name == "allowed"}} { // where the administrator chooses the keys
			fork := p.job(t, first.cache)
			before := files(t, fork.cache)
			args := slices.Insert(fork.around(buildProject()...), 2, "--read-only", "--trusted-public-key", c.key)
			_, stderr, exit := fork.tryRun(t, args...)
			if built := buildings(stderr); exit != 0 || c.reads != (len(built) == 0) {
				t.Errorf("%s: exit %d, built %q: %s", what, exit, built, stderr)
			}
			unchanged(t, what, before, files(t, fork.cache))
			fork.leftNothing(t)
		}
	})
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}

// The jobs of a matrix each save a directory; what comes after all of them has one.
func TestMatrixIsMerged(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		p := provider{n, roles[0]}
		one, two := p.job(t, ""), p.job(t, "")
		one.runs(t, buildProject()...)
		two.runs(t, buildProject("--argstr", "leaf", "2")...)

		last := p.job(t, "")
		restore(t, one.cache, last.host("/root/one"), alice)
		restore(t, two.cache, last.host("/root/two"), alice)
		last.run(t, "larder", "merge", "--cache", "cache", "one", "two")
		last.runs(t, buildProject()...).hasBuilt(t)
		last.runs(t, buildProject("--argstr", "leaf", "2")...).hasBuilt(t)
		hasPaths(t, "cache", last.cached(t), one.cached(t))
		hasPaths(t, "cache", last.cached(t), two.cached(t))
		last.whole(t)
	})
}

// Whoever has a hook already goes on having it.
func TestHookThatIsThereIsChainedForARun(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		hook, calls := recordingHook(t)
		must(t, os.Chmod(filepath.Dir(hook), 0o777))
		line := "post-build-hook = " + hook
		if r.name != "trusted" { // who may have it where others may not
			r.conf = append(r.conf[:len(r.conf):len(r.conf)], line)
			line = ""
		}
		j := provider{n, r}.job(t, "")
		j.machine = j.with("NIX_CONFIG=" + line)
		j.runs(t, buildProject()...)
		if c := calls(); len(c) != 7 {
			t.Errorf("the hook was called %d times, want 7: %v", len(c), c)
		}
		j.holdsAll(t)
		j.build(t, "--expr", oneExpr("afterwards"))
		if c := calls(); len(c) != 8 {
			t.Errorf("the hook was called %d times, want 8: %v", len(c), c)
		}
	})
}
