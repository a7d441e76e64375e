package recompress

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
)

const storeDir = "/nix/store"

var (
	fast  = compress.Method{Name: "zstd", Level: 1}
	small = compress.Method{Name: "zstd", Level: 19}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// storePath returns the store path of a number.
func storePath(i int) string { return fmt.Sprintf("%s/%032d-path", storeDir, i) }

func newCache(t testing.TB) *bincache.Cache {
	t.Helper()
	c, err := bincache.Create(filepath.Join(t.TempDir(), "cache"), storeDir, bincache.Options{})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// contents returns what gets smaller by a higher level.
func contents(seed int) []byte {
	var b bytes.Buffer
	for i := range 3000 {
		fmt.Fprintf(&b, "%d: the %d. line of %d, %x\n", i%97, i*i%1013, seed, i*7919%(seed+1009))
	}
	return b.Bytes()
}

// add publishes an entry, and returns it.
func add(t testing.TB, c *bincache.Cache, path string, m compress.Method, data []byte, references ...string) *bincache.NarInfo {
	t.Helper()
	temp, err := c.CreateTemp()
	must(t, err)
	var packed bytes.Buffer
	w := m.NewWriter()
	w.Reset(&packed)
	_, err = w.Write(data)
	must(t, err)
	must(t, w.Flush())
	_, err = temp.Write(packed.Bytes())
	must(t, err)
	hash := bincache.Hash(sha256.Sum256(packed.Bytes()))
	n := &bincache.NarInfo{
		StorePath: path, URL: bincache.NarName(hash, m.Name), Compression: m.Name, FileHash: hash, FileSize: int64(packed.Len()),
		NarHash: sha256.Sum256(data), NarSize: int64(len(data)), Sigs: []string{"key:QUFB"}, Deriver: filepath.Base(storePath(9)) + ".drv",
	}
	for _, ref := range references {
		n.References = append(n.References, filepath.Base(ref))
	}
	must(t, c.PublishNar(temp, n.URL))
	info, err := c.TempNarInfo(n)
	must(t, err)
	_, err = c.PublishNarInfo(t.Context(), info, path)
	must(t, err)
	return n
}

// run recompresses with sensible options.
func run(t testing.TB, c *bincache.Cache, change func(*Options)) Result {
	t.Helper()
	o := Options{Cache: c, Method: small, Grace: 30 * 24 * time.Hour, Workers: 2}
	if change != nil {
		change(&o)
	}
	r, err := New(o).Run(t.Context())
	must(t, err)
	return r
}

// isWhole fails the test if an entry is not as it was but for its file.
func isWhole(t testing.TB, c *bincache.Cache, was *bincache.NarInfo) *bincache.NarInfo {
	t.Helper()
	n, err := c.Entry(was.StorePath)
	must(t, err)
	same := *n
	same.URL, same.Compression, same.FileHash, same.FileSize = was.URL, was.Compression, was.FileHash, was.FileSize
	if diff := cmp.Diff(string(was.Format()), string(same.Format())); diff != "" {
		t.Errorf("%s (-was +is):\n%s", was.StorePath, diff)
	}
	f, _, err := c.OpenNar(n)
	must(t, err)
	defer f.Close()
	file := sha256.New()
	r, err := compress.NewReader(n.Compression, io.TeeReader(f, file), n.NarSize)
	must(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	must(t, err)
	if bincache.Hash(sha256.Sum256(data)) != n.NarHash || bincache.Hash(file.Sum(nil)) != n.FileHash {
		t.Errorf("%s: another NAR", n.StorePath)
	}
	return n
}

// times returns when the files below a directory were changed.
func times(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	must(t, filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err == nil {
			all[name] = fmt.Sprint(info.ModTime(), info.Size())
		}
		return err
	}))
	return all
}

func TestEntriesBecomeSmallerAndStayWhatTheyAre(t *testing.T) {
	c := newCache(t)
	var was []*bincache.NarInfo
	for i, m := range []compress.Method{fast, {Name: "none"}, {Name: "xz", Level: 0}, fast} {
		was = append(was, add(t, c, storePath(i), m, contents(i), storePath(i)))
	}
	was = append(was, add(t, c, storePath(4), fast, contents(0))) // the NAR of another one
	before := times(t, c.Path())
	if r := run(t, c, func(o *Options) { o.DryRun = true }); r.Candidates != 4 || r.Entries != 5 || r.Recompressed != 0 {
		t.Errorf("%+v, want 4 NARs of 5 entries", r)
	}
	if diff := cmp.Diff(before, times(t, c.Path())); diff != "" {
		t.Errorf("a dry run changed (-before +after):\n%s", diff)
	}
	r := run(t, c, nil)
	if r.Recompressed+r.Kept != 4 || r.Recompressed < 3 || r.After >= r.Before || r.Waiting != r.Recompressed || r.WaitingBytes != r.Before {
		t.Errorf("%+v, want 4 NARs smaller", r)
	}
	for _, n := range was {
		now := isWhole(t, c, n)
		if now.FileSize > n.FileSize || n.Compression != "xz" && now.URL == n.URL {
			t.Errorf("%s: %d bytes, were %d", n.StorePath, now.FileSize, n.FileSize)
		}
		// Clients that have read it before still find what they look for.
		if info, err := os.Stat(filepath.Join(c.Path(), n.URL)); err != nil || info.Size() != n.FileSize {
			t.Errorf("the old NAR: %v, %v", info, err)
		}
	}
	before = times(t, c.Path())
	if r := run(t, c, nil); r.Candidates != 0 {
		t.Errorf("the second time: %+v, want nothing to do", r)
	}
	if diff := cmp.Diff(before, times(t, c.Path())); diff != "" {
		t.Errorf("the second time changed (-before +after):\n%s", diff)
	}
	if again := run(t, c, func(o *Options) { o.Grace = 0 }); again.Removed != r.Recompressed || again.RemovedBytes != r.Before || again.Waiting != 0 {
		t.Errorf("without grace: %+v", again)
	}
	for _, n := range was {
		isWhole(t, c, n)
	}
	// What has been done with a lower level is worth a try with a higher one.
	if r := run(t, c, func(o *Options) { o.Method.Level = 22; o.DryRun = true }); r.Candidates != 4 {
		t.Errorf("a higher level: %+v, want 4", r)
	}
	if r := run(t, c, func(o *Options) { o.Method.Level = 3; o.DryRun = true }); r.Candidates != 0 {
		t.Errorf("a lower level: %+v, want none", r)
	}
}

func TestWhatDoesNotGetSmallerStays(t *testing.T) {
	c := newCache(t)
	n := add(t, c, storePath(0), small, contents(0))
	if r := run(t, c, func(o *Options) { o.Method = fast }); r.Kept != 1 || r.Recompressed != 0 {
		t.Errorf("%+v, want one kept", r)
	}
	if now := isWhole(t, c, n); now.URL != n.URL {
		t.Errorf("it is %s now", now.URL)
	}
	if names, err := filepath.Glob(filepath.Join(c.Path(), "nar", "*.nar*")); len(names) != 1 || err != nil {
		t.Errorf("NARs: %q, %v", names, err)
	}
	if names, err := filepath.Glob(filepath.Join(c.Path(), ".larder", "tmp", "*-*")); len(names) != 0 || err != nil {
		t.Errorf("unfinished: %q, %v", names, err)
	}
}

func TestOnlyWhatWasAskedForIsRecompressed(t *testing.T) {
	c := newCache(t)
	one, other := add(t, c, storePath(0), fast, contents(0)), add(t, c, storePath(1), fast, contents(1))
	if r := run(t, c, func(o *Options) { o.Paths = []string{one.StorePath} }); r.Recompressed != 1 || r.Entries != 1 {
		t.Errorf("%+v, want one", r)
	}
	if now := isWhole(t, c, other); now.URL != other.URL {
		t.Error("another one was recompressed")
	}
	if _, err := New(Options{Cache: c, Method: small, Paths: []string{storePath(7)}}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), storePath(7)) {
		t.Errorf("%v, want an error that names the path", err)
	}
}

