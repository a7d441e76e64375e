package main

import (
	"strings"
	"testing"
	"time"
)

func TestEveryTimeMayBeInDays(t *testing.T) {
	t.Setenv("LARDER_QUEUE", t.TempDir()+"/missing/queue.db")
	c, _ := listedCache(t)
	for args, want := range map[string]int{
		"daemon --gc-interval 7d --stop-timeout 1d --poll 1d --use-granularity 2d --max-age 30d --gc-grace 3d": exitError, // there is no queue
		"drain --timeout 2d --restore-time 1d --save-time 1d":                                                  exitError,
		"stop --deadline 1d --session " + t.TempDir():                                                          0,
		"gc --grace 1d --max-age 30d --cache " + c.Path():                                                      0,
		"recompress --dry-run --older-than 14d --budget 1d --grace 30d --cache " + c.Path():                    0,
		"status --max-age 30d --cache " + c.Path():                                                             0,
	} {
		_, stderr, code := larder(t, strings.Fields(args)...)
		if code != want || code != 0 && !strings.Contains(stderr, "queue.db") {
			t.Errorf("%s exits with %d: %s", args, code, stderr)
		}
	}
}

func TestValueOfAFlagThatIsNoneIsQuoted(t *testing.T) {
	for args, want := range map[string]string{
		"gc --max-age 1y":    `--max-age is "1y", want a time, such as 90s, 36h or 30d`,
		"gc --keep-last all": `--keep-last is "all", want a number`,
	} {
		if _, stderr, code := larder(t, strings.Fields(args)...); code != exitUsage || !strings.HasPrefix(stderr, "larder: error: "+want+"\n") {
			t.Errorf("%s: exit %d: %s", args, code, stderr)
		}
	}
}

func TestTimeInAVariableThatIsNoneNamesIt(t *testing.T) {
	t.Setenv("LARDER_MAX_AGE", "1y")
	_, stderr, code := larder(t, "gc", "--cache", t.TempDir())
	if code != exitUsage || !strings.Contains(stderr, "LARDER_MAX_AGE") || !strings.Contains(stderr, "30d") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestTimes(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "0d": 0, "30d": 30 * day, "65535d": 65535 * day} {
		if d, err := parseTime(text); err != nil || d != want {
			t.Errorf("%q is %v, %v, want %v", text, d, err, want)
		}
	}
	for _, text := range []string{"", "d", "5", "-1h", "-1d", "1.5d", "1d2h", "65536d", "1y"} {
		if d, err := parseTime(text); err == nil {
			t.Errorf("%q is %v, want an error", text, d)
		}
	}
}
