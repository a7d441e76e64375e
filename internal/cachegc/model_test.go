package cachegc

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

var (
	sequences = flag.Int("sequences", manySequences, "how many random sequences TestModel makes")
	firstSeed = flag.Uint64("seed", 0, "the first of TestModel's sequences")
)

// TestModel does at random what happens to a cache in its years, and looks after each
// step whether it is whole, and has what the policy keeps.
func TestModel(t *testing.T) {
	t.Parallel()
	count := *sequences
	if testing.Short() {
		count = 500
	}
	const workers = 8
	for worker := range workers {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			dir := memoryDir(t)
			for i := worker; i < count && !t.Failed(); i += workers {
				seed := *firstSeed + uint64(i)
				m := newModel(t, filepath.Join(dir, fmt.Sprint(seed)), seed)
				m.run()
				m.close()
			}
		})
	}
}

// memoryDir returns a directory that costs no disk, where there is one.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "larder-model-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const (
	storeDir  = "/nix/store"
	modelSize = 7 // paths in the store
)

// A model is a cache, and what is known of it.
type model struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	cache  *bincache.Cache
	dir    string
	log    []string // what was done
	now    time.Time

	refs    [modelSize][]int  // of the paths that can be added: each refers to some before it
	lastUse map[int]time.Time // of what a record has told of since it came
	runs    [][]int           // what recorded runs have used, oldest first
	newest  time.Time
	pins    map[string][][]int // histories
	lost    bool               // the provider has lost narinfos
	spoiled bool               // or NARs
}

func newModel(t *testing.T, dir string, seed uint64) *model {
	cache, err := bincache.Create(dir, storeDir, bincache.Options{})
	must(t, err)
	m := &model{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 1)), cache: cache, dir: dir,
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), lastUse: make(map[int]time.Time), pins: make(map[string][][]int),
	}
	for i := range m.refs {
		for range m.random.IntN(3) {
			if i > 0 {
				m.refs[i] = append(m.refs[i], m.random.IntN(i))
			}
		}
		slices.Sort(m.refs[i])
		m.refs[i] = slices.Compact(m.refs[i])
	}
	return m
}

func (m *model) close() {
	must(m.t, m.cache.Close())
	must(m.t, os.RemoveAll(m.dir))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("seed %d: %s\nafter:\n  %s\nreferences: %v", m.seed, fmt.Sprintf(format, args...), strings.Join(m.log, "\n  "), m.refs)
}

func (m *model) say(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) run() {
	for range 4 + m.random.IntN(8) {
		m.now = m.now.Add(time.Duration(m.random.IntN(40)) * time.Hour)
		switch m.random.IntN(10) {
		case 0, 1, 2:
			i := m.random.IntN(modelSize)
			m.say("add %d", i)
			for range m.writer(i) {
			}
		case 3, 4:
			m.use()
		case 5:
			m.pin()
		case 6:
			m.restore()
		default:
			m.collect()
		}
		if m.t.Failed() {
			return
		}
		m.checkWhole("at the end")
	}
}

func (m *model) path(i int) string { return fmt.Sprintf("%s/%032d-item", storeDir, i) }

// narInfo returns an entry's narinfo, and its NAR: some entries have the same.
func (m *model) narInfo(i int) (*bincache.NarInfo, string) {
	text := strings.Repeat(fmt.Sprint(i/2), 1000*(1+i/2))
	hash := sum(text)
	n := &bincache.NarInfo{
		StorePath: m.path(i), URL: bincache.NarName(hash, "none"), Compression: "none",
		FileHash: hash, FileSize: int64(len(text)), NarHash: hash, NarSize: int64(len(text)),
	}
	for _, ref := range m.refs[i] {
		n.References = append(n.References, path.Base(m.path(ref)))
	}
	return n, text
}

func (m *model) closure(of ...int) []int {
	in := make(map[int]bool)
	for todo := slices.Clone(of); len(todo) > 0; {
		i := todo[0]
		todo = todo[1:]
		if !in[i] {
			in[i] = true
			todo = append(todo, m.refs[i]...)
		}
	}
	return slices.Sorted(maps.Keys(in))
}

// has tells whether clients can use an entry.
func (m *model) has(i int) bool {
	_, err := m.cache.Entry(m.path(i))
	return err == nil
}

// named tells whether there is an entry, with its NAR or, since the provider has lost
// that, without.
func (m *model) named(i int) bool {
	return m.cache.Has(path.Base(m.path(i))[:32] + ".narinfo")
}

// writer adds the closure of a path, as cachewriter does. It yields between all that it
// does.
func (m *model) writer(i int) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for again := false; ; again = true {
			before, _, err := m.cache.Removals()
			must(m.t, err)
			for _, i := range m.closure(i) { // references first
				if !yield(struct{}{}) {
					return
				}
				if m.has(i) {
					continue
				}
				n, text := m.narInfo(i)
				temp, err := m.cache.TempText([]byte(text))
				must(m.t, err)
				if !yield(struct{}{}) {
					temp.Discard()
					return
				}
				must(m.t, m.cache.PublishNar(temp, n.URL))
				if !yield(struct{}{}) {
					return
				}
				temp, err = m.cache.TempNarInfo(n)
				must(m.t, err)
				if err := temp.Publish(n.StorePath[len(storeDir)+1:][:32] + ".narinfo"); err != nil {
					if !errors.Is(err, fs.ErrExist) {
						must(m.t, err)
					}
					if !m.has(i) { // damaged: as PublishNarInfo, which takes the lock
						must(m.t, temp.Replace(n.StorePath[len(storeDir)+1:][:32]+".narinfo"))
					} else {
						temp.Discard()
					}
				} else {
					delete(m.lastUse, i)
				}
			}
			if !yield(struct{}{}) {
				return
			}
			after, removing, err := m.cache.Removals()
			must(m.t, err)
			if before == after && (again || !removing) {
				return
			}
		}
	}
}

