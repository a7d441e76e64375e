package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHintOnAFullDiskIsNotWhatWasTyped(t *testing.T) {
	full := fmt.Errorf("note what goes: %w", syscall.ENOSPC)
	for grace, want := range map[time.Duration]bool{time.Hour: true, 0: false} {
		hint := hintFor(hintGC(full, grace))
		if strings.Contains(hint, "--grace 0s") != want || !strings.Contains(hint, "log directory") {
			t.Errorf("with grace %v the hint is %q", grace, hint)
		}
	}
}
