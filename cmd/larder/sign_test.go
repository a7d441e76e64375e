package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
)

// secretKeyFile writes a new secret key.
func secretKeyFile(t *testing.T, name string) (file string, public signature.PublicKey) {
	t.Helper()
	secret, public, err := signature.GenerateKeypair(name, nil)
	must(t, err)
	file = filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(file, []byte(secret.String()), 0o600))
	return file, public
}

func stateOf(t *testing.T, c *bincache.Cache, path string, key signature.PublicKey) bincache.SignatureState {
	t.Helper()
	n, err := c.Entry(path)
	must(t, err)
	return n.SignatureState([]signature.PublicKey{key})
}

func TestSignSaysWhatItHasDone(t *testing.T) {
	c, old := listedCache(t)
	url := bincache.URL(c.Path())
	file, key := secretKeyFile(t, "new-1")
	sign := func(args ...string) []string {
		return append([]string{"sign", "--cache", c.Path(), "--signing-key-file", file}, args...)
	}
	prints(t, "would change 2 of 2 entries in "+url+"; signatures: 2 added, 0 dropped\n", sign("--dry-run", app)...)
	prints(t, "changed 1 of 3 entries in "+url+"; signatures: 1 added, 1 dropped\n"+
		"not signed, since no trusted key has signed them: 2\n"+
		"without any signature, so that clients with require-sigs do not take them: 2\n",
		sign("--trusted-public-key", old.String(), "--drop-key", "key-1")...)
	for path, want := range map[string]bincache.SignatureState{lib: bincache.Valid, app: bincache.Unsigned} {
		if state := stateOf(t, c, path, key); state != want {
			t.Errorf("%s is %s, want %s", path, state, want)
		}
	}
	prints(t, "changed 1 of 2 entries in "+url+"; signatures: 1 added, 0 dropped\n", sign(app)...)
	stdout, _, code := larder(t, sign("--json")...)
	var got map[string]any
	must(t, json.Unmarshal([]byte(stdout), &got))
	want := map[string]any{"cache": url, "dry_run": false, "entries": 3., "changed": 1., "added": 1., "dropped": 0., "untrusted": 0., "unsigned": 0., "damaged": 0., "realisations": 0., "realisations_changed": 0.}
	if diff := cmp.Diff(want, got); diff != "" || code != 0 {
		t.Errorf("exit %d (-want +got):\n%s", code, diff)
	}
	// No paths are not all paths.
	prints(t, "changed 0 of 0 entries in "+url+"; signatures: 0 added, 0 dropped\n", sign("--stdin", "--drop-key", "new-1")...)
}

func TestSignNamesWhatItCanNotSign(t *testing.T) {
	c, _ := listedCache(t)
	file, _ := secretKeyFile(t, "new-1")
	sign := []string{"sign", "--cache", c.Path(), "--signing-key-file", file}
	missing := "/gnu/store/3xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-missing"
	stdout, stderr, code := larder(t, append(sign, missing)...)
	if code != exitError || stdout != "" || !strings.Contains(stderr, missing) || !strings.Contains(stderr, "larder: hint: larder list") {
		t.Errorf("a path that is not there: exit %d, %q, %s", code, stdout, stderr)
	}
	must(t, os.WriteFile(narInfoFile(c, lib), []byte("nonsense"), 0o644))
	stdout, stderr, code = larder(t, sign...)
	if code != exitError || !strings.HasPrefix(stdout, "changed 2 of 3 entries") || !strings.Contains(stderr, filepath.Base(narInfoFile(c, lib))) || !strings.Contains(stderr, "can't be used, and were not signed: 1") {
		t.Errorf("a damaged entry: exit %d, %q, %s", code, stdout, stderr)
	}
}

// Somebody may paste the key itself.
func TestKeyToDropIsNotRepeated(t *testing.T) {
	c, _ := listedCache(t)
	file, _ := secretKeyFile(t, "new-1")
	secret, err := os.ReadFile(file)
	must(t, err)
	stdout, stderr, code := larder(t, "sign", "--cache", c.Path(), "--drop-key", string(secret))
	if code != exitUsage || strings.Contains(stdout+stderr, string(secret)[10:30]) {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

// A cache that is named may not be there yet, but then there is nothing to sign.
func TestSignMakesNoCache(t *testing.T) {
	file, _ := secretKeyFile(t, "new-1")
	dir := filepath.Join(t.TempDir(), "cache")
	for _, args := range [][]string{{}, {"--dry-run"}} {
		_, stderr, code := larder(t, append([]string{"sign", "--cache", dir, "--signing-key-file", file}, args...)...)
		if _, err := os.Stat(dir); err == nil || code != exitError || !strings.Contains(stderr, "larder: hint: ") {
			t.Errorf("exit %d: %s", code, stderr)
		}
	}
}
