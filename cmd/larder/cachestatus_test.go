package main

import (
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
