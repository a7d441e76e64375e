package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// TestReleaseIsWhole looks at what make dist made, in the folder that LARDER_DIST
// names: however the programs are got, they are the same.
func TestReleaseIsWhole(t *testing.T) {
	dir := os.Getenv("LARDER_DIST")
	if dir == "" {
		t.Skip("LARDER_DIST names no folder that make dist made: make dist-check does")
	}
	archives, err := filepath.Glob(filepath.Join(dir, "larder-*-linux-amd64.tar.gz"))
	must(t, err)
	if len(archives) != 1 {
		t.Fatalf("archives for amd64 are %q", archives)
	}
	version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(archives[0]), "larder-"), "-linux-amd64.tar.gz")

	names := []string{"SHA256SUMS", "oci"}
	programsOf := make(map[string]map[string]string)
	var created time.Time
	for _, arch := range []string{"amd64", "arm64"} {
		files := make(map[string]string)
		for _, program := range programs {
			name := program + "-linux-" + arch
			text, err := os.ReadFile(filepath.Join(dir, name))
			must(t, err)
			files[program] = string(text)
			names = append(names, name)
		}
		programsOf[arch] = files

		name := "larder-" + version + "-linux-" + arch
		names = append(names, name+".tar.gz")
		text, err := os.ReadFile(filepath.Join(dir, name+".tar.gz"))
		must(t, err)
		var packed map[string]string
		packed, created = unpack(t, gunzip(t, text), name)
		if packed["LICENSE"] == "" || packed["README.md"] == "" || packed["larder"] != files["larder"] || packed["larder-hook"] != files["larder-hook"] || len(packed) != 4 {
			t.Errorf("%s.tar.gz has other files than those beside it, or more, or less", name)
		}
	}
	checkLayout(t, filepath.Join(dir, "oci"), version, created, programsOf)

	entries, err := os.ReadDir(dir)
	must(t, err)
	wantSums := ""
	got := make(map[string]bool)
	for _, e := range entries {
		got[e.Name()] = true
		if strings.HasPrefix(e.Name(), "larder-") {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			must(t, err)
			wantSums += fmt.Sprintf("%s  %s\n", digest.FromBytes(text).Encoded(), e.Name())
		}
	}
	want := make(map[string]bool)
	for _, name := range names {
		want[name] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	must(t, err)
	if diff := cmp.Diff(wantSums, string(sums)); diff != "" {
		t.Errorf("SHA256SUMS (-want +got):\n%s", diff)
	}
}

// unpack returns the files of an archive, which are all in one folder and of one
// time.
func unpack(t *testing.T, archive []byte, folder string) (files map[string]string, changed time.Time) {
	t.Helper()
	files = make(map[string]string)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, changed
		}
		must(t, err)
		name, ok := strings.CutPrefix(h.Name, folder+"/")
		if changed.IsZero() {
			changed = h.ModTime
		}
		if !ok || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || !h.ModTime.Equal(changed) {
			t.Errorf("%s is %+v, want it in %s, root's, and changed %v", h.Name, h, folder, changed)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		text, err := io.ReadAll(r)
		must(t, err)
		files[name] = string(text)
	}
}
