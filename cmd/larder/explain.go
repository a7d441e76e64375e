package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/queue"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "say why a store path is, will be, or will not be in the cache",
		ArgsUsage: "PATH…",
		Description: "For a path that is not in the cache it also lists entries of the same name, and where derivations are in the store, " +
			"the first input in which they differ. It needs the queue of larder init.",
		Flags:  []cli.Flag{queueFlag(), jsonFlag()},
		Action: explain,
	}
}

func explain(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageError("no path is named", "larder explain ./result")
	}
	paths, err := parsePaths(c.Args().Slice())
	if err != nil {
		return err
	}
	q, settings, err := openQueue(c, false)
	if err != nil {
		return err
	}
	defer q.Close()
	v, err := openView(c, settings)
	if err != nil {
		return err
	}
	defer v.close()
	mode, err := modeOf(c, settings)
	if err != nil {
		return err
	}
	for i, path := range paths {
		e, err := explainPath(c.Context, q, v, mode, path)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			err = json.NewEncoder(c.App.Writer).Encode(e)
		} else {
			_, err = fmt.Fprint(c.App.Writer, strings.Repeat("\n", min(i, 1)), e.text())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxListed is how many of many paths people are shown.
const maxListed = 10

func (e *explanation) text() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	lines := func(name string, all []string) {
		for i, text := range all {
			if i == maxListed {
				line("", "and %d more", len(all)-i)
				return
			}
			line(name, "%s", text)
		}
	}
	fmt.Fprintf(&b, "%s\n  %s\n", e.Path, e.Verdict)
	if e.Store != nil {
		line("class", "%s, NAR %s", e.Store.Class, ibytes(e.Store.NarSize))
		line("closure", "%d paths, %d of them not in the cache", e.Store.Closure, len(e.Missing))
	}
	if e.Rule != "" {
		line("rule", "%s", e.Rule)
	}
	var cuts []string
	for _, cut := range e.Cut {
		cuts = append(cuts, cut.Path+": "+cut.Reason)
	}
	lines("left out", cuts)
	if e.Upstream != "" {
		line("upstream", "signed by %s", e.Upstream)
	}
	if e.Base != "" {
		line("base", "%s", e.Base)
	}
	if j := e.Job; j != nil {
		line("job", "%s, %d attempts, due %s", j.State, j.Attempts, humanize.Time(j.Due))
		if j.Error != "" {
			line("error", "%s", strings.ReplaceAll(j.Error, "\n", "; "))
		}
	}
	if e.Rooted {
		line("root", "keeps it from the garbage collector until its job is done")
	}
	if n := e.Entry; n != nil {
		line("entry", "%s, %s of %s", n.URL, n.Compression, ibytes(n.FileSize))
		if n.OtherBuild {
			line("", "it is another build of the same path: its contents differ from the store's (larder push --replace swaps those in)")
		}
	}
	if e.Damaged != "" {
		line("entry", "%s", e.Damaged)
	}
	lines("missing", e.MissingReferences)
	for _, o := range e.SameName {
		line("same name", "%s", o.Path)
		if o.Difference != "" {
			line("", "%s", strings.ReplaceAll(o.Difference, "\n", "\n"+strings.Repeat(" ", 13)))
		}
	}
	if e.SameNameMore > 0 {
		line("", "and %d more", e.SameNameMore)
	}
	return b.String()
}

// states says what people are told of a job.
var states = map[queue.State]string{
	queue.Waiting: "queued: it will be copied",
	queue.Claimed: "being copied",
	queue.Dead:    "not in the cache: its job failed for good; larder retry tries it again",
}
