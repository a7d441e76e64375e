package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
)

// Some store paths, by name and then by hash.
const (
	app      = "/gnu/store/1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-app"
	otherApp = "/gnu/store/2b2q5sg1zi5kd2ypk8i3nqs3jp1a0rcm-app"
	lib      = "/gnu/store/0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-lib"
)

// listedCache makes a cache for another store than this machine's, which has no Nix.
// The first app needs the lib, which is signed.
func listedCache(t *testing.T) (c *bincache.Cache, key signature.PublicKey) {
	t.Helper()
	t.Setenv("LARDER_CACHE", "")
	t.Setenv("LARDER_QUEUE", filepath.Join(t.TempDir(), "queue.db"))
	t.Setenv("NIX_STATE_DIR", filepath.Join(t.TempDir(), "missing"))
	c, err := bincache.Create(filepath.Join(t.TempDir(), "cache"), "/gnu/store", bincache.Options{})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	secret, key, err := signature.GenerateKeypair("key-1", nil)
	must(t, err)
	for _, n := range []*bincache.NarInfo{
		{StorePath: lib},
		{StorePath: app, References: []string{filepath.Base(app), filepath.Base(lib)}, Deriver: filepath.Base(otherApp) + ".drv"},
		{StorePath: otherApp},
	} {
		text := "contents of " + n.StorePath
		hash := bincache.Hash(sha256.Sum256([]byte(text)))
		n.URL, n.Compression, n.FileHash, n.FileSize, n.NarHash, n.NarSize = bincache.NarName(hash, "none"), "none", hash, int64(len(text)), hash, int64(len(text))
		if n.StorePath == lib {
			sig, err := secret.Sign(nil, n.Fingerprint())
			must(t, err)
			n.Sigs = []string{sig.String()}
		}
		must(t, os.WriteFile(filepath.Join(c.Path(), n.URL), []byte(text), 0o644))
		must(t, os.WriteFile(narInfoFile(c, n.StorePath), n.Format(), 0o644))
	}
	return c, key
}

func narInfoFile(c *bincache.Cache, path string) string {
	return filepath.Join(c.Path(), filepath.Base(path)[:32]+".narinfo")
}

func writeRecord(t *testing.T, c *bincache.Cache, ended time.Time, paths ...string) {
	t.Helper()
	written, err := c.RecordRun(bincache.Run{Ended: ended, Used: paths}, 0)
	if err != nil || !written {
		t.Fatalf("record run: %v, %v", written, err)
	}
}

// writeExtras gives app a listing and a log.
func writeExtras(t *testing.T, c *bincache.Cache) {
	t.Helper()
	for _, name := range []string{bincache.ListingName(app), bincache.LogName(otherApp + ".drv")} {
		must(t, os.WriteFile(filepath.Join(c.Path(), name), nil, 0o644))
	}
}

// larder runs a command.
func larder(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"larder"}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// prints fails the test if a command does not print this, and nothing else.
func prints(t *testing.T, want string, args ...string) {
	t.Helper()
	stdout, stderr, code := larder(t, args...)
	if diff := cmp.Diff(want, stdout); diff != "" || stderr != "" || code != 0 {
		t.Errorf("larder %q exits with %d and says %q (-want +got):\n%s", args, code, stderr, diff)
	}
}

func TestListIsOfPathsSortedByName(t *testing.T) {
	c, _ := listedCache(t)
	want := app + "\n" + otherApp + "\n" + lib + "\n"
	prints(t, want, "list", "--cache", c.Path())
	t.Setenv("LARDER_CACHE", bincache.URL(c.Path()))
	prints(t, want, "list")
	// It is complete whoever else wrote there, and whatever they added.
	must(t, os.RemoveAll(filepath.Join(c.Path(), ".larder")))
	must(t, os.WriteFile(filepath.Join(c.Path(), "debuginfo.ls"), nil, 0o644))
	prints(t, want, "list")
	if files, err := os.ReadDir(c.Path()); err != nil || len(files) != 12 {
		t.Errorf("the cache has %v, %v", files, err)
	}
}

func TestListInJSONHasAllOfAnEntry(t *testing.T) {
	c, key := listedCache(t)
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	writeRecord(t, c, noon.Add(-time.Hour), lib)
	writeRecord(t, c, noon, app)
	writeExtras(t, c)
	list := func(args ...string) (objects []map[string]any) {
		t.Helper()
		stdout, stderr, code := larder(t, append([]string{"list", "--json", "--cache", c.Path()}, args...)...)
		if code != 0 || stderr != "" {
			t.Errorf("list exits with %d: %s", code, stderr)
		}
		for line := range strings.Lines(stdout) {
			var o map[string]any
			must(t, json.Unmarshal([]byte(line), &o))
			objects = append(objects, o)
		}
		return objects
	}
	object := func(path string, fields map[string]any) map[string]any {
		n, err := c.Entry(path)
		must(t, err)
		o := map[string]any{
			"path": path, "nar_hash": n.NarHash.String(), "nar_size": float64(n.NarSize), "file_size": float64(n.FileSize), "url": n.URL,
			"compression": "none", "references": []any{}, "deriver": "", "ca": "", "signatures": []any{}, "last_use": nil,
			"listing": false, "log": false,
		}
		maps.Copy(o, fields)
		return o
	}
	used := noon.Format(time.RFC3339)
	want := []map[string]any{
		object(app, map[string]any{"references": []any{app, lib}, "deriver": otherApp + ".drv", "last_use": used, "listing": true, "log": true}),
		object(otherApp, nil),
		object(lib, map[string]any{"signatures": []any{"key-1"}, "last_use": used}),
	}
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	other, _, err := signature.GenerateKeypair("other-1", nil)
	must(t, err)
	want[0]["signature_state"], want[1]["signature_state"], want[2]["signature_state"] = "unsigned", "unsigned", "valid"
	if diff := cmp.Diff(want, list("--trusted-public-key", other.ToPublicKey().String(), "--trusted-public-key", key.String())); diff != "" {
		t.Errorf("with keys (-want +got):\n%s", diff)
	}
	t.Setenv("LARDER_TRUSTED_PUBLIC_KEY", " "+key.String()+" "+other.ToPublicKey().String()+"\n")
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Errorf("with keys in the environment (-want +got):\n%s", diff)
	}
	want[2]["signature_state"] = "unsigned"
	if diff := cmp.Diff(want, list("--trusted-public-key", other.ToPublicKey().String())); diff != "" {
		t.Errorf("the flag goes before the environment (-want +got):\n%s", diff)
	}
}