func TestWhatWasUsedLatelyIsLeftOut(t *testing.T) {
	c := newCache(t)
	lib := add(t, c, storePath(0), fast, contents(0))
	for i := 1; i <= 3; i++ {
		add(t, c, storePath(i), fast, contents(i), lib.StorePath)
	}
	day := 24 * time.Hour
	last := time.Now().Add(-100 * day) // ages do not count from today
	for path, age := range map[int]time.Duration{1: 30 * day, 2: 5 * day} {
		_, err := c.RecordRun(bincache.Run{Ended: last.Add(-age), Used: []string{storePath(path)}}, 0)
		must(t, err)
	}
	_, err := c.RecordRun(bincache.Run{Ended: last, Added: []bincache.RunEntry{{Path: storePath(9)}}}, 0)
	must(t, err)
	// The third one was never used, and the first is needed by the second.
	for age, want := range map[time.Duration]int{day: 4, 6 * day: 2, 31 * day: 1} {
		if r := run(t, c, func(o *Options) { o.OlderThan = age; o.DryRun = true }); r.Candidates != want {
			t.Errorf("older than %v: %+v, want %d", age, r, want)
		}
	}
	must(t, os.WriteFile(filepath.Join(c.Path(), ".larder", "runs", "20260101T000000Z-x"), []byte("larder-run 2\n"), 0o644))
	if _, err := New(Options{Cache: c, Method: small, OlderThan: day}).Run(t.Context()); err == nil {
		t.Error("a record that can't be read says that nothing was used")
	}
}

