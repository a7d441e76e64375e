package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/cachegc"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

// reportFlags are those of everything that ends with a report.
func reportFlags() []cli.Flag {
	return []cli.Flag{
		granularityFlag(),
		&cli.StringFlag{Name: "report", EnvVars: []string{"LARDER_REPORT"}, Usage: "also write the report to `FILE`, as JSON"},
		timeFlag("restore-time", "", "LARDER_RESTORE_TIME", "the `TIME` that the provider took to restore the cache, such as 12s, for the report"),
		timeFlag("save-time", "", "LARDER_SAVE_TIME", "the `TIME` that it takes to save it"),
	}
}

// conclude reports what became of a session. code is the command's exit code, if there
// was a command.
func (s *session) conclude(code *int, drained time.Duration, workErr error) error {
	t, r, err := s.reportOf(code, drained)
	if err != nil {
		// Whoever ran a command wants its exit code, whatever is wrong with the report.
		warn(s.cli, "there is no report: %v", err)
		r = &runner.Report{Cache: s.settings.Cache}
	}
	if workErr != nil && !errors.Is(workErr, context.Canceled) {
		r.Notes = append(r.Notes, workErr.Error())
		warn(s.cli, "not all came into the cache: %v", workErr)
	}
	copied := err != nil || s.pinResults(t, r, code, workErr)
	if s.cli.Context.Err() == nil { // or somebody wants the end
		s.collect(r)
	}
	publishReport(s.cli, r)
	if code != nil && *code != 0 {
		return codeError(*code)
	}
	if !s.cli.Bool("strict") {
		return nil
	}
	switch {
	case len(r.Failed) > 0:
		return codeError(exitDead)
	case r.LeftOver > 0:
		return codeError(exitLeftOver)
	case !copied:
		return codeError(exitDead)
	case workErr != nil || err != nil:
		return codeError(exitError)
	}
	return nil
}

// collect removes what the limits of the command line do not keep. What goes wrong is no
// reason for the command to fail.
func (s *session) collect(r *runner.Report) {
	o, limited, err := gcOptions(s.cli)
	if err != nil || !limited {
		return // (ignored) it was right when the command began
	}
	cache, err := openCache(s.settings.Cache, nil, "")
	if err == nil {
		defer cache.Close()
		var done *cachegc.Result
		if done, err = cachegc.Collect(s.cli.Context, cache, o); err == nil {
			r.Evicted, r.EvictedBytes, r.TooMuch = len(done.Evict), done.Freed, done.Short
		}
	}
	if err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("nothing was removed from the cache: %v", err))
		warn(s.cli, "nothing was removed from the cache: %v", err)
	}
}

// reportOf makes the report from the journal and from what is left in the queue.
func (s *session) reportOf(code *int, drained time.Duration) (*runner.Tally, *runner.Report, error) {
	t := runner.NewTally()
	if err := runner.ReadJournal(s.file("journal"), t.Add); err != nil {
		return nil, nil, err
	}
	t.Notes = append(t.Notes, s.wiring.Notes...)
	// The command's context may have ended, and who is told the truth should not mind.
	r, err := concludeTally(context.WithoutCancel(s.cli.Context), s.cli, s.queue, t, code, drained)
	return t, r, err
}

// concludeTally completes a tally with what is left in the queue.
func concludeTally(ctx context.Context, c *cli.Context, q *queue.Queue, t *runner.Tally, code *int, drained time.Duration) (*runner.Report, error) {
	s, err := q.Settings(ctx)
	if err != nil {
		return nil, err
	}
	t.Cache, t.ExitCode = s.Cache, code
	t.Drained = runner.Seconds(drained)
	t.Restored, t.Stored = runner.Seconds(timeOf(c, "restore-time")), runner.Seconds(timeOf(c, "save-time"))
	for row, err := range q.Rows(ctx) {
		if err != nil {
			return nil, err
		}
		if row.State == queue.Dead {
			t.Failed = append(t.Failed, runner.Failed{Path: row.Path, Error: row.Error})
		} else {
			t.LeftOver++
		}
	}
	r := t.Finish()
	if err := record(ctx, c, s, t); err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("it is not known what the cache saved, nor put down what was used: %v", err))
	}
	return r, nil
}

// publishReport shows the report to everybody who should see it.
func publishReport(c *cli.Context, r *runner.Report) {
	for _, line := range reportLines(r) {
		fmt.Fprintf(c.App.ErrWriter, "larder: %s\n", line)
	}
	fileReport(c, r)
}

// fileReport shows the report to everybody but those who read what is printed, except
// for what somebody should do something about.
func fileReport(c *cli.Context, r *runner.Report) {
	for _, line := range reportWarnings(r) {
		warn(c, "%s", line)
	}
	if file := c.String("report"); file != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err == nil {
			err = os.WriteFile(file, append(text, '\n'), 0o644)
		}
		if err != nil {
			warn(c, "the report could not be written: %v", err)
		}
	}
	if file := os.Getenv("GITHUB_STEP_SUMMARY"); file != "" {
		if err := appendFile(file, reportMarkdown(r)); err != nil {
			warn(c, "the summary could not be written: %v", err)
		}
	}
}

