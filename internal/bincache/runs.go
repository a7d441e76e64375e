package bincache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Run says which entries something that is over has used, such as a CI job. The
// package comment has the format.
type Run struct {
	Name  string     // of its file; RecordRun chooses it
	Ended time.Time  // to the second
	Added []RunEntry // what came into the cache
	Used  []string   // store paths that were there already

	// Bytes is how much larger the files of what was added made the cache, if that is known.
	Bytes int64

	// Summary says that it is no run: who looks after the cache has put down what others
	// have used, up to Ended.
	Summary bool

	// Gone are store paths whose entries were removed: what earlier records say of them
	// is of no interest any more, should they be there again.
	Gone []string
}

// A RunEntry is an entry that a run added.
type RunEntry struct {
	Path  string        // store path
	Build time.Duration // how long its build took, to the millisecond; zero if unknown
}

const (
	runVersion = 1
	runHeader  = "larder-run "

	// maxRun is the largest record that is read: some hundred thousand entries.
	maxRun = 64 << 20

	// fastClock is how far another host's clock may be before ours. A record of a later
	// time would make all others old, and whatever comes would be covered by it.
	fastClock = 24 * time.Hour

	runTime  = "2006-01-02T15:04:05Z" // in a record
	runStamp = "20060102T150405Z"     // at the beginning of its name, to sort by
)

// RecordRun writes a durable record of a run, and tells whether it did: one that added
// nothing needs none if what it used is in records that are not older than
// granularity. Such ages count back from the end of the run.
func (c *Cache) RecordRun(r Run, granularity time.Duration) (written bool, err error) {
	if len(r.Added) == 0 && c.covered(r.Used, r.Ended.Add(-granularity)) {
		return false, nil
	}
	if err := c.recordRun(r); err != nil {
		return false, fmt.Errorf("record run: %w", err)
	}
	return true, nil
}

// RecordSummary writes a durable record that is no run's.
func (c *Cache) RecordSummary(r Run) error {
	r.Summary = true
	if err := c.recordRun(r); err != nil {
		return fmt.Errorf("record use: %w", err)
	}
	return nil
}

// RemoveRuns removes records, by their names, whose contents others have, or nobody can
// read.
func (c *Cache) RemoveRuns(names ...string) error {
	for _, name := range names {
		if err := ignoreNotExist(c.root.Remove(path.Join(runsDir, name))); err != nil {
			return fmt.Errorf("remove record: %w", err)
		}
	}
	return c.SyncDir(runsDir)
}

func (c *Cache) recordRun(r Run) error {
	text, err := c.checkedRun(r)
	if err != nil {
		return err
	}
	if err := c.writeOnce(path.Join(runsDir, c.runName(r.Ended)), string(text)); err != nil {
		return err
	}
	if err := c.SyncDir(runsDir); err != nil {
		return err
	}
	return c.SyncDir(path.Dir(runsDir)) // the first record's directory may be new
}

// covered tells whether records that ended at some time or later name all of some
// store paths.
func (c *Cache) covered(paths []string, since time.Time) bool {
	since = since.Truncate(time.Second)
	left := make(map[string]bool, len(paths)) // by base name
	for _, p := range paths {
		left[path.Base(p)] = true
	}
	if len(left) == 0 {
		return true
	}
	names, err := c.runNames()
	if err != nil {
		return false // (ignored) one record more does no harm
	}
	for _, name := range slices.Backward(names) {
		if name < stamp(since) {
			return false
		}
		for _, found := range c.named(name, since, left) {
			delete(left, found)
		}
		if len(left) == 0 {
			return true
		}
	}
	return false
}

// named returns which of some entries, by base name, a record names that ended at some time
// or later. What can't be read names none. Most records are read only to find that they
// name all, so nothing is made of what else they say.
func (c *Cache) named(record string, since time.Time, wanted map[string]bool) (found []string) {
	text, err := c.readFile(path.Join(runsDir, record), maxRun)
	if err != nil {
		return nil
	}
	ended, err := eachRunLine(text, func(l runLine) {
		if (l.kind == "added" || l.kind == "used") && wanted[l.name] {
			found = append(found, l.name)
		}
	})
	if err != nil || checkEnded(ended) != nil || ended.Before(since) {
		return nil
	}
	return found
}

// Paths yields all entries that the run used: what it added as well.
func (r *Run) Paths() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, e := range r.Added {
			if !yield(e.Path) {
				return
			}
		}
		for _, p := range r.Used {
			if !yield(p) {
				return
			}
		}
	}
}

// Runs yields the records of all runs, oldest first by their names. One that can't be
// read is a [FileError]; what it says is unknown, and the others follow.
func (c *Cache) Runs() iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		names, err := c.runNames()
		if err != nil {
			yield(Run{}, fmt.Errorf("list runs: %w", err))
			return
		}
		for _, name := range names {
			r, err := c.readRun(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				err = &FileError{path.Join(runsDir, name), err}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// runNames returns the names of all records, sorted.
func (c *Cache) runNames() ([]string, error) {
	names, err := c.readDir(runsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a cache of before, or of Nix
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, ".") })
	slices.Sort(names)
	return names, err
}

