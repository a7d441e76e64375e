package cachewriter

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/trouble"
)

var everything = Options{Extras: Extras{Listings: true, Logs: true}}

// withLogs makes the fixture's store one that has logs.
func (f *fixture) withLogs(t *testing.T) {
	t.Helper()
	store, err := nixstore.Open(nixstore.Dirs{Store: f.nix.Dir, State: f.nix.State, Log: f.nix.Log}, 10*time.Second)
	must(t, err)
	t.Cleanup(func() { store.Close() })
	f.store = store
}

// file returns what is in a file of the cache, or "" if there is none.
func (f *fixture) file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, name))
	if !errors.Is(err, os.ErrNotExist) {
		must(t, err)
	}
	return string(text)
}

func (f *fixture) drvOf(t *testing.T, path string) string {
	t.Helper()
	return f.nix.Run(t, "nix-store", "--query", "--deriver", path)
}

func (f *fixture) logOf(t *testing.T, path string) string {
	t.Helper()
	return f.file(t, bincache.LogName(f.drvOf(t, path)))
}

// listings returns all listings of a cache as JSON values.
func listings(t *testing.T, dir string) map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.ls"))
	must(t, err)
	all := make(map[string]any)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		var l any
		must(t, json.Unmarshal(text, &l))
		all[filepath.Base(file)] = l
	}
	return all
}

const talks = `build "talks" "echo this is out; echo > $out; echo dev > $dev" { outputs = [ "out" "dev" ]; }`

func TestListingsAreThoseThatNixWrites(t *testing.T) {
	f := newFixture(t)
	paths := append(f.nix.Build(t, `build "tree" "mkdir -p $out/bin $out/empty; echo hello > $out/text; : > $out/none; echo '#!' > $out/bin/run; chmod +x $out/bin/run; ln -s text $out/link" { }`),
		f.nix.Add(t, "file", "file"), f.nix.Build(t, `build "link" "ln -s /nowhere $out" { }`)[0])
	f.copy(t, everything, paths...)
	theirs := t.TempDir()
	f.nix.Run(t, "nix", append([]string{"copy", "--to", "file://" + theirs + "?write-nar-listing=1"}, paths...)...)
	if diff := cmp.Diff(listings(t, theirs), listings(t, f.dir)); diff != "" || len(listings(t, f.dir)) != len(paths) {
		t.Errorf("(-nix +larder):\n%s", diff)
	}
	f.check(t)
}

func TestExtrasAreOnlyThereIfTheyAreWanted(t *testing.T) {
	f := newFixture(t)
	f.withLogs(t)
	outs := f.nix.Build(t, talks)
	f.copy(t, Options{}, outs...)
	if got := listings(t, f.dir); len(got) > 0 || f.logOf(t, outs[0]) != "" {
		t.Errorf("listings %v, log %q", got, f.logOf(t, outs[0]))
	}
	f.copy(t, Options{Extras: Extras{Logs: true}}, outs...)
	if got := listings(t, f.dir); len(got) > 0 || f.logOf(t, outs[0]) != "this is out\n" {
		t.Errorf("listings %v, log %q", got, f.logOf(t, outs[0]))
	}
}

// TestEntriesThatAreThereGetWhatTheyLack has a path read again only if it lacks a listing.
func TestEntriesThatAreThereGetWhatTheyLack(t *testing.T) {
	f := newFixture(t)
	f.withLogs(t)
	outs := f.nix.Lines(t, "nix-store", "--query", "--outputs", f.drvOf(t, f.nix.Build(t, talks)[0]))
	f.copy(t, Options{}, outs...)
	before := entryFiles(t, f.dir)
	if r := f.copy(t, everything, outs...); r != (Result{Paths: 2, Listed: 2}) {
		t.Errorf("result is %+v, want 2 listed", r)
	}
	if len(listings(t, f.dir)) != 2 || f.logOf(t, outs[0]) != "this is out\n" {
		t.Errorf("listings %v, log %q", listings(t, f.dir), f.logOf(t, outs[0]))
	}
	for _, out := range outs { // or it would be read
		must(t, os.Chmod(out, 0o644))
		must(t, os.WriteFile(out, []byte("changed"), 0o644))
	}
	log, said := logged()
	o := everything
	o.Log = log
	if r := f.copy(t, o, outs...); r != (Result{Paths: 2}) || said() != "" {
		t.Errorf("result is %+v, want nothing done; log: %s", r, said())
	}
	must(t, os.Remove(filepath.Join(f.dir, bincache.ListingName(outs[0]))))
	if r := f.copy(t, o, outs...); r != (Result{Paths: 2}) || !strings.Contains(said(), "stays without a listing") {
		t.Errorf("result is %+v, want no listing of what is not the entry; log: %s", r, said())
	}
	if diff := cmp.Diff(before, entryFiles(t, f.dir)); diff != "" || len(listings(t, f.dir)) != 1 {
		t.Errorf("entries have changed (-before +after):\n%s", diff)
	}
	f.check(t)
}