// reportLines returns the report for people.
func reportLines(r *runner.Report) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if r.Hits > 0 {
		saved := ""
		if r.TimedHits > 0 {
			saved = fmt.Sprintf(", which saved about %s of building", duration(time.Duration(r.Saved)))
		}
		say("%s came from the cache (%s)%s", paths(r.Hits), ibytes(r.HitNarBytes), saved)
	}
	switch {
	case r.Built == 0 && r.Downloaded == 0 && r.Hits > 0:
		say("nothing was built")
	case r.Built == 0 && r.Downloaded == 0:
		say("nothing was built or downloaded")
	default:
		say("%d built, %d downloaded", r.Built, r.Downloaded)
	}
	if r.Added > 0 {
		say("%s added to %s: %s, %s there", paths(r.Added), r.Cache, ibytes(r.NarBytes), ibytes(r.FileBytes))
	}
	if r.AlreadyThere > 0 {
		say("%s already there", paths(r.AlreadyThere))
	}
	for _, reason := range r.LeftOut {
		say("%s left out: %s", paths(reason.Paths), reason.Text)
	}
	if len(r.Conflicts) > 0 {
		say("%s of other contents than in the cache, which keeps the first ones: larder list --conflicts", paths(len(r.Conflicts)))
	}
	if r.FailedLogs > 0 {
		say("logs of failed builds in the cache, for nix log --store %s: %d", r.Cache, r.FailedLogs)
	}
	if r.Gone > 0 {
		say("%s deleted before they could be copied", paths(r.Gone))
	}
	if d := time.Duration(r.Drained); d >= time.Second {
		say("the end was put off by %s", duration(d))
	}
	if r.Pinned != nil {
		say("pinned as %s: %s", r.Pinned.Name, pinnedText(r.Pinned.Paths))
	}
	if r.Evicted > 0 {
		say("%s removed from the cache (%s), unused for the longest time", paths(r.Evicted), ibytes(r.EvictedBytes))
	}
	if verdict := reportVerdict(r); verdict != "" {
		say("%s", verdict)
	}
	return lines
}

// reportVerdict tells whether the cache was worth it, if that is known.
func reportVerdict(r *runner.Report) string {
	saved, cost := time.Duration(r.Saved), r.Cost()
	if r.TimedHits == 0 || r.Restored+r.Stored == 0 {
		return ""
	}
	was := "worth it"
	if saved < cost {
		was = "not worth it this time"
	}
	return fmt.Sprintf("%s: the cache saved about %s and cost %s (restore %s, end put off %s, save %s)", was,
		duration(saved), duration(cost), duration(time.Duration(r.Restored)), duration(time.Duration(r.Drained)), duration(time.Duration(r.Stored)))
}

// reportWarnings returns what somebody should do something about.
func reportWarnings(r *runner.Report) []string {
	var lines []string
	const most = 10
	for i, f := range r.Failed {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more failed", len(r.Failed)-most))
			break
		}
		lines = append(lines, fmt.Sprintf("%s is not in the cache: %s", f.Path, f.Error))
	}
	if r.TooMuch > 0 {
		lines = append(lines, fmt.Sprintf("the cache is %s larger than --max-size: that much is pinned, or kept for recent runs", ibytes(r.TooMuch)))
	}
	if r.LeftOver > 0 {
		lines = append(lines, fmt.Sprintf("%s left over, and not in the cache: the end came first (--deadline puts it off)", paths(r.LeftOver)))
	}
	return lines
}

// reportMarkdown returns the report for GitHub's summary of a job.
func reportMarkdown(r *runner.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### larder\n\n| | paths | bytes |\n|---|---:|---:|\n")
	row := func(what string, n int, size int64) {
		text := ""
		if size > 0 {
			text = ibytes(size)
		}
		fmt.Fprintf(&b, "| %s | %d | %s |\n", what, n, text)
	}
	row("from the cache", r.Hits, r.HitNarBytes)
	row("built", r.Built, 0)
	row("downloaded from elsewhere", r.Downloaded, 0)
	row("added to the cache", r.Added, r.FileBytes)
	row("already there", r.AlreadyThere, 0)
	for _, reason := range r.LeftOut {
		row("left out: "+markdownText(reason.Text), reason.Paths, 0)
	}
	row("of other contents than in the cache", len(r.Conflicts), 0)
	row("logs of failed builds", r.FailedLogs, 0)
	if r.Evicted > 0 {
		row("removed", r.Evicted, r.EvictedBytes)
	}
	row("failed", len(r.Failed), 0)
	row("no time left for", r.LeftOver, 0)
	b.WriteString("\n")
	if r.TimedHits > 0 {
		fmt.Fprintf(&b, "The cache saved about **%s** of building. ", duration(time.Duration(r.Saved)))
	}
	fmt.Fprintf(&b, "The end was put off by %s.\n", duration(time.Duration(r.Drained)))
	if verdict := reportVerdict(r); verdict != "" {
		fmt.Fprintf(&b, "\n%s\n", markdownText(verdict))
	}
	for _, line := range append(reportWarnings(r), r.Notes...) {
		fmt.Fprintf(&b, "\n- %s\n", markdownText(line))
	}
	return b.String()
}

// markdownText keeps names from being taken for Markdown, or for a table's columns.
func markdownText(text string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "_", `\_`, "<", "&lt;", "`", "\\`", "\n", " ").Replace(text)
}

func appendFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// warn says what a person should know, so that GitHub shows it with the job.
func warn(c *cli.Context, format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	if os.Getenv("GITHUB_ACTIONS") == "true" {
		// GitHub's own escapes (actions/toolkit, command.ts).
		text = strings.NewReplacer("%", "%25", "\r", "%0D").Replace(text)
		fmt.Fprintf(c.App.ErrWriter, "::warning title=larder::%s\n", text)
		return
	}
	fmt.Fprintf(c.App.ErrWriter, "larder: warning: %s\n", text)
}

func paths(n int) string {
	if n == 1 {
		return "1 path"
	}
	return fmt.Sprintf("%d paths", n)
}

func duration(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
