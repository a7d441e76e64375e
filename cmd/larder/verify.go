package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachecheck"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "look whether a cache is whole, and mend it",
		Description: "Looks at all entries: whether they can be read, their NARs are there and have the right size, what they refer to is there, " +
			"and, with --trusted-public-key, who has signed them. With --contents NARs are read and their hashes compared. With --repair what is damaged is " +
			"written anew from the store, if Nix still has it with the same contents; else the entry is withdrawn, with all that need it, so that clients " +
			"build instead of failing. All that goes is named. Without --repair it needs no Nix, and with --cache no queue.",
		Flags: []cli.Flag{
			cacheFlag(), queueFlag(),
			&cli.BoolFlag{Name: "contents", Usage: "read NARs, and compare their hashes"},
			&cli.StringFlag{Name: "sample", Usage: "with --contents: read a random `SHARE` of the NARs, such as 5%, so that many runs read them all"},
			&cli.BoolFlag{Name: "repair", Usage: "mend what is damaged, or withdraw it"},
			&cli.StringSliceFlag{Name: "base", Usage: "clients also use this `CACHE`, a directory (default: those of the queue's rules)"},
			&cli.BoolFlag{Name: "upstream", Usage: "clients have what is missing from an upstream (default: if the queue's rules leave something to one)"},
			trustedKeyFlag(), compressionFlag(), workersFlag(), jsonFlag(), quietFlag(),
		},
		Action: verify,
	}
}

func verify(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	share, err := parseShare(c)
	if err != nil {
		return err
	}
	keys, err := trustedKeys(c)
	if err != nil {
		return err
	}
	settings, err := pushSettings(c)
	if err != nil {
		return err
	}
	r, err := rules.Parse(settings.Rules)
	if err != nil {
		return err
	}
	cache, err := openToVerify(c, settings)
	if err != nil {
		return err
	}
	defer cache.Close()
	urls := r.Bases
	if c.IsSet("base") {
		urls = list(c, "base")
	}
	k := &cachecheck.Checker{
		Cache: cache, Upstream: c.Bool("upstream") || !c.IsSet("upstream") && len(r.SkipSignedBy) > 0,
		Keys: keys, Contents: c.Bool("contents"), Share: share,
	}
	for _, url := range urls {
		base, err := openBase(url, cache.StoreDir())
		if err != nil {
			return err
		}
		defer base.Close()
		k.Bases = append(k.Bases, base)
	}
	done := showProgress(c, func() progress {
		p := k.Progress()
		return progress{done: p.Done, total: p.Total, read: p.Read, bytes: p.Bytes}
	})
	report, err := k.Check(c.Context)
	done()
	if err != nil {
		return err
	}
	var repairs []cachecheck.Repair
	if c.Bool("repair") && len(report.Problems) > 0 {
		if repairs, err = repair(c, settings, cache, report.Problems); err != nil {
			return err
		}
	}
	return printVerified(c, cache, report, repairs)
}

func openToVerify(c *cli.Context, s queue.Settings) (*bincache.Cache, error) {
	if !c.Bool("repair") {
		return openReadOnly(c, s, "")
	}
	return openToChange(c, s)
}

// parseShare returns what chooses the NARs that are read, or nil for all.
func parseShare(c *cli.Context) (func(url string) bool, error) {
	text := c.String("sample")
	if text == "" {
		return nil, nil
	}
	if !c.Bool("contents") {
		return nil, usageError("--sample is of use with --contents only", "larder verify --contents --sample 5%")
	}
	digits, ok := strings.CutSuffix(text, "%")
	percent, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(percent > 0 && percent <= 100) {
		return nil, usageError(fmt.Sprintf("--sample is %q, want a share", text), "for example --sample 5%")
	}
	seed := maphash.MakeSeed() // others in each run
	return func(url string) bool {
		return float64(maphash.String(seed, url)%1_000_000)/10_000 < percent
	}, nil
}