// A log is that of the build that made the entry.
func TestLogOfAnotherBuildStaysOnlyWithItsEntry(t *testing.T) {
	f := newFixture(t)
	f.withLogs(t)
	out := f.nix.Build(t, talks)[0]
	name := bincache.LogName(f.drvOf(t, out))
	other := func() { must(t, os.WriteFile(filepath.Join(f.dir, name), []byte("another build"), 0o644)) }
	other() // of one that failed, for example
	f.copy(t, everything, out)
	if got := f.file(t, name); got != "this is out\n" {
		t.Errorf("log of a new entry is %q", got)
	}
	other()
	f.copy(t, everything, out)
	if got := f.file(t, name); got != "another build" {
		t.Errorf("log of an entry that was there is %q", got)
	}
}

// Of an entry with other contents than the store's, nothing that is here tells.
func TestEntryOfAnotherBuildGetsNothing(t *testing.T) {
	f := newFixture(t)
	f.withLogs(t)
	build := `build "random" "echo here; od -N16 /dev/urandom > $out" { }`
	out := f.nix.Build(t, build)[0]
	f.copy(t, Options{}, out)
	f.nix.Run(t, "nix-store", "--delete", out)
	f.nix.Build(t, build)
	f.copy(t, everything, out)
	if got := listings(t, f.dir); len(got) > 0 || f.logOf(t, out) != "" {
		t.Errorf("listings %v, log %q", got, f.logOf(t, out))
	}
}

func TestEntryWhoseNamesAreNotTextHasNoListing(t *testing.T) {
	f := newFixture(t)
	out := f.nix.Build(t, `build "latin" "mkdir $out; : > $out/$(printf '\\351')" { }`)[0]
	log, said := logged()
	o := everything
	o.Log = log
	if r := f.copy(t, o, out); r.Copied != 1 || len(listings(t, f.dir)) > 0 {
		t.Errorf("result is %+v, listings %v", r, listings(t, f.dir))
	}
	if text := said(); !strings.Contains(text, `msg="entry has no listing" path=`+out) {
		t.Errorf("log is %s", text)
	}
	f.check(t)
}

func TestLogThatCanNotBeHadIsNoReasonToFail(t *testing.T) {
	for name, spoil := range map[string]func(f *fixture, source, target string) error{
		"cut off": func(_ *fixture, source, _ string) error { return os.Truncate(source, 10) },
		"damaged": func(_ *fixture, source, _ string) error { return os.WriteFile(source, []byte("BZh9nonsense"), 0o644) },
		"gone":    func(_ *fixture, source, _ string) error { return os.Remove(source) },
		"a link": func(_ *fixture, source, _ string) error {
			return errors.Join(os.Remove(source), os.Symlink("/etc/passwd", source))
		},
		"no place":  func(_ *fixture, _, target string) error { return os.Mkdir(target, 0o755) },
		"no folder": func(f *fixture, _, _ string) error { return os.RemoveAll(filepath.Join(f.dir, "log")) },
		"leads away": func(f *fixture, _, _ string) error {
			return errors.Join(os.RemoveAll(filepath.Join(f.dir, "log")), os.Symlink(f.nix.State, filepath.Join(f.dir, "log")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.withLogs(t)
			out := f.nix.Build(t, talks)[0]
			drv := filepath.Base(f.drvOf(t, out))
			must(t, spoil(f, filepath.Join(f.nix.Log, "drvs", drv[:2], drv[2:]+".bz2"), filepath.Join(f.dir, "log", drv)))
			for range 2 { // the second time it is present
				f.copy(t, everything, out)
			}
			if text, err := os.ReadFile(filepath.Join(f.dir, "log", drv)); err == nil {
				t.Errorf("log is %q", text)
			}
			f.has(t, out)
			f.check(t)
		})
	}
}

// A listing lists the NAR of the entry: one that was left over from another is replaced,
// and comes before the narinfo.
func TestListingComesBeforeItsNarInfo(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 50)
	left := filepath.Join(f.dir, bincache.ListingName(top))
	must(t, os.WriteFile(left, []byte(`{"root":{},"version":1}`), 0o644))
	watcher, err := fsnotify.NewBufferedWatcher(10_000)
	must(t, err)
	defer watcher.Close()
	must(t, watcher.Add(f.dir))
	f.copy(t, everything, top)
	appeared := make(map[string]bool)
	for narInfos := 0; narInfos < 50; {
		var e fsnotify.Event
		select {
		case e = <-watcher.Events:
		case <-time.After(tooLong):
			t.Fatalf("saw %d narinfos, want 50", narInfos)
		}
		appeared[e.Name] = true
		if hash, ok := strings.CutSuffix(e.Name, ".narinfo"); ok && e.Has(fsnotify.Create) {
			narInfos++
			if !appeared[hash+".ls"] {
				t.Errorf("%s came before its listing", e.Name)
			}
		}
	}
	if got := f.file(t, filepath.Base(left)); !strings.Contains(got, "narOffset") {
		t.Errorf("listing is %s", got)
	}
}

