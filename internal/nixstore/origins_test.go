package nixstore

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
)

// TestRegistrationTellsHowAPathCame has all the ways that a path comes into a store.
// What can be told of them is what package rules goes by.
func TestRegistrationTellsHowAPathCame(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("file"), 0o644))
	key := func(t *testing.T, nix *nixtest.Store) (secret, public string) {
		base := filepath.Join(t.TempDir(), "key")
		nix.Run(t, "nix-store", "--generate-binary-cache-key", "cache.example.org-1", base, base+".pub")
		text, err := os.ReadFile(base + ".pub")
		must(t, err)
		return base, string(text)
	}
	built := func(t *testing.T, nix *nixtest.Store) string {
		return nix.Build(t, `build "built" "echo built > $out" { }`)[0]
	}
	// again takes a path away, but for its derivation, and brings it back.
	again := func(t *testing.T, nix *nixtest.Store, path string, args ...string) string {
		nix.Run(t, "nix-store", "--delete", path)
		nix.Run(t, args[0], args[1:]...)
		return path
	}
	// A trace is what a registration says, without the particulars.
	type trace struct {
		Deriver, Ultimate, Output bool
		Sigs                      []string // names of keys
		CA                        string   // the beginning
	}
	for name, test := range map[string]struct {
		bring func(t *testing.T, nix *nixtest.Store) (path string)
		want  trace
	}{
		"built": {built, trace{Deriver: true, Ultimate: true, Output: true}},
		"built, and the derivation is gone": {func(t *testing.T, nix *nixtest.Store) string {
			path := built(t, nix)
			drv := nix.Run(t, "nix-store", "-q", "--deriver", path)
			nix.Run(t, "nix-store", "--delete", drv, "--option", "keep-derivations", "false")
			return path
		}, trace{Deriver: true, Ultimate: true}},
		"built with a secret key": {func(t *testing.T, nix *nixtest.Store) string {
			secret, _ := key(t, nix)
			drv := nix.Run(t, "nix-instantiate", "-E", `derivation { name = "signed"; system = builtins.currentSystem;
				builder = "/bin/sh"; args = [ "-c" "echo signed > $out; exit 0" ]; }`)
			return nix.Run(t, "nix-store", "-r", drv, "--option", "secret-key-files", secret)
		}, trace{Deriver: true, Ultimate: true, Output: true, Sigs: []string{"cache.example.org-1"}}},
		"built, with a fixed output": {func(t *testing.T, nix *nixtest.Store) string {
			return nix.Build(t, fmt.Sprintf(`build "fixed" "printf x > $out" {
				outputHashAlgo = "sha256"; outputHash = "%x"; }`, sha256.Sum256([]byte("x"))))[0]
		}, trace{Deriver: true, Ultimate: true, Output: true, CA: "fixed:sha256:"}},
		"a derivation": {func(t *testing.T, nix *nixtest.Store) string {
			return nix.Run(t, "nix-store", "-q", "--deriver", built(t, nix))
		}, trace{CA: "text:sha256:"}},
		"added": {func(t *testing.T, nix *nixtest.Store) string {
			return nix.Add(t, "source", "source")
		}, trace{CA: "fixed:r:sha256:"}},
		"added as a flat file": {func(t *testing.T, nix *nixtest.Store) string {
			return nix.Run(t, "nix-store", "--add-fixed", "sha256", file)
		}, trace{CA: "fixed:sha256:"}},
		"a path of an expression": {func(t *testing.T, nix *nixtest.Store) string {
			return strings.Trim(nix.Run(t, "nix-instantiate", "--eval", "--read-write-mode", "-E", `"${`+file+`}"`), `"`)
		}, trace{CA: "fixed:r:sha256:"}},
		"builtins.toFile": {func(t *testing.T, nix *nixtest.Store) string {
			return nix.AddTexts(t, "text", 1)
		}, trace{CA: "text:sha256:"}},
		"builtins.fetchurl": {func(t *testing.T, nix *nixtest.Store) string {
			return strings.Trim(nix.Run(t, "nix-instantiate", "--eval", "--read-write-mode", "-E",
				`"${builtins.fetchurl "file://`+file+`"}"`), `"`)
		}, trace{CA: "fixed:sha256:"}},
		"imported": {func(t *testing.T, nix *nixtest.Store) string {
			path := built(t, nix)
			archive := filepath.Join(t.TempDir(), "archive")
			exported, err := nix.Command("nix-store", "--export", path).Output()
			must(t, err)
			must(t, os.WriteFile(archive, exported, 0o644))
			return again(t, nix, path, "sh", "-c", "nix-store --import < "+archive)
		}, trace{Deriver: true, Output: true}},
		"copied without a signature": {func(t *testing.T, nix *nixtest.Store) string {
			path, cache := built(t, nix), "file://"+t.TempDir()
			nix.Run(t, "nix", "copy", "--to", cache, path)
			return again(t, nix, path, "nix", "copy", "--no-check-sigs", "--from", cache, path)
		}, trace{Deriver: true, Output: true}},
		"copied with a signature": {func(t *testing.T, nix *nixtest.Store) string {
			secret, public := key(t, nix)
			path, cache := built(t, nix), "file://"+t.TempDir()
			nix.Run(t, "nix", "copy", "--to", cache+"?secret-key="+secret, path)
			return again(t, nix, path, "nix", "copy", "--option", "trusted-public-keys", public, "--from", cache, path)
		}, trace{Deriver: true, Output: true, Sigs: []string{"cache.example.org-1"}}},
		"substituted": {func(t *testing.T, nix *nixtest.Store) string {
			secret, public := key(t, nix)
			path, cache := built(t, nix), "file://"+t.TempDir()
			nix.Run(t, "nix", "copy", "--to", cache+"?secret-key="+secret, path)
			return again(t, nix, path, "nix-store", "-r", path, "--option", "substituters", cache, "--option", "trusted-public-keys", public)
		}, trace{Deriver: true, Output: true, Sigs: []string{"cache.example.org-1"}}},
		"a source, copied without a signature": {func(t *testing.T, nix *nixtest.Store) string {
			path, cache := nix.Add(t, "source", "source"), "file://"+t.TempDir()
			nix.Run(t, "nix", "copy", "--to", cache, path)
			return again(t, nix, path, "nix", "copy", "--from", cache, path)
		}, trace{CA: "fixed:r:sha256:"}},
		"a fixed output, copied without a signature": {func(t *testing.T, nix *nixtest.Store) string {
			path, cache := nix.Build(t, fmt.Sprintf(`build "fixed" "printf x > $out" {
				outputHashAlgo = "sha256"; outputHash = "%x"; }`, sha256.Sum256([]byte("x"))))[0], "file://"+t.TempDir()
			nix.Run(t, "nix", "copy", "--to", cache, path)
			return again(t, nix, path, "nix", "copy", "--from", cache, path)
		}, trace{Deriver: true, Output: true, CA: "fixed:sha256:"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nix := nixtest.New(t)
			path := test.bring(t, nix)
			reg, err := openStore(t, nix).Registration(t.Context(), path)
			must(t, err)
			got := trace{Deriver: reg.Deriver != "", Ultimate: reg.Ultimate, Output: reg.Output, CA: reg.CA}
			for _, sig := range reg.Sigs {
				name, _, _ := strings.Cut(sig, ":")
				got.Sigs = append(got.Sigs, name)
			}
			if strings.HasPrefix(got.CA, test.want.CA) && test.want.CA != "" {
				got.CA = test.want.CA
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if reg.Path != path || reg.NarSize < 100 || reg.Deriver != "" && !strings.HasSuffix(reg.Deriver, ".drv") {
				t.Errorf("registration is %+v", reg)
			}
		})
	}
}
