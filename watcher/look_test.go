package watcher

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/queue"
)

func TestWhatWasThereBeforeIsNotQueued(t *testing.T) {
	r := newRig(t)
	r.addMany("before", 3)
	r.begin()
	after := r.add("after")
	r.look()
	r.want("jobs", after)
}

func TestQueueWithoutACursorBeginsAtTheFirstLook(t *testing.T) {
	r := newRig(t)
	r.add("before")
	if got := r.look(); got != (Result{}) {
		t.Errorf("result is %+v, want nothing", got)
	}
	after := r.add("after")
	r.look()
	r.want("jobs", after)
}

func TestEmptyStoreBeginsAtNothing(t *testing.T) {
	r := newRig(t)
	r.begin()
	if diff := cmp.Diff(&queue.Cursor{}, r.cursor()); diff != "" {
		t.Errorf("cursor (-want +got):\n%s", diff)
	}
	first := r.add("first")
	r.look()
	r.want("jobs", first)
}

// TestStoreThatComesLaterIsQueuedWhole is for a queue that is older than Nix.
func TestStoreThatComesLaterIsQueuedWhole(t *testing.T) {
	r := newRig(t)
	must(t, BeginEmpty(t.Context(), r.Queue))
	all := r.addMany("all", 3)
	r.begin() // it has begun
	r.look()
	r.want("jobs", all...)
}

func TestBeginningTwiceChangesNothing(t *testing.T) {
	r := newRig(t)
	r.add("before")
	r.begin()
	begun := r.cursor()
	if begun.Last != 1 || begun.Start != 1 || len(begun.Seen) != 1 {
		t.Errorf("cursor is %+v, want it behind one row", begun)
	}
	after := r.add("after")
	for _, again := range []func() error{
		func() error { return Begin(t.Context(), r.Queue, r.Store) },
		func() error { return BeginEmpty(t.Context(), r.Queue) },
	} {
		must(t, again())
		if diff := cmp.Diff(begun, r.cursor()); diff != "" {
			t.Errorf("cursor (-before +after):\n%s", diff)
		}
	}
	r.look()
	r.want("jobs", after)
}