func TestLongListIsATable(t *testing.T) {
	c, key := listedCache(t)
	now := time.Now()
	writeRecord(t, c, now, lib)
	writeExtras(t, c)
	stdout, stderr, code := larder(t, "list", "-l", "--cache", c.Path(), "--trusted-public-key", key.String())
	if code != 0 || stderr != "" {
		t.Errorf("list exits with %d: %s", code, stderr)
	}
	var got [][]string
	for line := range strings.Lines(stdout) {
		got = append(got, regexp.MustCompile(` {2,}`).Split(strings.TrimSpace(line), -1))
	}
	size := func(path string) string {
		n, err := c.Entry(path)
		must(t, err)
		return fmt.Sprintf("%d B", n.NarSize)
	}
	want := [][]string{
		{"PATH", "NAR", "FILE", "WITH", "LAST USE", "SIGNED BY"},
		{app, size(app), size(app), "listing, log", "-", "(none) (unsigned)"},
		{otherApp, size(otherApp), size(otherApp), "-", "-", "(none) (unsigned)"},
		{lib, size(lib), size(lib), "-", now.Format("2006-01-02 15:04"), "key-1 (valid)"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListNamesWhatIsDamagedAndListsTheRest(t *testing.T) {
	c, _ := listedCache(t)
	n, err := c.Entry(lib)
	must(t, err)
	must(t, os.Remove(filepath.Join(c.Path(), n.URL)))
	must(t, os.WriteFile(narInfoFile(c, app), []byte("StorePath: \x1b[31m"), 0o644))
	must(t, os.WriteFile(filepath.Join(c.Path(), ".larder/runs/cut-off"), nil, 0o644))
	for _, tt := range []struct {
		args    []string
		damaged []string
	}{
		{nil, []string{narInfoFile(c, app), narInfoFile(c, lib)}},
		{[]string{"--json"}, []string{narInfoFile(c, app), narInfoFile(c, lib), "cut-off"}},
		{[]string{"--long"}, []string{narInfoFile(c, app), narInfoFile(c, lib), "cut-off"}},
	} {
		stdout, stderr, code := larder(t, append([]string{"list", "--cache", c.Path()}, tt.args...)...)
		if code != exitError || !strings.Contains(stdout, otherApp) || strings.Contains(stdout, app) || strings.Contains(stdout, lib) {
			t.Errorf("%q exits with %d and prints %q", tt.args, code, stdout)
		}
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		if len(lines) != len(tt.damaged)+2 || !strings.HasPrefix(lines[len(lines)-2], "larder: error: ") {
			t.Errorf("%q says %s", tt.args, stderr)
		}
		for _, file := range tt.damaged {
			if !strings.Contains(stderr, filepath.Base(file)+": ") {
				t.Errorf("%q does not name %s: %s", tt.args, file, stderr)
			}
		}
		if strings.Contains(stderr, "\x1b") {
			t.Errorf("%q writes what is in the file to a terminal: %q", tt.args, stderr)
		}
	}
}

func TestListOfAnEmptyCacheIsEmpty(t *testing.T) {
	c, err := bincache.Create(t.TempDir(), "/nix/store", bincache.Options{})
	must(t, err)
	defer c.Close()
	prints(t, "", "list", "--cache", c.Path())
	prints(t, "", "list", "--json", "--cache", c.Path())
}

func TestListMakesNoCache(t *testing.T) {
	t.Setenv("LARDER_CACHE", "")
	missing := filepath.Join(t.TempDir(), "missing")
	for _, dir := range []string{missing, t.TempDir()} {
		stdout, stderr, code := larder(t, "list", "--cache", dir)
		if code != exitError || stdout != "" || !strings.Contains(stderr, "larder: hint: ") {
			t.Errorf("list of %s exits with %d and prints %q, %q", dir, code, stdout, stderr)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("list made a directory")
	}
}

func TestListedKeyIsTheCachesAlone(t *testing.T) {
	c, _ := listedCache(t)
	want, err := c.Key(t.Context())
	must(t, err)
	prints(t, want+"\n", "list", "--key", "--cache", c.Path())
	moved := filepath.Join(t.TempDir(), "elsewhere")
	must(t, os.Rename(c.Path(), moved))
	prints(t, want+"\n", "list", "--key", "--cache", moved)
}
