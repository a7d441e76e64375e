package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// record records a run that has to be written, or not.
func record(t testing.TB, c *Cache, r Run, want bool) {
	t.Helper()
	if written, err := c.RecordRun(r, 24*time.Hour); err != nil || written != want {
		t.Errorf("record of a run that ended at %v: %v, %v; want %v", r.Ended, written, err, want)
	}
}

// runs returns the records of a cache, and what is wrong with others.
func runs(c *Cache) (all []Run, damaged []error) {
	for r, err := range c.Runs() {
		if err != nil {
			damaged = append(damaged, err)
		} else {
			all = append(all, r)
		}
	}
	return all, damaged
}

// writeRun writes a record by hand.
func writeRun(t testing.TB, c *Cache, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(c.Path(), runsDir, name), []byte(text), 0o644))
}

func TestRunIsReadAsItWasRecorded(t *testing.T) {
	c := newCache(t)
	first := Run{Ended: noon, Added: []RunEntry{{Path: hello, Build: 12500 * time.Millisecond}, {Path: libc}}}
	second := Run{Ended: noon.Add(time.Hour + 300*time.Millisecond).In(time.FixedZone("", 3600)), Used: []string{libc, hello}, Added: []RunEntry{{Path: hello}}}
	record(t, c, second, true)
	record(t, c, first, true)
	second.Ended = noon.Add(time.Hour)
	got, damaged := runs(c)
	if diff := cmp.Diff([]Run{first, second}, got, cmpopts.IgnoreFields(Run{}, "Name"), cmpopts.EquateEmpty()); diff != "" || damaged != nil {
		t.Errorf("%v (-want +got):\n%s", damaged, diff)
	}
	for i, want := range []string{"20261121T120000Z-", "20261121T130000Z-"} {
		if !strings.HasPrefix(got[i].Name, want) {
			t.Errorf("record is called %s, want %s…", got[i].Name, want)
		}
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
	if info, err := os.Stat(filepath.Join(c.Path(), runsDir, got[0].Name)); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("record is %v, %v", info.Mode(), err)
	}
}

const runText = `larder-run 1
ended 2026-11-21T12:00:00Z
bytes 123456
added 0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12 12.5
added 1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38
used 1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38
end
`

func TestRunIsWrittenAsThePackageCommentSays(t *testing.T) {
	r := Run{Ended: noon, Bytes: 123456, Added: []RunEntry{{hello, 12500 * time.Millisecond}, {libc, 0}}, Used: []string{libc}}
	if diff := cmp.Diff(runText, string(r.format())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Another release may say more.
	more := strings.ReplaceAll(runText, "\nadded", "\nhost builder-1\nadded")
	got, err := parseRun([]byte(more), storeDir)
	if diff := cmp.Diff(r, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestRunThatCanNotBeReadIsNamedAndTheOthersFollow(t *testing.T) {
	texts := map[string]string{
		"empty":      "",
		"too-new":    strings.Replace(runText, "run 1", "run 2", 1),
		"no-version": strings.Replace(runText, "run 1", "run", 1),
		"version-0":  strings.Replace(runText, "run 1", "run 0", 1),
		"foreign":    "#!/bin/sh\nend\n",
		"no-time":    strings.Replace(runText, "ended", "began", 1),
		"bad-time":   strings.Replace(runText, "2026-11", "2026-13", 1),
		"local-time": strings.Replace(runText, "00Z", "00+01:00", 1),
		"path":       strings.Replace(runText, "used ", "used /nix/store/", 1),
		"no-name":    strings.Replace(runText, "used "+refLibc, "used", 1),
		"negative":   strings.Replace(runText, "12.5", "-12.5", 1),
		"no-size":    strings.Replace(runText, "123456", "-1", 1),
		"infinite":   strings.Replace(runText, "12.5", "Inf", 1),
		"no-number":  strings.Replace(runText, "12.5", "NaN", 1),
		"more":       runText + "more\n",
		"only-end":   "end\n",
		"zeros":      strings.Repeat("\x00", 100),
		"long-line":  strings.Replace(runText, refLibc, strings.Repeat("x", 1<<20), 1),
	}
	for i := range runText {
		texts[fmt.Sprintf("cut-at-%d", i)] = runText[:i]
	}
	c := newCache(t)
	for name, text := range texts {
		writeRun(t, c, name, text)
	}
	must(t, os.Mkdir(filepath.Join(c.Path(), runsDir, "directory"), 0o755))
	texts["directory"] = ""
	writeRun(t, c, "a-good-one", runText)
	writeRun(t, c, "z-good-one", runText)
	writeRun(t, c, ".hidden", "no record")

	all, damaged := runs(c)
	if len(all) != 2 || all[0].Name != "a-good-one" || all[1].Name != "z-good-one" {
		t.Errorf("read %+v", all)
	}
	if len(damaged) != len(texts) {
		t.Errorf("%d records are damaged, want %d", len(damaged), len(texts))
	}
	for _, err := range damaged {
		name, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "read "+runsDir+"/"), ":")
		if _, ok := texts[name]; !ok || len(err.Error()) > 400 {
			t.Errorf("error is %.500q", err)
		}
		delete(texts, name)
	}
	if len(texts) > 0 {
		t.Errorf("nothing was said of %v", texts)
	}
	used, unreadable := c.Used()
	if len(unreadable) != len(damaged) || len(used) != 2 || !used[refHello].Equal(noon) {
		t.Errorf("used is %v, with %d errors", used, len(unreadable))
	}
}

func TestRunThatNixCouldNotHaveIsNotRecorded(t *testing.T) {
	c := newCache(t)
	for _, r := range []Run{
		{Ended: noon, Used: []string{hello, "/nix/store/no-hash"}},
		{Ended: noon, Used: []string{hello + "\nused " + refLibc}},
		{Used: []string{hello}},
	} {
		if written, err := c.RecordRun(r, 0); err == nil || written {
			t.Errorf("%+v was recorded", r)
		}
	}
	if all, damaged := runs(c); all != nil || damaged != nil {
		t.Errorf("records are %v, %v", all, damaged)
	}
}

// TestRunThatAddedNothingIsRecordedIfNothingNewCoversIt lets CI providers skip saving
// a cache from which everything came.
func TestRunThatAddedNothingIsRecordedIfNothingNewCoversIt(t *testing.T) {
	both, h := []string{hello, libc}, []string{hello}
	at := func(hours int) time.Time { return noon.Add(time.Duration(hours) * time.Hour) }
	for _, tt := range []struct {
		name   string
		before []Run
		used   []string
		want   bool
	}{
		{"no records", nil, both, true},
		{"nothing used", nil, nil, false},
		{"an hour ago", []Run{{Ended: at(-1), Used: both}}, both, false},
		{"added an hour ago", []Run{{Ended: at(-1), Added: []RunEntry{{Path: hello}}, Used: []string{libc}}}, both, false},
		{"less was used", []Run{{Ended: at(-1), Used: both}}, h, false},
		{"more was used", []Run{{Ended: at(-1), Used: h}}, both, true},
		{"in two records", []Run{{Ended: at(-2), Used: h}, {Ended: at(-1), Used: []string{libc}}}, both, false},
		{"a day ago", []Run{{Ended: at(-24), Used: both}}, both, false},
		{"longer ago", []Run{{Ended: at(-25), Used: both}}, both, true},
		{"one of two longer ago", []Run{{Ended: at(-25), Used: both}, {Ended: at(-1), Used: h}}, both, true},
		{"by a clock that is ahead", []Run{{Ended: at(1), Used: both}}, both, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache(t)
			for _, r := range tt.before {
				if _, err := c.RecordRun(r, 0); err != nil {
					t.Fatal(err)
				}
			}
			// What can't be read covers nothing.
			writeRun(t, c, "20261121T113000Z-damaged", runText[:len(runText)-1])
			record(t, c, Run{Ended: noon, Used: tt.used}, tt.want)
			record(t, c, Run{Ended: noon, Used: tt.used}, false)
			record(t, c, Run{Ended: noon, Used: tt.used, Added: []RunEntry{{Path: hello}}}, true)
		})
	}
}

