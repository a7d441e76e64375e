package bincache

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// another publishes a NAR that is to take the place of an entry's, and returns the swap.
func another(t testing.TB, c *Cache, old *NarInfo, text string, storePaths ...string) Swap {
	t.Helper()
	hash := sum(text)
	f := NarInfo{URL: NarName(hash, "zstd"), Compression: "zstd", FileHash: hash, FileSize: int64(len(text))}
	must(t, c.PublishNar(temp(t, c, text), f.URL))
	s := Swap{Old: old, New: f, Method: "zstd:19"}
	for _, p := range storePaths {
		s.Hashes = append(s.Hashes, HashPart(p))
	}
	return s
}

func swap(t testing.TB, c *Cache, want int, batch ...Swap) {
	t.Helper()
	swapped, err := c.SwapNars(t.Context(), batch, noon)
	must(t, err)
	total := 0
	for _, n := range swapped {
		total += n
	}
	if total != want {
		t.Errorf("%d entries name another NAR now, want %d", total, want)
	}
}

func wantSwept(t testing.TB, c *Cache, before time.Time, removed, waiting int) {
	t.Helper()
	s, err := c.SweepRetired(t.Context(), before, false)
	must(t, err)
	if s.Removed != removed || s.Waiting != waiting {
		t.Errorf("removed %d, and %d wait; want %d and %d", s.Removed, s.Waiting, removed, waiting)
	}
}

func exists(t testing.TB, c *Cache, name string, want bool) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(c.Path(), name)); (err == nil) != want {
		t.Errorf("%s: %v, want it there: %v", name, err, want)
	}
}

func TestSwapChangesOnlyWhereTheNarIs(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "contents")
	file := filepath.Join(c.Path(), narInfoName(hello))
	must(t, os.WriteFile(file, []byte("StorePath: "+hello+"\nNew: a field\nURL: "+n.URL+"\nCompression: none\nNarHash: "+n.NarHash.String()+
		"\nNarSize: 8\nReferences: "+filepath.Base(libc)+"  "+filepath.Base(hello)+"\nSig: key:QUFB\nCA: fixed:sha256:"+n.NarHash.Digits()+"\n"), 0o644))
	n, err := c.Entry(hello)
	must(t, err)
	s := another(t, c, n, "small", hello)
	swap(t, c, 1, s)
	text, err := os.ReadFile(file)
	must(t, err)
	want := "StorePath: " + hello + "\nNew: a field\nURL: " + s.New.URL + "\nCompression: zstd\nFileHash: " + s.New.FileHash.String() + "\nFileSize: 5\nNarHash: " + n.NarHash.String() +
		"\nNarSize: 8\nReferences: " + filepath.Base(libc) + "  " + filepath.Base(hello) + "\nSig: key:QUFB\nCA: fixed:sha256:" + n.NarHash.Digits() + "\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("narinfo (-want +is):\n%s", diff)
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

func TestWhatWasChangedMeanwhileIsNotSwapped(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "contents")
	s := another(t, c, n, "small", hello, libc) // of which one is not there
	text, err := os.ReadFile(filepath.Join(c.Path(), narInfoName(hello)))
	must(t, err)
	for _, change := range []string{"URL: ", "NarHash: ", "Compression: "} {
		var changed []string
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, change) {
				line = map[string]string{"URL: ": "URL: " + s.New.URL, "NarHash: ": "NarHash: " + sum("else").String(), "Compression: ": "Compression: br"}[change] + "\n"
			}
			if change != "URL: " || !strings.HasPrefix(line, "File") {
				changed = append(changed, line)
			}
		}
		now := strings.Join(changed, "")
		must(t, os.WriteFile(filepath.Join(c.Path(), narInfoName(hello)), []byte(now), 0o644))
		swap(t, c, 0, s)
		if is, err := os.ReadFile(filepath.Join(c.Path(), narInfoName(hello))); string(is) != now || err != nil {
			t.Errorf("%s: changed to %q, %v", change, is, err)
		}
	}
}

// TestNothingIsSwappedForWhatIsGone has a sweeper remove the new NAR, which nobody names,
// before the entries do.
func TestNothingIsSwappedForWhatIsGone(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "contents")
	s := another(t, c, n, "small", hello)
	must(t, c.Retire(noon, s.New.URL)) // it had been there before, and was replaced
	wantSwept(t, c, noon, 1, 0)
	swap(t, c, 0, s)
	wantSwept(t, c, noon.Add(time.Hour), 0, 0)
	if _, err := c.Entry(hello); err != nil {
		t.Error(err)
	}
}

func TestOldNarsStayForAWhile(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "contents")
	s := another(t, c, n, "small", hello)
	swap(t, c, 1, s)
	before := times(t, c.Path())
	wantSwept(t, c, noon.Add(-time.Second), 0, 1)
	if diff := cmp.Diff(before, times(t, c.Path())); diff != "" {
		t.Errorf("times (-before +after):\n%s", diff)
	}
	exists(t, c, n.URL, true)
	wantSwept(t, c, noon.Add(time.Second), 1, 0)
	exists(t, c, n.URL, false)
	exists(t, c, s.New.URL, true)
	if have, err := c.Entry(hello); err != nil || have.URL != s.New.URL {
		t.Errorf("%+v, %v", have, err)
	}
	retired, err := c.Retired()
	must(t, err)
	tried, err := c.Tried()
	must(t, err)
	if len(retired) > 0 || tried[s.New.URL] != "zstd:19" {
		t.Errorf("remembered: %v, %v", retired, tried)
	}
	wantSwept(t, c, noon.Add(time.Hour), 0, 0)
}

