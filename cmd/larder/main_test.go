package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

func TestWrongCommandLineExitsWithTwoAndAHint(t *testing.T) {
	t.Setenv("LARDER_CACHE", "")
	t.Setenv("LARDER_QUEUE", t.TempDir()+"/queue.db")
	for _, args := range []string{
		"nothing",
		"push",
		"push --nothing",
		"push --cache",
		"push --cache DIR ./result --jsn",
		"push --cache s3://bucket /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib",
		"push --cache file:relative /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib",
		"drain now",
		"drain --timeout soon",
		"drain --timeout 1y",
		"run --cache DIR --deadline soon -- true",
		"stop --deadline=-1s",
		"stop --deadline=",
		"stop --save-time 5",
		"daemon --poll 0s",
		"daemon now",
		"status all",
		"status --max-size 5G",
		"status --cache DIR --max-size much",
		"run --cache DIR --pin .. -- true",
		"run --cache DIR --pin= -- true",
		"run --cache DIR --pin main --pin-keep 0 -- true",
		"run --cache DIR --use-granularity soon -- true",
		"stop --pin a/b",
		"push --cache DIR --use-granularity soon /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib",
		"import --cache DIR --use-granularity soon",
		"daemon --use-granularity soon",
		"daemon --gc-interval=-1h",
		"drain --use-granularity soon",
		"init --cache DIR --mode 777",
		"init --cache DIR --mode rw",
		"init --cache DIR --compression xz:10",
		"init --cache s3://bucket",
		"uninstall everything",
		"list everything",
		"list --cache DIR --long --json",
		"list --cache DIR --key --json",
		"list --cache DIR --trusted-public-key nonsense",
		"list --cache DIR --trusted-public-key key:QUFB",
		"list --cache s3://bucket",
		"merge",
		"merge DIR",
		"merge --cache DIR",
		"merge --cache DIR DIR", // itself
		"merge --cache DIR s3://bucket",
		"merge other --cache",
		"sign --cache DIR",
		"sign --cache DIR --drop-key name:QUFB",
		"sign --cache DIR --drop-key ",
		"sign --cache DIR --drop-key old /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib --workers 1",
		"list --cache DIR --conflicts --key",
		"export",
		"export --cache DIR",
		"export --cache DIR --tar --no-closure /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib",
		"export /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib --tar --cache DIR --no-closure",
		"export --cache s3://bucket /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib",
		"import --cache DIR closure.nar",
		"import --cache s3://bucket",
		"import --cache DIR --compression fast",
		"gc --cache DIR path",
		"gc --cache DIR --max-size much",
		"gc --cache DIR --max-size 0",
		"gc --cache DIR --max-age 1y",
		"gc --cache DIR --keep-last -1",
		"gc --cache DIR --grace -1h",
		"run --cache DIR --max-size much -- true",
		"stop --max-age long",
		"daemon --keep-last -1",
		"pin --cache DIR name",
		"pin --cache DIR ../name /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib",
		"pin --cache DIR --keep 0 name /nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib",
		"unpin --cache DIR",
		"verify --cache DIR path",
		"verify --cache DIR --sample 5%",
		"verify --cache DIR --contents --sample 5",
		"verify --cache DIR --contents --sample 0%",
		"recompress --cache DIR --compression none",
		"recompress --cache DIR --compression gzip",
		"recompress --cache DIR --older-than soon",
		"recompress --cache DIR --grace -1h",
		"recompress --cache DIR --budget 0s",
		"recompress --cache DIR --workers -1",
		"recompress --cache DIR --dry-run --remember",
		"verify all",
		"verify --cache DIR --sample 5%",
		"verify --cache DIR --contents --sample 5",
		"verify --cache DIR --contents --sample 0%",
		"verify --cache DIR --no-store",
		"verify --cache s3://bucket",
		"verify --cache DIR --trusted-public-key nonsense",
	} {
		var stdout, stderr bytes.Buffer
		args := strings.Fields(strings.ReplaceAll("larder "+args, "DIR", t.TempDir()))
		if code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != exitUsage {
			t.Errorf("%q exits with %d, want %d: %s", args, code, exitUsage, &stderr)
		}
		lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], "larder: error: ") || !strings.HasPrefix(lines[1], "larder: hint: ") {
			t.Errorf("%q says %q, want an error and a hint", args, &stderr)
		}
		if stdout.Len() > 0 {
			t.Errorf("%q prints %q on standard output", args, &stdout)
		}
	}
}

