package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestProgressIsShown(t *testing.T) {
	const path = "/nix/store/0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12"
	for name, tt := range map[string]struct {
		steps []progress
		want  []string
	}{
		"of bytes": {
			[]progress{{}, {done: 1, total: 4, read: 1 << 20, bytes: 4 << 20, current: path}, {done: 4, total: 4, read: 4 << 20, bytes: 4 << 20}},
			[]string{"0/0 ", "1/4 hello-2.12 ", " 25%", "iB/s", "4/4 "},
		},
		"of paths": {
			[]progress{{done: 1, total: 2, read: 1 << 20}},
			[]string{"1/2 ", " 50%"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			show := showBar(&out)
			for _, step := range tt.steps {
				show(step)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("bar is %q, want %q in it", out.String(), want)
				}
			}
		})
	}
	var out bytes.Buffer
	showLine(&out)(progress{done: 1, total: 4, read: 1 << 20, bytes: 4 << 20})
	showLine(&out)(progress{done: 1, total: 4, read: 1 << 20})
	if want := "larder: 1 of 4 paths, 1.0 MiB of 4.0 MiB\nlarder: 1 of 4 paths, 1.0 MiB\n"; out.String() != want {
		t.Errorf("lines are %q, want %q", out.String(), want)
	}
}