// CheckRun returns an error if a file below .larder/runs is not worth to be taken: not
// even a newer larder could read it. One that can't be read, or never ends, is in the way
// of all who want to know what was used when.
func (c *Cache) CheckRun(name string) error {
	_, err := c.readRun(path.Base(name))
	if errors.Is(err, errNewer) {
		return nil
	}
	return err
}

func (c *Cache) readRun(name string) (Run, error) {
	text, err := c.readFile(path.Join(runsDir, name), maxRun)
	if err != nil {
		return Run{}, err
	}
	r, err := parseRun(text, c.storeDir)
	if err != nil {
		return Run{}, err
	}
	if err := checkEnded(r.Ended); err != nil {
		return Run{}, err
	}
	r.Name = name
	return r, nil
}

func checkEnded(ended time.Time) error {
	if until := time.Until(ended); until > fastClock {
		return fmt.Errorf("it ends in %s, which is in the future", until.Round(time.Hour))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(runStamp) }

func (r *Run) format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%d\nended %s\n", runHeader, runVersion, r.Ended.UTC().Format(runTime))
	if r.Summary {
		b.WriteString("summary\n")
	}
	if r.Bytes > 0 {
		fmt.Fprintf(&b, "bytes %d\n", r.Bytes)
	}
	for _, e := range r.Added {
		fmt.Fprintf(&b, "added %s", path.Base(e.Path))
		if ms := e.Build.Milliseconds(); ms > 0 {
			fmt.Fprintf(&b, " %s", strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64))
		}
		b.WriteByte('\n')
	}
	for _, p := range r.Used {
		fmt.Fprintf(&b, "used %s\n", path.Base(p))
	}
	for _, p := range r.Gone {
		fmt.Fprintf(&b, "gone %s\n", path.Base(p))
	}
	b.WriteString("end\n")
	return b.Bytes()
}

// parseRun reads a record of paths in a store directory.
func parseRun(text []byte, storeDir string) (r Run, err error) {
	r.Ended, err = eachRunLine(text, func(l runLine) {
		switch l.kind {
		case "summary":
			r.Summary = true
		case "bytes":
			r.Bytes = l.bytes
		case "added":
			r.Added = append(r.Added, RunEntry{Path: storeDir + "/" + l.name, Build: l.build})
		case "used":
			r.Used = append(r.Used, storeDir+"/"+l.name)
		case "gone":
			r.Gone = append(r.Gone, storeDir+"/"+l.name)
		}
	})
	if err != nil {
		return Run{}, err
	}
	return r, nil
}

// A runLine is a line of a record.
type runLine struct {
	kind  string
	name  string // base name of a store path
	build time.Duration
	bytes int64
	ended time.Time
}

// eachRunLine calls f for the lines of a record, and returns when it ended. What it has
// called f for before an error means nothing.
func eachRunLine(text []byte, f func(runLine)) (ended time.Time, err error) {
	header, rest, _ := strings.Cut(string(text), "\n")
	digits, ok := strings.CutPrefix(header, runHeader)
	version, err := strconv.Atoi(digits)
	if !ok || err != nil || version < 1 {
		return ended, errors.New("it is not the record of a run")
	}
	if version > runVersion {
		return ended, fmt.Errorf("version %d is %w %d", version, errNewer, runVersion)
	}
	// What was cut off may end in a whole line, but not in this one.
	body, ok := strings.CutSuffix(rest, "end\n")
	if !ok || body != "" && body[len(body)-1] != '\n' {
		return ended, errors.New("its end is missing")
	}
	number := 1
	for line := range strings.Lines(body) {
		number++
		l, err := parseRunLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return ended, fmt.Errorf("line %d: %w", number, err)
		}
		if l.kind == "ended" {
			ended = l.ended
		}
		f(l)
	}
	if ended.IsZero() {
		return ended, errors.New("it does not say when the run ended")
	}
	return ended, nil
}

func parseRunLine(line string) (l runLine, err error) {
	var value string
	l.kind, value, _ = strings.Cut(line, " ")
	switch l.kind {
	case "ended":
		l.ended, err = time.Parse(runTime, value)
		l.ended = l.ended.Truncate(time.Second)
	case "bytes":
		var size uint64
		size, err = strconv.ParseUint(value, 10, 63)
		l.bytes = int64(size)
	case "added":
		name, seconds, ok := strings.Cut(value, " ")
		if ok {
			if l.build, err = parseSeconds(seconds); err != nil {
				return l, err
			}
		}
		l.name, err = name, checkBaseName(name)
	case "used", "gone":
		l.name, err = value, checkBaseName(value)
	}
	return l, err // other kinds are of other releases
}

func parseSeconds(text string) (time.Duration, error) {
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 0 && seconds <= 1e9) {
		return 0, fmt.Errorf("%q is not a time in seconds", text)
	}
	return time.Duration(math.Round(seconds*1000)) * time.Millisecond, nil
}
