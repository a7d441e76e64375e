package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStatusOfACacheOfWhichNothingIsLeftSaysSo(t *testing.T) {
	c, _ := listedCache(t)
	writeRecord(t, c, time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), app)
	larder(t, "gc", "--cache", c.Path(), "--max-size", "1")
	stdout, stderr, code := larder(t, "status", "--cache", c.Path())
	if code != 0 || !strings.Contains(stdout, "entries   0, ") || !strings.Contains(stdout, "used      last 2026-11-") || strings.Contains(stdout, "longest") {
		t.Errorf("status exits with %d, %s%s", code, stdout, stderr)
	}
}

// What can't be read of what a cache remembers is in nobody's way for ever: whoever meets it
// is told of what mends it.
func TestWhatACacheRemembersIsMended(t *testing.T) {
	c, _ := listedCache(t)
	for file, commands := range map[string][]string{
		".larder/retired": {"gc", "status", "recompress"}, ".larder/recompressed": {"recompress"},
		".larder/runs/20260101T000000Z-cut": {"gc", "status"},
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(c.Path(), file)), 0o755))
		must(t, os.WriteFile(filepath.Join(c.Path(), file), make([]byte, 100), 0o644))
		for _, command := range commands {
			if _, stderr, code := larder(t, command, "--cache", c.Path()); code != 1 || !strings.Contains(stderr, file) || !strings.Contains(stderr, hintVerify) {
				t.Errorf("%s exits with %d: %s", command, code, stderr)
			}
		}
		if stdout, stderr, _ := larder(t, "verify", "--repair", "--no-store", "--cache", c.Path()); !strings.Contains(stdout, file) {
			t.Errorf("verify says %s%s", stdout, stderr)
		}
		for _, command := range commands {
			if _, stderr, code := larder(t, command, "--cache", c.Path()); code != 0 && !strings.Contains(stderr, "damaged") {
				t.Errorf("%s exits with %d in the end: %s", command, code, stderr)
			}
		}
	}
}
