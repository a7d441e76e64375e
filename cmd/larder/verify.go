package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachecheck"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixstore"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "look whether a cache is whole, and mend it",
		Description: "Looks at all entries: whether they can be read, their NARs are there and have the right size, what they refer to is there, " +
			"and, with --trusted-public-key, who has signed them; at records of runs, and at pins; whether listings can be read, and what realisations promise is there. With --contents NARs are read, their hashes " +
			"and listings compared, and logs that are compressed unpacked. What does no harm, such as the listing of no entry, or that a directory is not there which only some versions of Nix make, is a note. It changes nothing, needs no Nix, " +
			"and with --cache no queue. It ends with 5 if something is wrong.\n\n" +
			"With --repair what is damaged is written anew from the store, if Nix still has it with the same contents; else the entry is withdrawn, with all that need it, so that clients " +
			"build instead of failing. Listings are made anew of their NARs, and realisations that promise what is not there are withdrawn. All that goes is named, and what nobody can judge stays, such as what may not be read. It ends with 5 only if something is left. " +
			"Whoever is interrupted calls it again.\n\n" +
			"For example:  larder verify --cache DIR --contents --sample 5%\n              larder verify --cache DIR --repair --upstream=false",
		Flags: append([]cli.Flag{
			cacheFlag(), queueFlag(),
			&cli.BoolFlag{Name: "contents", Usage: "read NARs, and compare their hashes"},
			&cli.StringFlag{Name: "sample", Usage: "with --contents: read a random `SHARE` of the NARs, such as 5%, so that many runs read them all"},
			&cli.BoolFlag{Name: "repair", Usage: "mend what is damaged, or withdraw it"},
			&cli.BoolFlag{Name: "no-store", Usage: "with --repair: withdraw all that is damaged, where there is no Nix that may have it"},
			trustedKeyFlag(), compressionFlag(), workersFlag(), minFreeFlag(), jsonFlag(), quietFlag(),
		}, slices.Concat(elsewhereFlags("what needs it is withdrawn"), contentFlags(), keyFlags())...),
		Action: verify,
	}
}

// A verification is what verify is to do.
type verification struct {
	elsewhere
	cache *bincache.Cache
	keys  []signature.PublicKey
	share func(url string) bool
}