// TestEvidenceIsOfTheOldestAndTheNewest has a store that is larger than what a queue
// remembers.
func TestEvidenceIsOfTheOldestAndTheNewest(t *testing.T) {
	r := newRig(t)
	r.addMany("before", 100)
	r.begin()
	var got []int64
	for _, s := range r.cursor().Seen {
		got = append(got, s.ID)
		if r.row(s.Path) != s.ID {
			t.Errorf("row of %s is %d, want %d", s.Path, r.row(s.Path), s.ID)
		}
	}
	var want []int64
	for id := int64(1); id <= 100; id++ {
		if id <= queue.Evidence/2 || id > 100-queue.Evidence/2 {
			want = append(want, id)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestEverythingThatEntersTheStoreBecomesAJob(t *testing.T) {
	r := newRig(t)
	// What comes from elsewhere has to have been here: the store has its own name.
	cache, archive := t.TempDir(), filepath.Join(t.TempDir(), "archive")
	copied := r.nix.Build(t, `build "copied" "echo copied > $out" { }`)[0]
	r.nix.Run(t, "nix", "copy", "--to", "file://"+cache, copied)
	imported := r.nix.Build(t, `build "imported" "echo imported > $out" { }`)[0]
	must(t, os.WriteFile(archive, []byte(r.nix.Run(t, "nix-store", "--export", imported)), 0o644))
	r.delete(copied, imported)
	r.begin()

	r.nix.Run(t, "nix", "copy", "--from", "file://"+cache, "--no-check-sigs", copied)
	cmd := r.nix.Command("nix-store", "--import")
	file, err := os.Open(archive)
	must(t, err)
	defer file.Close()
	cmd.Stdin = file
	must(t, cmd.Run())
	added := r.add("added")
	text := r.nix.AddTexts(t, "text", 1)
	built := r.nix.Build(t, `(build "built" "echo built > $out; echo doc > $doc" { outputs = [ "out" "doc" ]; }).all`)
	slices.SortFunc(built, func(a, b string) int { return int(r.row(a) - r.row(b)) })

	want := append([]string{copied, imported, added, text}, built...)
	got := r.look()
	drvs := got.Registered - len(want)
	if drvs != 1 || got.Wanted != len(want) || got.Queued != len(want) {
		t.Errorf("result is %+v, want %d, and a derivation that is not wanted", got, len(want))
	}
	var size int64
	var names []string
	for _, path := range want {
		info, err := r.Store.Info(t.Context(), path)
		must(t, err)
		size += info.NarSize
		names = append(names, filepath.Base(path))
	}
	if got.NarBytes != size {
		t.Errorf("result is %+v, want %d bytes", got, size)
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, r.roots()); diff != "" {
		t.Errorf("roots (-want +got):\n%s", diff)
	}
	r.want("jobs", want...)
}

func TestLookTakesWhatTheRulesWantAndTheCacheHasNot(t *testing.T) {
	r := newRig(t)
	r.Rules.MaxSourceSize = 1000
	r.begin()
	r.nix.Add(t, "large", strings.Repeat("x", 1000))
	small, present, last := r.add("small"), r.add("present"), r.add("last")
	r.setPresent(true, present)
	got := r.look()
	got.NarBytes = 0
	if want := (Result{Registered: 4, Wanted: 3, Queued: 2}); got != want {
		t.Errorf("result is %+v, want %+v", got, want)
	}
	r.want("jobs", small, last)
	if roots := r.roots(); len(roots) > 0 {
		t.Errorf("roots are left: %q", roots)
	}
}

func TestSecondLookFindsNothing(t *testing.T) {
	r := newRig(t)
	r.begin()
	a, b := r.add("a"), r.add("b")
	r.look()
	r.want("jobs", a, b)
	r.setPresent(false, a, b) // done is done, whatever the cache says
	if got := r.look(); got != (Result{}) {
		t.Errorf("result is %+v, want nothing", got)
	}
	c := r.add("c")
	r.look()
	r.want("jobs", c)
	if n := strings.Count(r.log.String(), "comparing store and cache"); n != 1 {
		t.Errorf("compared %d times, want once, at the first look", n)
	}
}

// TestLongLookGoesOnBatchByBatch has more registrations than are looked at together.
func TestLongLookGoesOnBatchByBatch(t *testing.T) {
	r := newRig(t)
	r.begin()
	all := r.registerMany("some", 2*batch+1)
	got := r.look()
	if got.Registered != len(all) || got.Queued != len(all) {
		t.Errorf("result is %+v, want %d", got, len(all))
	}
	var jobs []string
	for row, err := range r.Queue.Rows(t.Context()) {
		must(t, err)
		jobs = append(jobs, row.Path)
	}
	if diff := cmp.Diff(all, jobs); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	if n := len(r.roots()); n != len(all) {
		t.Errorf("%d roots, want %d", n, len(all))
	}
	if c := r.cursor(); c.Last != int64(len(all)) || len(c.Seen) != queue.Evidence {
		t.Errorf("cursor at %d, with %d remembered", c.Last, len(c.Seen))
	}
}

func TestPathThatIsRegisteredAnewIsQueuedAnew(t *testing.T) {
	r := newRig(t)
	r.begin()
	other, path := r.add("other"), r.add("path")
	r.look()
	r.want("jobs", other, path)
	r.delete(path)
	r.setPresent(false, path) // and somebody has taken it out of the cache
	r.look()
	if again := r.add("path"); again != path {
		t.Fatalf("it is %s now, want %s", again, path)
	}
	r.look()
	r.want("jobs", path)
}

// TestLookThatIsCutShortGoesOnWhereItWas ends looks in the middle.
func TestLookThatIsCutShortGoesOnWhereItWas(t *testing.T) {
	r := newRig(t)
	r.begin()
	r.look()
	all := r.addMany("some", 5)
	ctx, cancel := context.WithCancel(t.Context())
	c := r.Config
	c.Present = func(_ context.Context, paths []string) []bool { cancel(); return absent(ctx, paths) }
	// Links are made by a process, which ends with the context.
	c.Roots = gcroot.Join(gcroot.Open(r.nix.State, "none"), gcroot.OpenLinks(filepath.Join(t.TempDir(), "links")))
	if _, err := Look(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled Look: %v, want context.Canceled", err)
	}
	if counts, err := r.Queue.Counts(t.Context()); counts.Left() != 0 || err != nil {
		t.Errorf("%d jobs, %v; want none", counts.Left(), err)
	}
	r.look()
	r.want("jobs", all...)
	if strings.Contains(r.log.String(), "not kept") {
		t.Error("a canceled look warned of the collector")
	}
}

// TestPathsWithoutRootsAreQueuedAllTheSame has roots that nobody can make.
func TestPathsWithoutRootsAreQueuedAllTheSame(t *testing.T) {
	nix := nixtest.New(t)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	must(t, os.MkdirAll(filepath.Join(nix.State, "gcroots", "larder"), 0o755))
	must(t, os.WriteFile(filepath.Join(nix.State, "gcroots", "larder", "file"), nil, 0o644))
	links := gcroot.OpenLinks(filepath.Join(file, "links"))
	for name, dir := range map[string]string{"no-directory": "none", "no-files": "file"} {
		t.Run(name, func(t *testing.T) {
			r := newRigWith(t, nix)
			r.begin()
			all := r.addMany(name, 2)
			good := r.Roots
			r.Roots = gcroot.Join(gcroot.Open(nix.State, dir), links)
			r.look()
			if n := strings.Count(r.log.String(), "not kept from the garbage collector"); n != 1 {
				t.Errorf("%d warnings, want one", n)
			}
			// Whoever does the jobs has nothing to remove.
			r.Roots = good
			for _, path := range all {
				if !r.hasJob(path) {
					t.Errorf("%s has no job", path)
				}
			}
		})
	}
}

// TestTroubleOfTheStoreIsSaid has a database that can't be read.
func TestTroubleOfTheStoreIsSaid(t *testing.T) {
	r := newRig(t)
	r.begin()
	r.look()
	r.reopen()
	must(t, os.WriteFile(filepath.Join(r.nix.State, "db", "schema"), []byte("11"), 0o644))
	before := r.cursor()
	if _, err := Look(t.Context(), r.Config); !errors.Is(err, nixstore.ErrUnavailable) {
		t.Errorf("Look: %v, want ErrUnavailable", err)
	}
	if _, err := Sync(t.Context(), r.Config); !errors.Is(err, nixstore.ErrUnavailable) {
		t.Errorf("Sync: %v, want ErrUnavailable", err)
	}
	if diff := cmp.Diff(before, r.cursor()); diff != "" {
		t.Errorf("cursor (-before +after):\n%s", diff)
	}
}