func TestHintsAreWhatHelps(t *testing.T) {
	c, _ := listedCache(t)
	const absent = "/gnu/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-absent"
	for args, want := range map[string]string{
		"gc":                               "larder gc --cache DIR",
		"list":                             "larder list --cache DIR",
		"pin a ./x":                        "a path looks like",
		"pins":                             "larder pins --cache DIR",
		"status":                           "larder init --cache DIR",
		"drain":                            "larder init --cache DIR",
		"gc --cache " + c.Path() + "/none": "is it the right directory",
		"recompress --cache " + c.Path() + " " + absent:        "larder list",
		"sign --cache " + c.Path() + " --drop-key a " + absent: "larder list",
		"pin a --keep 0 " + absent:                             "--keep 5",
		"recompress --workers -1 --cache " + c.Path():          "--workers 2",
	} {
		_, stderr, code := larder(t, strings.Fields(args)...)
		if _, hint, _ := strings.Cut(stderr, "larder: hint: "); code == 0 || !strings.Contains(hint, want) {
			t.Errorf("%s exits with %d, want the hint %q: %s", args, code, want, stderr)
		}
	}
}

var commands = []string{"run", "start", "stop", "init", "daemon", "drain", "sync", "explain", "push", "list", "merge", "sign", "export", "import", "recompress", "gc", "pin", "unpin", "pins", "verify", "doctor", "status", "retry", "uninstall"}

func TestEveryCommandHasHelp(t *testing.T) {
	for _, command := range commands {
		stdout, stderr, code := larder(t, command, "--help")
		if code != 0 || !strings.Contains(stdout, "larder "+command+" - ") {
			t.Errorf("%s --help exits with %d and prints %q, %q", command, code, stdout, stderr)
		}
	}
}

func TestHelpSaysExitCodes(t *testing.T) {
	stdout, _, _ := larder(t, "--help")
	text := strings.Join(strings.Fields(stdout), " ")
	_, codes, _ := strings.Cut(text, "Exit codes: ")
	for code, means := range map[int]string{
		exitError: "an error", exitUsage: "the command line is wrong", exitLeftOver: "the deadline passed", exitDead: "some jobs failed", exitProblems: "doctor or verify",
	} {
		if want := fmt.Sprintf("; %d %s", code, means); !strings.Contains(codes, want) {
			t.Errorf("help does not say %q: %s", want, codes)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	for _, command := range append(commands, "") {
		stdout, _, _ := larder(t, strings.Fields(command+" --help")...)
		for line := range strings.Lines(stdout) {
			if utf8.RuneCountInString(line) > helpWidth+1 {
				t.Errorf("%s --help has the line %q", command, line)
			}
		}
	}
}

func TestInterruptedCommandSaysNoMore(t *testing.T) {
	c, _ := listedCache(t)
	ctx, interrupt := context.WithCancelCause(t.Context())
	interrupt(interruption{syscall.SIGINT})
	stdin, writer := io.Pipe() // in which nothing comes
	defer writer.Close()
	for _, args := range [][]string{
		{"gc"}, {"gc", "--dry-run"}, {"status"}, {"verify"}, {"verify", "--repair", "--no-store"}, {"list", "--json"}, {"list", "--key"},
		{"recompress"}, {"sign", "--drop-key", "key-1"}, {"import"}, {"export", app},
	} {
		args = append([]string{"larder", args[0], "--cache", c.Path()}, args[1:]...)
		var stdout, stderr bytes.Buffer
		code := run(ctx, args, stdin, &stdout, &stderr)
		if code != 130 || stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "larder: error: interrupted\n") || strings.Contains(stderr.String(), "verify tells") {
			t.Errorf("%q exits with %d: %s%s", args, code, &stdout, &stderr)
		}
	}
}