// use records a run.
func (m *model) use() {
	if !m.now.After(m.newest) {
		m.now = m.newest.Add(time.Second) // which of two runs was the last one, their records must tell
	}
	run := bincache.Run{Ended: m.now}
	var used []int
	for i := range modelSize {
		if m.random.IntN(3) == 0 && m.has(i) {
			used = append(used, i)
			run.Added = append(run.Added, bincache.RunEntry{Path: m.path(i)})
		}
	}
	if len(used) == 0 {
		return
	}
	m.say("use %v at %s", used, m.now.Format(time.DateTime))
	_, err := m.cache.RecordRun(run, 0)
	must(m.t, err)
	for _, i := range m.closure(used...) {
		m.lastUse[i] = m.now
	}
	m.runs = append(m.runs, used)
	m.newest = m.now
}

func (m *model) pin() {
	name := string(rune('a' + m.random.IntN(2)))
	if m.random.IntN(3) == 0 {
		m.say("unpin %s", name)
		if err := m.cache.Unpin(context.Background(), name); err != nil && !errors.Is(err, bincache.ErrNoPin) {
			must(m.t, err)
		}
		delete(m.pins, name)
		return
	}
	i, keep := m.random.IntN(modelSize), 1+m.random.IntN(3)
	if !m.has(i) {
		return
	}
	m.say("pin %s %d, keep %d", name, i, keep)
	must(m.t, m.cache.Pin(context.Background(), name, m.now, keep, m.path(i)))
	h := m.pins[name]
	if len(h) == 0 || !slices.Equal(h[len(h)-1], []int{i}) {
		h = append(h, []int{i})
	}
	m.pins[name] = h[max(0, len(h)-keep):]
}

// restore does what providers do: all files have new times, and some may be gone.
func (m *model) restore() {
	lose := m.random.IntN(4) == 0
	narsOnly := m.random.IntN(2) == 0
	m.say("restore, lose some: %t, NARs only: %t", lose, narsOnly)
	must(m.t, filepath.WalkDir(m.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		isEntry := strings.HasSuffix(name, ".narinfo") || filepath.Base(filepath.Dir(name)) == "nar"
		isNarInfo := strings.HasSuffix(name, ".narinfo")
		if lose && d.Type().IsRegular() && isEntry && !(isNarInfo && narsOnly) && m.random.IntN(6) == 0 {
			m.lost = m.lost || isNarInfo
			m.spoiled = m.spoiled || !isNarInfo
			return os.Remove(name)
		}
		at := time.Unix(m.random.Int64N(1<<31), 0)
		if d.IsDir() || filepath.Base(name) == "nix-cache-info" {
			return nil
		}
		return os.Chtimes(name, at, at)
	}))
}

var errCrash = errors.New("crash")

// collect collects, with a writer at work in some cases, and a crash in others.
func (m *model) collect() {
	o := Options{Now: m.now}
	switch m.random.IntN(3) {
	case 0:
		o.Policy.MaxAge = time.Duration(1+m.random.IntN(100)) * time.Hour
	case 1:
		o.Policy.MaxSize = int64(m.random.IntN(12_000))
	}
	if m.random.IntN(3) == 0 {
		o.Policy.KeepLast = m.random.IntN(3)
	}
	o.Grace = time.Duration(m.random.IntN(2)*m.random.IntN(50)) * time.Hour
	crash := -1
	if m.random.IntN(3) == 0 {
		crash = m.random.IntN(20)
	}
	write, stop := func() (struct{}, bool) { return struct{}{}, false }, func() {}
	writing := -1
	if m.random.IntN(2) == 0 {
		writing = m.random.IntN(modelSize)
		write, stop = iter.Pull(m.writer(writing))
		for range m.random.IntN(10) {
			write()
		}
	}
	m.say("collect %+v, grace %v, at %s, writer adds %d, crash at %d", o.Policy, o.Grace, m.now.Format(time.DateTime), writing, crash)
	before := m.state()
	o.step = func() error {
		if crash--; crash == -1 {
			return errCrash
		}
		for range m.random.IntN(8) {
			write()
		}
		if writing < 0 {
			m.checkWhole("in the middle")
		}
		return nil
	}
	result, err := Collect(context.Background(), m.cache, o)
	if err != nil && !errors.Is(err, errCrash) {
		m.fail("collect: %v", err)
	}
	killed := writing >= 0 && m.random.IntN(3) == 0
	for more := !killed; more; {
		_, more = write()
	}
	stop()
	// As whoever opens the cache to write.
	must(m.t, Heal(context.Background(), m.cache))
	if killed {
		for range m.writer(writing) { // the job is still queued
		}
	}
	m.checkWhole("after that")
	if err == nil {
		m.checkKept(o.Policy, before, result)
	}
	// What no record told of counts as used by the newest run from now on, if there was one.
	for i := range modelSize {
		if _, dated := m.lastUse[i]; !m.named(i) {
			delete(m.lastUse, i)
		} else if !dated {
			m.lastUse[i] = m.newest // the zero time as long as nothing can be too old
		}
	}
}

func sum(text string) bincache.Hash { return sha256.Sum256([]byte(text)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
