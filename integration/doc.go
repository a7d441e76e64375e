// Package integration tests larder from outside, as its users meet it: the
// real binaries, run by real Nix, in every version of Nix that we support.
//
// # Machines
//
// A test gets as many machines as it wants. Each has one version of Nix, an
// empty /nix, its own /etc, /var and homes, and its own processes; they end
// with the test, and so does everything they started. Tests and machines run in
// parallel and don't see each other. The host's /nix and /var are not in them.
//
//	func TestBuildReachesTheCache(t *testing.T) {
//		eachNix(t, func(t *testing.T, n nix) {
//			cache := tempDir(t)
//			m := newMachine(t, n, "post-build-hook = "+hookPath)
//			m.run(t, "larder", "init", "--cache", cache)
//			outs := m.build(t, standardGraph)
//			m.run(t, "larder", "drain")
//			for _, n := range nixes {
//				fresh := newMachine(t, n)
//				fresh.substitute(t, cache, outs...)
//			}
//		})
//	}
//
// What a machine sees:
//
//	/usr /bin /lib…       of the system that has this Nix, read-only
//	/nix /etc /var /root /home   its own, on the host below machine.dir
//	/tmp                  the host's, so t.TempDir is the same path everywhere
//	/larder/bin           the binaries under test, first in PATH
//	/larder/graphs        testdata/graphs: derivations that need no nixpkgs
//
// [machine] has the rest: other users, the nix-daemon, background processes.
// It takes root and Linux namespaces, but no container engine.
//
// # Recipes
//
// ci has a recipe for every CI provider, and tests that run all shell and JavaScript
// of them as the provider would; only the provider is not real.
//
// # What it needs
//
// Nix 2.8 (or whichever the host has) as a package of the host, and the script
// nix-roots for the other versions. Without them tests are skipped, or fail if
// LARDER_REQUIRE_NIX is 1. The binaries come from LARDER_BIN, by default ../bin;
// make builds them if they are missing.
package integration
