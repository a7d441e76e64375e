package main

import (
	"os"
	"testing"
)

func TestUsageOfAProcessIsRead(t *testing.T) {
	u, err := readUsage(os.Getpid())
	must(t, err)
	if u.cpu <= 0 || u.switches <= 0 || u.rss <= 0 || u.peak < u.rss {
		t.Errorf("usage is %+v, want something of everything", u)
	}
	if _, err := readUsage(0); err == nil {
		t.Error("a process that there is not has a usage")
	}
}
