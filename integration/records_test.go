package integration

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A runRecord is what a file below .larder/runs says, sorted.
type runRecord struct {
	file        string
	ended       time.Time
	bytes       string
	added, used []string
}

// records returns the records of a cache, each of which has to be whole, sorted by name.
func records(t *testing.T, cache string) (all []runRecord) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, ".larder", "runs", "[^.]*"))
	must(t, err)
	for _, file := range files {
		text := readFile(t, file)
		if !strings.HasPrefix(text, "larder-run 1\nended ") || !strings.HasSuffix(text, "\nend\n") {
			t.Errorf("%s is %q", file, text)
		}
		r := runRecord{file: file}
		for line := range strings.Lines(text) {
			kind, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			value, _, _ = strings.Cut(value, " ")
			switch kind {
			case "ended":
				r.ended, err = time.Parse(time.RFC3339, value)
				must(t, err)
			case "bytes":
				r.bytes = value
			case "added":
				r.added = append(r.added, "/nix/store/"+value)
			case "used":
				r.used = append(r.used, "/nix/store/"+value)
			}
		}
		slices.Sort(r.added)
		slices.Sort(r.used)
		all = append(all, r)
	}
	return all
}

// forgetRuns removes all records of the cache.
func (l *larder) forgetRuns(t *testing.T) {
	t.Helper()
	for _, r := range records(t, l.cache) {
		must(t, os.Remove(r.file))
	}
}

// ageRuns makes the records of the cache older.
func (l *larder) ageRuns(t *testing.T, by time.Duration) {
	t.Helper()
	for _, r := range records(t, l.cache) {
		ended := r.ended.Add(-by)
		text := strings.Replace(readFile(t, r.file), r.ended.Format(time.RFC3339), ended.Format(time.RFC3339), 1)
		name := ended.Format("20060102T150405Z") + "-aged-" + filepath.Base(r.file)
		must(t, os.WriteFile(filepath.Join(filepath.Dir(r.file), name), []byte(text), 0o644))
		must(t, os.Remove(r.file))
	}
}

// wipeTimes gives everything in the cache the same times, as a restore does, or other
// ones on the way back: nothing may depend on them.
func wipeTimes(t *testing.T, cache string) {
	t.Helper()
	at := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	must(t, filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, at, at)
	}))
}

// everything returns all that is in a directory, bytes and times of files and directories
// alike.
func everything(t *testing.T, dir string) (list []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v %v inode %d", path, info.Mode(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino)
		if d.Type().IsRegular() {
			line += fmt.Sprintf(" %x", sha256.Sum256([]byte(readFile(t, path))))
		}
		list = append(list, line)
		return nil
	}))
	return list
}

// newRecords returns the records that there were not before.
func newRecords(t *testing.T, cache string, before []runRecord) []runRecord {
	t.Helper()
	return slices.DeleteFunc(records(t, cache), func(r runRecord) bool {
		return slices.ContainsFunc(before, func(b runRecord) bool { return b.file == r.file })
	})
}