func TestDamagedEntriesAreLeftAsTheyAre(t *testing.T) {
	c := newCache(t)
	var was []*bincache.NarInfo
	for i := range 5 {
		was = append(was, add(t, c, storePath(i), fast, contents(i)))
	}
	nar := func(i int) string { return filepath.Join(c.Path(), was[i].URL) }
	must(t, os.Remove(nar(1)))
	text, err := os.ReadFile(nar(2))
	must(t, err)
	text[len(text)/2] ^= 1
	must(t, os.WriteFile(nar(2), text, 0o644))
	change := func(i int, from, to string) {
		file := filepath.Join(c.Path(), bincache.HashPart(storePath(i))+".narinfo")
		text, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, bytes.Replace(text, []byte(from), []byte(to), 1), 0o644))
	}
	change(3, was[3].NarHash.String(), was[0].NarHash.String())
	change(4, "Compression: zstd", "Compression: lzop")
	r := run(t, c, nil)
	if r.Recompressed != 1 || len(r.Damaged) != 4 {
		t.Errorf("%+v, want one recompressed and four damaged", r)
	}
	isWhole(t, c, was[0])
}

func TestWhatIsRemovedMeanwhileIsNotDamaged(t *testing.T) {
	c := newCache(t)
	for i := range 3 {
		add(t, c, storePath(i), fast, contents(i))
	}
	r := New(Options{Cache: c, Method: small, Workers: 2})
	groups, err := r.groups(t.Context())
	must(t, err)
	for _, g := range groups {
		r.todo = append(r.todo, g)
		must(t, os.Remove(filepath.Join(c.Path(), g.entry.URL)))
		if g.entry.StorePath != storePath(0) { // whose NAR alone is gone
			must(t, os.Remove(filepath.Join(c.Path(), bincache.HashPart(g.entry.StorePath)+".narinfo")))
		}
	}
	must(t, r.recompress(t.Context()))
	if d := r.result.Damaged; len(d) != 1 || d[0].Path != storePath(0) {
		t.Errorf("damaged: %v, want only what has an entry", d)
	}
}