func verify(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	v, err := newVerification(c)
	if err != nil {
		return err
	}
	if v.cache, err = openExisting(c, v.settings, c.Bool("repair")); err != nil {
		return err
	}
	defer v.cache.Close()
	defer v.close()
	if err := v.open(v.cache.StoreDir()); err != nil {
		return err
	}
	k := &cachecheck.Checker{
		Cache: v.cache, Bases: v.bases, Upstream: v.upstream,
		Keys: v.keys, Contents: c.Bool("contents"), Share: v.share,
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
	if !c.Bool("repair") {
		return printVerified(c, v, report, nil)
	}
	var repairs []cachecheck.Repair
	if len(report.Problems) > 0 {
		repairs, err = v.repair(c, report.Problems)
	}
	if printErr := printVerified(c, v, report, repairs); err == nil {
		return printErr
	}
	return orHint(err, "what is done stays; run the command again to go on")
}

// newVerification reads the flags and the settings.
func newVerification(c *cli.Context) (v *verification, err error) {
	v = &verification{}
	if v.share, err = parseShare(c); err != nil {
		return nil, err
	}
	if c.Bool("no-store") && !c.Bool("repair") {
		return nil, usageError("--no-store is of use with --repair only", "larder verify --repair --no-store")
	}
	if v.keys, err = trustedKeys(c); err != nil {
		return nil, err
	}
	settings, err := pushSettings(c)
	if err != nil {
		return nil, err
	}
	v.elsewhere, err = newElsewhere(c, settings)
	return v, err
}

// closed tells whether it is known that clients have nothing from elsewhere: by the rules of
// a queue, or by what the command line says.
func (v *verification) closed(c *cli.Context) bool {
	return !v.upstream && (c.IsSet("upstream") || v.settings.Cache != "")
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

// repair mends. That the store can't be opened is no reason to withdraw what it may have.
func (v *verification) repair(c *cli.Context, problems []cachecheck.Problem) ([]cachecheck.Repair, error) {
	m := &cachecheck.Mender{
		Cache: v.cache, Bases: v.bases, Closed: v.closed(c), Keys: v.keys,
		Upstream: func(sigs []string) bool { return v.rules.Upstream(sigs) != "" },
	}
	if c.Bool("no-store") {
		return m.Mend(c.Context, problems)
	}
	store := &mendStore{}
	settings := v.settings
	if _, err := v.cache.Settings(); err != nil && settings.Compression == "" && !isNewer(err) {
		settings.Compression = compress.Default.String() // the cache can't say, and needs mending all the more
	}
	t, err := openTarget(c, settings, targetOptions{log: stderrLog(c), rewrite: store.isAnew})
	if err != nil {
		return nil, orHint(err, "where there is no Nix, --no-store has all that is damaged withdrawn")
	}
	defer t.close()
	store.t, m.Store = t, store
	defer showProgress(c, t.progress)()
	return m.Mend(c.Context, problems)
}

// A mendStore is the local store, for repairs.
type mendStore struct {
	t *target

	mu   sync.Mutex
	anew map[string]bool // hashes of entries that are written anew although they look whole
}

func (m *mendStore) isAnew(have *bincache.NarInfo) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.anew[bincache.HashPart(have.StorePath)]
}

func (m *mendStore) Find(ctx context.Context, hash string) (*bincache.NarInfo, error) {
	path, _, err := m.t.store.FindHash(ctx, hash)
	var info *nixstore.Info
	if err == nil {
		info, err = m.t.store.Info(ctx, path)
	}
	if errors.Is(err, nixstore.ErrNotValid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := &bincache.NarInfo{
		StorePath: info.Path, NarHash: info.NarHash, NarSize: info.NarSize, References: []string{},
		Sigs: bincache.ValidSigs(info.Sigs), CA: info.CA,
	}
	for _, ref := range info.References {
		n.References = append(n.References, filepath.Base(ref))
	}
	return n, nil
}

func (m *mendStore) Copy(ctx context.Context, paths []string, anew map[string]bool) error {
	m.mu.Lock()
	m.anew = anew
	m.mu.Unlock()
	_, err := m.t.writer.Copy(ctx, paths...)
	for _, of := range []error{cachewriter.ErrNotInStore, cachewriter.ErrStoreCorrupt, cachewriter.ErrLeftOut} {
		if errors.Is(err, of) && !errors.Is(err, cachewriter.ErrUnavailable) {
			return fmt.Errorf("%w: %w", cachecheck.ErrCannot, err)
		}
	}
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

func printVerified(c *cli.Context, v *verification, report *cachecheck.Report, repairs []cachecheck.Repair) error {
	problems := []printedProblem{}
	left := 0
	if len(repairs) > 0 {
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
	} else { // none was wanted, or nothing could be repaired
		for _, p := range report.Problems {
			problems = append(problems, printed(p))
		}
		left = len(problems)
	}
	notes := []printedProblem{}
	for _, p := range report.Notes {
		notes = append(notes, printed(p))
	}
	result := struct {
		Cache    string           `json:"cache"`
		Entries  int              `json:"entries"`
		Nars     int              `json:"nars"`     // that were read
		Bytes    int64            `json:"bytes"`    // of those, in the cache
		Upstream int              `json:"upstream"` // references that are left to an upstream
		Problems []printedProblem `json:"problems"`
		Notes    []printedProblem `json:"notes"` // what is no fault, or does no harm
	}{bincache.URL(v.cache.Path()), report.Entries, report.Nars, report.Bytes, report.Left, problems, notes}
	out := bufio.NewWriter(c.App.Writer)
	if c.Bool("json") {
		if err := json.NewEncoder(out).Encode(result); err != nil {
			return err
		}
	} else {
		writeVerified(out, report, problems, notes)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if left > 0 {
		return &exitCoder{exitProblems, nil}
	}
	return nil
}

// maxNotes is how many notes are printed.
const maxNotes = 10

func printed(p cachecheck.Problem) printedProblem {
	return printedProblem{Kind: p.Kind, File: p.File, Path: p.Path, Error: p.Err.Error()}
}

func writeVerified(out *bufio.Writer, report *cachecheck.Report, problems, notes []printedProblem) {
	for i, p := range notes {
		if i == maxNotes {
			fmt.Fprintf(out, "note: and %d more; --json has all\n", len(notes)-i)
			break
		}
		fmt.Fprintln(out, printable(fmt.Sprintf("note: %s: %s", p.File, p.Error)))
	}
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
		return
	case problems[0].Action == "":
		fmt.Fprintf(out, ", problems: %d; --repair mends what can be mended\n", len(problems))
		return
	}
	became := make(map[cachecheck.Action]int)
	unsure := false
	for _, p := range problems {
		became[p.Action]++
		unsure = unsure || p.Action == cachecheck.Left && p.Kind == cachecheck.Reference
	}
	for _, action := range slices.Sorted(maps.Keys(became)) {
		fmt.Fprintf(out, ", %d %s", became[action], action)
	}
	fmt.Fprintln(out)
	if unsure {
		fmt.Fprintln(out, "where else clients look, nobody has said: --base CACHE, --upstream, or --upstream=false for nowhere else")
	}
}