func TestPushRecordsWhatItAddsAndUsesAndOtherwiseTouchesNothing(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		all := l.closure(t, top)
		one := l.buildOne(t, "one")
		l.push(t, top)
		first := records(t, l.cache)
		if len(first) != 1 || first[0].used != nil || first[0].bytes == "" || time.Since(first[0].ended) > time.Hour {
			t.Fatalf("records are %+v", first)
		}
		equalPaths(t, "record", first[0].added, all)

		// All of it is there: whoever saves the directory need not do it again.
		wipeTimes(t, l.cache)
		before := everything(t, l.cache)
		l.push(t, top, top)
		l.push(t, all...)
		unchanged(t, "cache", before, everything(t, l.cache))

		// Some of it is: what was asked for was used, with all that it needs.
		l.push(t, top, one)
		second := newRecords(t, l.cache, first)
		if len(second) != 1 || !slices.Equal(second[0].added, []string{one}) || !slices.Equal(second[0].used, []string{top}) {
			t.Errorf("new records are %+v", second)
		}

		// It is a day since that was noted.
		l.ageRuns(t, 23*time.Hour)
		before = everything(t, l.cache)
		l.push(t, top)
		unchanged(t, "cache", before, everything(t, l.cache))
		l.ageRuns(t, 2*time.Hour)
		aged := records(t, l.cache)
		l.with("LARDER_USE_GRANULARITY=30h").run(t, "larder", "push", "--cache", l.cache, top)
		if more := newRecords(t, l.cache, aged); len(more) > 0 {
			t.Errorf("new records are %+v", more)
		}
		l.push(t, top)
		third := newRecords(t, l.cache, aged)
		if len(third) != 1 || third[0].added != nil || !slices.Equal(third[0].used, []string{top}) {
			t.Errorf("new records are %+v", third)
		}
		l.push(t, "--use-granularity", "0s", top)
		if all := newRecords(t, l.cache, aged); len(all) != 2 && all[0].ended != third[0].ended {
			t.Errorf("new records are %+v", all)
		}
		refusal{2, `--use-granularity is "often", want a time, such as 90s, 36h or 30d`, "larder push --help"}.of(t, l.machine, "larder", "push", "--cache", l.cache, "--use-granularity", "often", top)
	})
}

// The same for a job whose Nix gets everything from the cache.
func TestJobThatFindsEverythingTouchesNothing(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		p := provider{n, r}
		first := p.job(t, "")
		first.runs(t, buildProject()...)
		next := p.job(t, first.cache)
		next.runs(t, "true") // makes the directories that were lost
		wipeTimes(t, next.cache)
		before := everything(t, next.cache)
		if o := next.runs(t, buildProject()...); r.reads && o.report.Hits == 0 {
			t.Errorf("report is %+v", o.report)
		}
		if r.reads {
			unchanged(t, "cache", before, everything(t, next.cache))
		}

		third := p.job(t, next.cache)
		third.ageRuns(t, 25*time.Hour)
		aged := records(t, third.cache)
		third.runs(t, buildProject()...)
		if more := newRecords(t, third.cache, aged); len(more) != 1 || more[0].added != nil || more[0].used == nil {
			t.Errorf("new records are %+v", more)
		}
	})
}

// A daemon is killed one day: what it has recorded until then can be read.
func TestDaemonRecordsItsDay(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		if now := time.Now(); now.Add(5*time.Minute).UTC().Day() != now.UTC().Day() {
			t.Skip("the day ends soon, and with it the record")
		}
		d := l.startWorker(t, "--poll", "20ms")
		first := l.buildOne(t, "first")
		recorded := func(file, path string) bool {
			return slices.ContainsFunc(records(t, l.cache), func(r runRecord) bool {
				return (file == "" || r.file == file) && slices.Contains(r.added, path)
			})
		}
		eventually(t, "a record", func() bool { return recorded("", first) })
		day := records(t, l.cache)
		second := l.buildOne(t, "second")
		eventually(t, "more in the record", func() bool { return recorded(day[0].file, second) })
		d.kill(t)
		if all := records(t, l.cache); len(all) != 1 || all[0].bytes == "" || len(all[0].used) > 0 {
			t.Errorf("records are %+v", all)
		}

		// The next one has a record of its own, and writes it at its end as well.
		d = l.startWorker(t, "--poll", "1h")
		third := l.buildOne(t, "third")
		eventually(t, "the worker", func() bool { return len(l.queued(t)) == 0 })
		d.signal(t, syscall.SIGTERM)
		d.endsWell(t)
		last := newRecords(t, l.cache, day)
		if len(last) != 1 || !slices.Equal(last[0].added, []string{third}) {
			t.Errorf("records of the second daemon are %+v", last)
		}

		// What comes from this cache is seen, and is nothing new on the same day.
		wipeTimes(t, l.cache)
		before := everything(t, l.cache)
		l.collectGarbage(t)
		d = l.startWorker(t, "--poll", "20ms")
		l.substitute(t, l.cache, first)
		eventually(t, "the watcher", func() bool { return *l.fullStatus(t).Unseen == 0 })
		d.signal(t, syscall.SIGTERM)
		d.endsWell(t)
		unchanged(t, "cache", before, everything(t, l.cache))

		l.ageRuns(t, 48*time.Hour)
		aged := records(t, l.cache)
		l.collectGarbage(t)
		d = l.startWorker(t, "--poll", "20ms")
		l.substitute(t, l.cache, second)
		eventually(t, "a record of use", func() bool { return len(newRecords(t, l.cache, aged)) > 0 })
		if used := newRecords(t, l.cache, aged); len(used) != 1 || used[0].added != nil || !slices.Equal(used[0].used, []string{second}) {
			t.Errorf("new records are %+v, want %s used", used, second)
		}
		d.signal(t, syscall.SIGTERM)
		d.endsWell(t)

		// What was looked at before has not been used because it is looked at once more.
		l.ageRuns(t, 48*time.Hour)
		aged = records(t, l.cache)
		l.run(t, "larder", "init", "--skip-signed-by", "nobody-1") // other rules
		d = l.startWorker(t, "--poll", "20ms")
		d.waitFor(t, "comparing store and cache")
		fourth := l.buildOne(t, "fourth")
		eventually(t, "a record", func() bool { return recorded("", fourth) })
		if used := newRecords(t, l.cache, aged); len(used) != 1 || used[0].used != nil {
			t.Errorf("new records are %+v", used)
		}
	})
}

