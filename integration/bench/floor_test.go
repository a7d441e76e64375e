package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/DataDog/zstd"
)

func TestFloorReadsAllThatIsInANar(t *testing.T) {
	if _, err := exec.LookPath("nix-store"); err != nil {
		if os.Getenv("LARDER_REQUIRE_NIX") == "1" {
			t.Fatal(err)
		}
		t.Skip("there is no Nix to compare with")
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{"empty", "some/deep"} {
		must(t, os.MkdirAll(filepath.Join(tree, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(tree, "program"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "some/deep/nothing"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(tree, "some.text"), []byte("sorts before some/"), 0o644))
	must(t, os.WriteFile(filepath.Join(tree, "large"), bytes.Repeat([]byte("0123456789"), floorFrame/4), 0o644))
	must(t, os.Symlink("some/deep", filepath.Join(tree, "link")))
	want, err := exec.Command("nix-store", "--dump", tree).Output()
	must(t, err)

	out := filepath.Join(dir, "out")
	must(t, runFloor(out, strings.NewReader(fmt.Sprintln(len(want), tree))))
	file, err := os.Open(filepath.Join(out, "nar/0"))
	must(t, err)
	defer file.Close()
	in := zstd.NewReader(file)
	defer in.Close()
	got, err := io.ReadAll(in)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the floor's NAR of %d bytes differs from Nix's of %d", len(got), len(want))
	}
	if err := runFloor(out, strings.NewReader(fmt.Sprintln(len(want)+8, tree))); err == nil {
		t.Error("a NAR of another size than the store's is no error")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