func TestNarsThatAreNamedStay(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "contents")
	publish(t, c, libc, "contents") // the same NAR
	swap(t, c, 1, another(t, c, n, "small", hello))
	wantSwept(t, c, noon.Add(time.Hour), 0, 0)
	if _, err := c.Entry(libc); err != nil {
		t.Error(err)
	}
	// Now nobody names it, and it has to be replaced anew to go.
	n, err := c.Entry(libc)
	must(t, err)
	swap(t, c, 1, another(t, c, n, "small", libc))
	wantSwept(t, c, noon.Add(time.Hour), 1, 0)
}

// TestNarsThatAreNamedMeanwhileComeBack has somebody add an entry with a NAR that he found
// there, and that was moved to the trash since.
func TestNarsThatAreNamedMeanwhileComeBack(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "contents")
	narInfoFile := filepath.Join(c.Path(), narInfoName(hello))
	text, err := os.ReadFile(narInfoFile)
	must(t, err)
	must(t, os.Remove(narInfoFile))
	const last = "nar/zzzz.nar" // it is looked at when the other one has been moved
	must(t, os.WriteFile(filepath.Join(c.Path(), last), nil, 0o644))
	must(t, c.Retire(noon, n.URL, last))
	unlock, err := c.Lock(t.Context())
	must(t, err)
	defer unlock()
	added := false
	s, err := c.SweepRetiredLocked(t.Context(), noon, false, Known{Needs: func(name string) bool {
		if name == last && !added {
			added = true
			exists(t, c, n.URL, false)
			must(t, os.WriteFile(narInfoFile, text, 0o644))
		}
		return false
	}})
	must(t, err)
	if s.Removed != 1 {
		t.Errorf("removed %d", s.Removed)
	}
	if _, err := c.Entry(hello); err != nil {
		t.Error(err)
	}
}

func TestTrashOfAKilledSweeperIsDealtWith(t *testing.T) {
	c := newCache(t)
	needed, not := publish(t, c, hello, "needed"), publish(t, c, libc, "not")
	must(t, c.makeDir(retiredDir))
	for _, n := range []*NarInfo{needed, not} {
		must(t, c.root.Rename(n.URL, retiredDir+"/"+strings.ReplaceAll(n.URL, "/", "%2F")))
	}
	must(t, os.Remove(filepath.Join(c.Path(), narInfoName(libc))))
	wantSwept(t, c, noon, 1, 0)
	exists(t, c, not.URL, false)
	if _, err := c.Entry(hello); err != nil {
		t.Error(err)
	}
	if left := c.moved(); len(left) > 0 {
		t.Errorf("in the trash: %q", left)
	}
}

func TestSweeperLeavesTheCacheForWhatItIs(t *testing.T) {
	c := newCache(t)
	publish(t, c, hello, "hello")
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, nil, 0o644))
	must(t, os.Symlink(outside, filepath.Join(c.Path(), "nar", "link")))
	all := []string{"nix-cache-info", narInfoName(hello), ".larder/lock", ".larder/settings", "../outside", "nar/link", "nar/../nix-cache-info", "nar"}
	text := retiredFile.header + "1\n"
	for _, url := range all {
		text += retiredLine(noon, url)
	}
	must(t, os.WriteFile(filepath.Join(c.Path(), retiredFile.name), []byte(text+"until now nar/x\nwhat else\n"), 0o644))
	before := snapshot(t, c.Path())
	wantSwept(t, c, noon.Add(time.Hour), 0, 0)
	after := snapshot(t, c.Path())
	for _, name := range []string{retiredFile.name, path.Dir(retiredDir), retiredDir, removalFile} {
		delete(before, "./"+name)
		delete(after, "./"+name)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

func TestLineThatWasCutOffHarmsNoOther(t *testing.T) {
	c := newCache(t)
	must(t, c.KeepNars(t.Context(), []string{"nar/one"}, "xz:9"))
	file := filepath.Join(c.Path(), recompressedFile.name)
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, append(text, "tried xz:9 nar/cut"...), 0o644))
	must(t, c.KeepNars(t.Context(), []string{"nar/two", "nar/three with spaces"}, "xz:9"))
	tried, err := c.Tried()
	must(t, err)
	urls := slices.Sorted(maps.Keys(tried))
	if want := []string{"nar/cut", "nar/one", "nar/three with spaces", "nar/two"}; !slices.Equal(urls, want) {
		t.Errorf("%q, want %q", urls, want)
	}
	must(t, os.WriteFile(file, []byte("larder-recompressed 2\n"), 0o644))
	if _, err := c.Tried(); err == nil {
		t.Error("a list of a newer larder was read")
	}
	if err := c.KeepNars(t.Context(), []string{"nar/four"}, "xz:9"); err == nil {
		t.Error("a list of a newer larder was added to")
	}
}
