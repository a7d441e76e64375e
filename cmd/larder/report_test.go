package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/runner"
)

func TestReportSaysOnlyWhatIsTrue(t *testing.T) {
	for name, tt := range map[string]struct {
		report          runner.Report
		lines, warnings []string
	}{
		"nothing": {lines: []string{"nothing was built or downloaded"}},
		"all from the cache": {
			report: runner.Report{Hits: 3, HitNarBytes: 2048, Saved: runner.Seconds(90 * time.Second), TimedHits: 2},
			lines:  []string{"3 paths came from the cache (2.0 KiB), which saved about 1m30s of building", "nothing was built"},
		},
		"of times nothing is known": {
			report: runner.Report{Hits: 1, HitNarBytes: 10, Restored: runner.Seconds(time.Second)},
			lines:  []string{"1 path came from the cache (10 B)", "nothing was built"},
		},
		"all that can be": {
			report: runner.Report{
				Cache: "file:///c", Built: 2, Downloaded: 1, Added: 3, NarBytes: 3 << 20, FileBytes: 1 << 20, AlreadyThere: 4, Gone: 1,
				LeftOut: []runner.Reason{{Text: "its name", Paths: 2}}, Drained: runner.Seconds(1500 * time.Millisecond),
				Failed: []runner.Failed{{Path: "/nix/store/x", Error: "corrupt"}}, LeftOver: 5, Conflicts: []runner.Conflict{{Path: "/nix/store/y"}}, FailedLogs: 2,
			},
			lines: []string{
				"2 built, 1 downloaded", "3 paths added to file:///c: 3.0 MiB, 1.0 MiB there", "4 paths already there",
				"2 paths left out: its name", "1 path of other contents than in the cache, which keeps the first ones: larder list --conflicts",
				"logs of failed builds in the cache, for nix log --store file:///c: 2", "1 path deleted before they could be copied", "the end was put off by 1.5s",
			},
			warnings: []string{"/nix/store/x is not in the cache: corrupt", "5 paths left over, and not in the cache: the end came first (--deadline puts it off)"},
		},
		"worth it": {
			report: runner.Report{Hits: 1, TimedHits: 1, Saved: runner.Seconds(time.Minute), Restored: runner.Seconds(5 * time.Second), Stored: runner.Seconds(3 * time.Second)},
			lines: []string{
				"1 path came from the cache (0 B), which saved about 1m0s of building", "nothing was built",
				"worth it: the cache saved about 1m0s and cost 8s (restore 5s, end put off 0s, save 3s)",
			},
		},
		"not worth it": {
			report: runner.Report{Hits: 1, TimedHits: 1, Saved: runner.Seconds(time.Second), Restored: runner.Seconds(5 * time.Second), Drained: runner.Seconds(100 * time.Millisecond)},
			lines: []string{
				"1 path came from the cache (0 B), which saved about 1s of building", "nothing was built",
				"not worth it this time: the cache saved about 1s and cost 5.1s (restore 5s, end put off 100ms, save 0s)",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.lines, reportLines(&tt.report)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, reportWarnings(&tt.report)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSummaryIsNotBrokenByNames(t *testing.T) {
	text := reportMarkdown(&runner.Report{
		LeftOut: []runner.Reason{{Text: "its name matches \"*|<b>_x_`\"", Paths: 1}},
		Failed:  []runner.Failed{{Path: "/nix/store/x", Error: "one\ntwo"}},
		Notes:   []string{"a note"},
	})
	for line := range strings.Lines(text) {
		if cells := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); cells != 0 && cells != 4 {
			t.Errorf("%q has %d borders, want 4", line, cells)
		}
	}
	for _, want := range []string{`left out: its name matches "\*\|&lt;b>\_x\_\` + "`" + `"`, "- /nix/store/x is not in the cache: one two\n", "- a note\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