func TestNoMoreIsUnpackedThanAnEntrySays(t *testing.T) {
	c := newCache(t)
	n := add(t, c, storePath(0), fast, make([]byte, 64<<20))
	n.NarSize = 1000
	must(t, os.WriteFile(filepath.Join(c.Path(), bincache.HashPart(n.StorePath)+".narinfo"), n.Format(), 0o644))
	r := run(t, c, func(o *Options) { o.Method = compress.Method{Name: "xz", Level: 6} })
	if len(r.Damaged) != 1 || !strings.Contains(r.Damaged[0].Cause, "more comes out") {
		t.Errorf("%+v", r)
	}
}

func TestItEndsAndGoesOn(t *testing.T) {
	c := newCache(t)
	var was []*bincache.NarInfo
	for i := range 4 {
		was = append(was, add(t, c, storePath(i), fast, contents(i)))
	}
	if r := run(t, c, func(o *Options) { o.Budget = time.Nanosecond }); r.Left != 4 || r.Recompressed != 0 {
		t.Errorf("without time: %+v, want all left", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(Options{Cache: c, Method: small, Workers: 1}).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was canceled", err)
	}
	for _, n := range was {
		isWhole(t, c, n)
	}
	if r := run(t, c, nil); r.Recompressed != 4 {
		t.Errorf("%+v, want all", r)
	}
	for _, n := range was {
		isWhole(t, c, n)
	}
}

func TestLargeNarIsPackedByAll(t *testing.T) {
	c := newCache(t)
	line := contents(1)
	large := bytes.Repeat(line, (20<<20)/len(line))
	was := []*bincache.NarInfo{add(t, c, storePath(0), fast, large), add(t, c, storePath(1), fast, contents(2))}
	for _, m := range []compress.Method{{Name: "zstd", Level: 3}, {Name: "xz", Level: 0}} {
		run(t, c, func(o *Options) { o.Method = m })
		for _, n := range was {
			isWhole(t, c, n)
		}
	}
}

func TestRecompressingLeavesTheReserveFree(t *testing.T) {
	c := newCache(t)
	var was []*bincache.NarInfo
	for i := range 3 {
		was = append(was, add(t, c, storePath(i), fast, contents(i)))
	}
	before := times(t, filepath.Join(c.Path(), "nar"))
	c.Reserve(1 << 60)
	if r, err := New(Options{Cache: c, Method: small, Grace: time.Hour, Workers: 2}).Run(t.Context()); !errors.Is(err, bincache.ErrNoRoom) || r.Recompressed > 0 {
		t.Errorf("%+v, %v, want that there is no room", r, err)
	}
	if diff := cmp.Diff(before, times(t, filepath.Join(c.Path(), "nar"))); diff != "" {
		t.Errorf("NARs changed (-before +after):\n%s", diff)
	}
	if names, err := filepath.Glob(filepath.Join(c.Path(), ".larder", "tmp", "*-*")); len(names) != 0 || err != nil {
		t.Errorf("unfinished: %q, %v", names, err)
	}
	c.Reserve(1)
	if r := run(t, c, nil); r.Recompressed != 3 {
		t.Errorf("with room: %+v", r)
	}
	for _, n := range was {
		isWhole(t, c, n)
	}
}

func TestWhatIsGoneIsForgotten(t *testing.T) {
	c := newCache(t)
	var gone []string
	for i := range 2000 {
		gone = append(gone, fmt.Sprintf("nar/%d.nar.zst", i))
	}
	must(t, c.KeepNars(t.Context(), gone, small.String()))
	add(t, c, storePath(0), fast, contents(0))
	run(t, c, nil)
	if tried, err := c.Tried(); err != nil || len(tried) != 1 {
		t.Errorf("%d are remembered, %v", len(tried), err)
	}
}
