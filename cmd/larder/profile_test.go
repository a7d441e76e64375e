package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfileIsWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profile")
	// Also of a command that fails.
	if _, _, code := larder(t, "--cpuprofile", file, "push"); code != exitUsage {
		t.Errorf("push of nothing exits with %d, want %d", code, exitUsage)
	}
	data, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(data), "\x1f\x8b") {
		t.Errorf("profile is %.20q, %v; want something gzipped", data, err)
	}
	_, stderr, code := larder(t, "--cpuprofile", filepath.Join(file, "in-a-file"), "push")
	if code != exitError || !strings.Contains(stderr, "write profile") {
		t.Errorf("exits with %d and says %q, want %d and that there is no profile", code, stderr, exitError)
	}
}