func TestLogIsCutWhereItIsTooLong(t *testing.T) {
	goOn := func() error { return nil }
	for text, want := range map[string]string{"": "", "1234": "1234", "12345": "1234" + logCut, strings.Repeat("1", 100_000): "1111" + logCut} {
		got, err := io.ReadAll(bounded(strings.NewReader(text), 4, goOn))
		if err != nil || string(got) != want {
			t.Errorf("%d bytes become %q, %v", len(text), got, err)
		}
	}
	stop := errors.New("stop")
	if _, err := io.ReadAll(bounded(strings.NewReader("text"), 4, func() error { return stop })); err != stop {
		t.Errorf("error is %v", err)
	}
}

func TestLogOfABuildThatFailedIsCopied(t *testing.T) {
	f := newFixture(t)
	f.withLogs(t)
	drv := f.nix.Run(t, "nix-instantiate", "-E", `derivation { name = "fails"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo it fails; exit 1" ]; }`)
	if err := f.nix.Command("nix-store", "--realise", drv).Run(); err == nil {
		t.Fatal("it does not fail")
	}
	w := f.writer(t, Options{})
	must(t, w.CopyLog(t.Context(), drv, false))
	name := bincache.LogName(drv)
	if got := f.file(t, name); got != "it fails\n" {
		t.Errorf("log is %q", got)
	}
	must(t, os.WriteFile(filepath.Join(f.dir, name), []byte("another"), 0o644))
	must(t, w.CopyLog(t.Context(), drv, false))
	if got := f.file(t, name); got != "another" {
		t.Errorf("log is %q", got)
	}
	must(t, w.CopyLog(t.Context(), drv, true))
	if got := f.file(t, name); got != "it fails\n" {
		t.Errorf("log is %q", got)
	}
	if err := w.CopyLog(t.Context(), strings.Replace(drv, "fails", "other", 1), true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	f.check(t)
}

// TestListingOfASlowerWriterIsTakenBack has another writer publish another build of the
// path, after our listing and before our narinfo.
func TestListingOfASlowerWriterIsTakenBack(t *testing.T) {
	f := newFixture(t)
	build := `build "random" "od -N16 /dev/urandom > $out" { }`
	out := f.nix.Build(t, build)[0]
	f.copy(t, Options{}, out)
	narInfo, nar := f.entry(t, out)
	text, err := os.ReadFile(narInfo)
	must(t, err)
	contents, err := os.ReadFile(nar)
	must(t, err)
	f.nix.Run(t, "nix-store", "--delete", out)
	f.nix.Build(t, build)

	release := f.stuck(t, out)
	done := copyAsync(t.Context(), f.writer(t, everything), out)
	name := bincache.ListingName(out)
	trouble.Eventually(t, "the listing is there", func() bool { return f.cache.Has(name) })
	must(t, os.WriteFile(nar, contents, 0o644))
	must(t, os.WriteFile(narInfo, text, 0o644))
	release()
	must(t, within(t, "Copy", done))
	if got, err := os.ReadFile(narInfo); string(got) != string(text) || f.cache.Has(name) {
		t.Errorf("narinfo is %s, %v; there is a listing: %t", got, err, f.cache.Has(name))
	}
	f.check(t)
}

// A listing that is there is of the contents that were replaced.
func TestListingOfWhatWasReplacedGoesWithIt(t *testing.T) {
	for _, listings := range []bool{true, false} {
		f := newFixture(t)
		path := f.nix.Add(t, "path", "one result")
		f.copy(t, everything, path)
		name := bincache.ListingName(path)
		before := f.file(t, name)
		f.rebuild(t, path, "another result")
		f.copy(t, Options{Replace: true, Extras: Extras{Listings: listings}}, path)
		after := f.file(t, name)
		if before == "" || after == before || (after != "") != listings {
			t.Errorf("with listings: %t: listing is %q, was %q", listings, after, before)
		}
		f.check(t)
	}
}