// Ages are what a record says, whoever named or copied it.
func TestAgeOfARecordIsNotThatOfItsFile(t *testing.T) {
	c := newCache(t)
	writeRun(t, c, "by-hand", runText)
	record(t, c, Run{Ended: noon.Add(48 * time.Hour), Used: []string{libc}}, true)
}

func TestCacheOfBeforeHasNoRunsAndGetsThem(t *testing.T) {
	c := newCache(t)
	must(t, os.RemoveAll(filepath.Join(c.Path(), runsDir)))
	if all, damaged := runs(c); all != nil || damaged != nil {
		t.Errorf("records are %v, %v", all, damaged)
	}
	c, err := Open(c.Path(), storeDir)
	must(t, err)
	defer c.Close()
	record(t, c, Run{Ended: noon, Used: []string{hello}}, true)
	if all, damaged := runs(c); len(all) != 1 || damaged != nil {
		t.Errorf("records are %v, %v", all, damaged)
	}
}

func TestRunsThatEndTogetherAreAllRecorded(t *testing.T) {
	c := newCache(t)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { record(t, c, Run{Ended: noon, Added: []RunEntry{{Path: hello}}}, true) })
	}
	all.Wait()
	if got, damaged := runs(c); len(got) != 20 || damaged != nil {
		t.Errorf("%d records, %v; want 20", len(got), damaged)
	}
}

func TestRunsDirectoryThatCanNotBeReadIsAnError(t *testing.T) {
	c := newCache(t)
	dir := filepath.Join(c.Path(), runsDir)
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(dir, nil, 0o644))
	if all, damaged := runs(c); len(all) > 0 || len(damaged) != 1 {
		t.Errorf("records are %v, %v", all, damaged)
	}
	if _, err := c.RecordRun(Run{Ended: noon, Used: []string{hello}}, time.Hour); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

// FuzzParseRun asserts that what can be read is written so that it reads the same.
func FuzzParseRun(f *testing.F) {
	f.Add([]byte(runText))
	f.Add([]byte(strings.Replace(runText, "12.5", "0.0004999", 1)))
	f.Add([]byte(strings.Replace(runText, "12.5", "1e9", 1)))
	f.Add([]byte(strings.Replace(runText, "00Z", "00.999999999Z", 1)))
	f.Add([]byte(strings.Replace(runText, "2026", "0000", 1)))
	f.Add([]byte(strings.Replace(runText, "used", "\nend\nused", 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRun(text, storeDir)
		if err != nil {
			return
		}
		back, err := parseRun(r.format(), storeDir)
		must(t, err)
		if diff := cmp.Diff(r, back); diff != "" {
			t.Errorf("(-read +written and read again):\n%s", diff)
		}
		for p := range r.Paths() {
			if err := checkBaseName(strings.TrimPrefix(p, storeDir+"/")); err != nil {
				t.Error(err)
			}
		}
	})
}