func TestHostsThatShareACacheHaveRecordsOfTheirOwn(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(tempDir(t), "cache")
	var built, recorded []string
	var daemons []*process
	for i, n := range nixes {
		m := newMachine(t, n).with(patient)
		l := &larder{machine: m, cache: cache, queue: rootsQueue}
		l.configure(t, m.lines(t, "larder", "init", "--cache", cache)[0])
		daemons = append(daemons, l.startWorker(t, "--poll", "20ms"))
		built = append(built, l.buildOne(t, fmt.Sprintf("on-%d", i)))
	}
	eventually(t, "all records", func() bool { return len(records(t, cache)) == len(nixes) })
	for _, d := range daemons {
		d.signal(t, syscall.SIGTERM)
		d.endsWell(t)
	}
	for _, r := range records(t, cache) {
		recorded = append(recorded, r.added...)
	}
	slices.Sort(built)
	slices.Sort(recorded)
	if !slices.Equal(recorded, built) {
		t.Errorf("recorded is %q, want %q", recorded, built)
	}
}

func TestImportRecordsAndMergeTakesRecords(t *testing.T) {
	t.Parallel()
	l, top := pusher(t, nixes[0])
	all := l.closure(t, top)
	file := l.nixExport(t, top)
	l.imports(t, l.cache, file)
	got := records(t, l.cache)
	if len(got) != 1 || got[0].used != nil || got[0].bytes == "" {
		t.Fatalf("records are %+v", got)
	}
	equalPaths(t, "record", got[0].added, all)
	wipeTimes(t, l.cache)
	before := files(t, l.cache)
	l.imports(t, l.cache, file)
	unchanged(t, "cache", before, files(t, l.cache))

	// Ages come with the records, and do not begin anew.
	l.ageRuns(t, 100*24*time.Hour)
	merged := filepath.Join(tempDir(t), "merged")
	l.run(t, "larder", "merge", "--cache", merged, l.cache)
	if m := records(t, merged); len(m) != 1 || !m[0].ended.Equal(records(t, l.cache)[0].ended) {
		t.Errorf("records are %+v", m)
	}
	// A record that goes on is taken as it is in the end.
	here := records(t, l.cache)[0].file
	longer := strings.Replace(readFile(t, here), "\nend\n", "\nused "+filepath.Base(top)+"\nend\n", 1)
	longer = strings.Replace(longer, records(t, l.cache)[0].ended.Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339), 1)
	must(t, os.WriteFile(here, []byte(longer), 0o644))
	l.run(t, "larder", "merge", "--cache", merged, l.cache)
	if text := readFile(t, filepath.Join(merged, ".larder", "runs", filepath.Base(here))); text != longer {
		t.Errorf("record is %s", text)
	}
}
