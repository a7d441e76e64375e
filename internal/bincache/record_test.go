package bincache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// writeRecord writes a record that has to be written, or not.
func writeRecord(t *testing.T, r *Record, run Run, want bool) {
	t.Helper()
	if written, err := r.Write(run, 24*time.Hour); err != nil || written != want {
		t.Errorf("record of a run that ended at %v: %v, %v; want %v", run.Ended, written, err, want)
	}
}

func TestRecordThatGoesOnIsOneFileThatIsAlwaysWhole(t *testing.T) {
	c := newCache(t)
	must(t, os.RemoveAll(filepath.Join(c.Path(), runsDir))) // as in a cache of before
	day := c.NewRecord(noon.Add(12 * time.Hour))
	run := Run{Ended: noon, Added: []RunEntry{{Path: hello, Build: time.Second}}, Bytes: 1234}
	writeRecord(t, day, run, true)
	writeRecord(t, day, run, false)
	run.Ended, run.Used = noon.Add(time.Hour), []string{libc}
	writeRecord(t, day, run, true)
	run.Ended = noon.Add(2 * time.Hour)
	writeRecord(t, day, run, false) // it covers itself
	run.Ended = noon.Add(time.Hour)
	got, damaged := runs(c)
	if diff := cmp.Diff([]Run{run}, got, cmpopts.IgnoreFields(Run{}, "Name"), cmpopts.EquateEmpty()); diff != "" || damaged != nil {
		t.Errorf("%v (-want +got):\n%s", damaged, diff)
	}
	if !strings.HasPrefix(got[0].Name, "20261122T000000Z-") {
		t.Errorf("record is called %s", got[0].Name)
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
	if info, err := os.Stat(filepath.Join(c.Path(), runsDir, got[0].Name)); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("record is %v, %v", info.Mode(), err)
	}
	// Others see what it has, although it is called as if it ended later, and know when it did.
	record(t, c, Run{Ended: noon.Add(24 * time.Hour), Used: []string{hello, libc}}, false)
	record(t, c, Run{Ended: noon.Add(26 * time.Hour), Used: []string{hello, libc}}, true)
}

func TestRecordIsNotWrittenForWhatOthersCover(t *testing.T) {
	c := newCache(t)
	record(t, c, Run{Ended: noon, Used: []string{hello}}, true)
	day := c.NewRecord(noon.Add(12 * time.Hour))
	writeRecord(t, day, Run{Ended: noon.Add(time.Hour), Used: []string{hello}}, false)
	writeRecord(t, day, Run{Ended: noon.Add(time.Hour), Used: []string{hello, libc}}, true)
	if _, err := day.Write(Run{Ended: noon, Used: []string{"/nix/store/no-hash"}}, 0); err == nil {
		t.Error("what can't be a store path was recorded")
	}
	if all, damaged := runs(c); len(all) != 2 || damaged != nil {
		t.Errorf("records are %v, %v", all, damaged)
	}
}

func TestNewerRecordOfTheSameNameIsTaken(t *testing.T) {
	from, to := newCache(t), newCache(t)
	short := runText
	long := strings.Replace(runText, "T12:", "T13:", 1)
	for _, tt := range []struct {
		name, theirs, ours string
		taken              bool
	}{
		{"longer", long, short, true},
		{"the-same", long, long, false},
		{"shorter", short, long, false},
		{"damaged-here", short, short[:len(short)-3], true},
		{"newer-larder", long, strings.Replace(short, "run 1", "run 2", 1), false},
	} {
		writeRun(t, from, tt.name, tt.theirs)
		writeRun(t, to, tt.name, tt.ours)
		taken, err := to.TakeNewerRun(from, runsDir+"/"+tt.name)
		want := tt.ours
		if tt.taken {
			want = tt.theirs
		}
		text, readErr := os.ReadFile(filepath.Join(to.Path(), runsDir, tt.name))
		if err != nil || readErr != nil || taken != tt.taken || string(text) != want {
			t.Errorf("%s: %v, %v, and it is %q", tt.name, taken, err, text)
		}
	}
	writeRun(t, from, "x", "damaged")
	if taken, err := to.TakeNewerRun(from, runsDir+"/x"); err == nil || taken {
		t.Errorf("what is damaged is taken: %v", err)
	}
}
