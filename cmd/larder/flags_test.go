package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestFlagsMayBeBehindArguments(t *testing.T) {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "cache"}, &cli.IntFlag{Name: "keep"}, &cli.StringSliceFlag{Name: "base"}, &cli.DurationFlag{Name: "grace"},
		&cli.BoolFlag{Name: "json", Aliases: []string{"j"}}, &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}},
	}
	app := &cli.App{
		Flags:    []cli.Flag{&cli.StringFlag{Name: "cpuprofile"}},
		Commands: []*cli.Command{{Name: "pin", Flags: flags}, {Name: "run", Flags: flags}},
	}
	for _, test := range []struct{ args, want string }{
		{"", ""},
		{"--help", "--help"},
		{"pin", "pin"},
		{"pin --json", "pin --json"},
		{"pin a b --keep 5", "pin --keep 5 -- a b"},
		{"pin a --keep 5 b --json", "pin --keep 5 --json -- a b"},
		{"pin a --keep=5 b", "pin --keep=5 -- a b"},
		{"pin a --json b", "pin --json -- a b"},
		{"pin a --json=false b", "pin --json=false -- a b"},
		{"pin a --keep -1 b", "pin --keep -1 -- a b"},
		{"pin a --base x --base y", "pin --base x --base y -- a"},
		{"pin a --grace 1h -cache c", "pin --grace 1h -cache c -- a"},
		{"pin a -jq b", "pin -jq -- a b"},
		{"pin a -- --json", "pin -- a --json"},
		{"pin -- a -- b", "pin -- a -- b"},
		{"pin --cache -- a", "pin --cache -- -- a"}, // it is the value
		{"pin a --json --", "pin --json -- a"},
		{"pin - --json", "pin --json -- -"},
		{"pin a --help", "pin --help -- a"},
		{"pin a --unknown b", "pin --unknown -- a b"},
		{"pin a b --keep", "pin --keep"}, // which lacks its value
		{"nothing a --json", "nothing a --json"},
		{"-- pin a --json", "-- pin a --json"},
		{"--cpuprofile f pin a --json", "--cpuprofile f pin --json -- a"},
		{"--cpuprofile=f pin a --json", "--cpuprofile=f pin --json -- a"},
		{"--cpuprofile pin", "--cpuprofile pin"},
		{"--cpuprofile", "--cpuprofile"},
		{"run true --json", "run true --json"},
		{"run --cache c true --json x", "run --cache c true --json x"},
		{"run --cache c -- true -- --json", "run --cache c -- true -- --json"},
	} {
		args := strings.Fields("larder " + test.args)
		before := slices.Clone(args)
		if got := flagsFirst(app, args); !slices.Equal(got, strings.Fields("larder "+test.want)) {
			t.Errorf("%q becomes %q, want %q", test.args, got, test.want)
		}
		if !slices.Equal(args, before) {
			t.Errorf("%q has been changed to %q", before, args)
		}
	}
}

// CI providers have variables that are set to nothing.
func TestEmptyVariableIsAsIfItWasNotThere(t *testing.T) {
	c, _ := listedCache(t)
	other, _ := listedCache(t)
	for _, name := range []string{"LARDER_MIN_FREE", "LARDER_MAX_SIZE", "LARDER_MAX_AGE", "LARDER_KEEP_LAST", "LARDER_WORKERS"} {
		t.Setenv(name, "")
	}
	for _, args := range []string{"merge " + other.Path(), "gc", "recompress --dry-run"} {
		if _, stderr, code := larder(t, append(strings.Fields(args), "--cache", c.Path())...); code != 0 {
			t.Errorf("%s exits with %d: %s", args, code, stderr)
		}
	}
}

func TestFlagWithoutItsValueIsRefusedBehindArguments(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"push ./result --cache":                        "flag needs an argument: -cache",
		"push ./result --nothing":                      "flag provided but not defined: -nothing",
		"pin name ./result --cache " + dir + " --keep": "flag needs an argument: -keep",
		"unpin a --cache " + dir + " --keep 5":         "flag provided but not defined: -keep",
	} {
		_, stderr, code := larder(t, strings.Fields(args)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s exits with %d and says %q, want %q", args, code, stderr, want)
		}
	}
}