// repair mends. Without a store, or a cache for another one, all it can do is withdraw.
func repair(c *cli.Context, s queue.Settings, cache *bincache.Cache, problems []cachecheck.Problem) ([]cachecheck.Repair, error) {
	var store cachecheck.Store = cachecheck.NoStore{}
	t, err := openTarget(c, s, targetOptions{log: stderrLog(c)})
	if err == nil {
		defer t.close()
		store = &mendStore{t}
	} else {
		warn(c, "nothing can be written anew: %v", err)
	}
	done := func() {}
	if t != nil {
		done = showProgress(c, t.progress)
	}
	defer done()
	return cachecheck.Mend(c.Context, cache, store, problems)
}

// A mendStore is the local store, for repairs.
type mendStore struct{ t *target }

func (m *mendStore) Find(ctx context.Context, hash string) (string, bincache.Hash, bool) {
	path, narHash, err := m.t.store.FindHash(ctx, hash)
	return path, narHash, err == nil // what is wrong with the store is why it can't be had
}

func (m *mendStore) Copy(ctx context.Context, path string) error {
	_, err := m.t.writer.Copy(ctx, path)
	return err
}

// A printedProblem is a problem as verify prints it.
type printedProblem struct {
	Kind   cachecheck.Kind   `json:"kind"`
	File   string            `json:"file"`             // below the cache
	Path   string            `json:"path"`             // store path; "" if it is unknown
	Error  string            `json:"error"`            // what is wrong
	Action cachecheck.Action `json:"action,omitempty"` // with --repair: what became of it
	Why    string            `json:"why,omitempty"`    // and why nothing better
}

func printVerified(c *cli.Context, cache *bincache.Cache, report *cachecheck.Report, repairs []cachecheck.Repair) error {
	problems := []printedProblem{}
	left := 0
	if c.Bool("repair") {
		for _, r := range repairs {
			p := printed(r.Problem)
			p.Action = r.Action
			if r.Why != nil {
				p.Why = r.Why.Error()
			}
			if r.Action == cachecheck.Left {
				left++
			}
			problems = append(problems, p)
		}
	} else {
		for _, p := range report.Problems {
			problems = append(problems, printed(p))
		}
		left = len(problems)
	}
	result := struct {
		Cache    string           `json:"cache"`
		Entries  int              `json:"entries"`
		Nars     int              `json:"nars"`     // that were read
		Bytes    int64            `json:"bytes"`    // of those, in the cache
		Upstream int              `json:"upstream"` // references that are left to an upstream
		Problems []printedProblem `json:"problems"`
	}{bincache.URL(cache.Path()), report.Entries, report.Nars, report.Bytes, report.Left, problems}
	out := bufio.NewWriter(c.App.Writer)
	if c.Bool("json") {
		if err := json.NewEncoder(out).Encode(result); err != nil {
			return err
		}
	} else {
		writeVerified(out, report, problems)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if left > 0 {
		return &exitCoder{exitProblems, nil}
	}
	return nil
}

func printed(p cachecheck.Problem) printedProblem {
	return printedProblem{Kind: p.Kind, File: p.File, Path: p.Path, Error: p.Err.Error()}
}

func writeVerified(out *bufio.Writer, report *cachecheck.Report, problems []printedProblem) {
	for _, p := range problems {
		line := p.File
		if p.Path != "" {
			line += " (" + p.Path + ")"
		}
		line += ": " + p.Error
		if p.Action != "" {
			line += ": " + string(p.Action)
		}
		if p.Why != "" {
			line += ", since " + p.Why
		}
		fmt.Fprintln(out, printable(line))
	}
	fmt.Fprintf(out, "%s checked", paths(report.Entries))
	if report.Nars > 0 {
		fmt.Fprintf(out, ", %d NARs read (%s)", report.Nars, ibytes(report.Bytes))
	}
	if report.Left > 0 {
		fmt.Fprintf(out, ", %d references left to an upstream", report.Left)
	}
	switch {
	case len(problems) == 0:
		fmt.Fprintln(out, ": all is well")
	case problems[0].Action == "":
		fmt.Fprintf(out, ", %d problems; --repair mends what can be mended\n", len(problems))
	default:
		fmt.Fprintln(out)
	}
}
