package cachecheck

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// damages are what may happen to an entry, the kind of problem that it is, and whether it
// takes contents to see it. base is of the same contents as twin.
var damages = []struct {
	what     string
	do       func(t *testing.T, r *trial)
	of       []string // problems
	contents bool
	gone     []string // what is left without a store
}{
	{"NAR is missing", func(t *testing.T, r *trial) { must(t, os.Remove(r.narFile(t, "left"))) },
		[]string{"nar left"}, false, []string{"base", "right", "source", "twin"}},
	{"NAR is cut off", func(t *testing.T, r *trial) { must(t, os.Truncate(r.narFile(t, "left"), 20)) },
		[]string{"nar left"}, false, []string{"base", "right", "source", "twin"}},
	{"NAR is empty", func(t *testing.T, r *trial) { must(t, os.Truncate(r.narFile(t, "left"), 0)) },
		[]string{"nar left"}, false, []string{"base", "right", "source", "twin"}},
	{"NAR is a link out of the cache", func(t *testing.T, r *trial) {
		must(t, errors.Join(os.Remove(r.narFile(t, "left")), os.Symlink("/etc/hostname", r.narFile(t, "left"))))
	}, []string{"nar left"}, false, []string{"base", "right", "source", "twin"}},
	{"narinfo is empty", func(t *testing.T, r *trial) { must(t, os.Truncate(r.narInfoFile("left"), 0)) },
		[]string{"narinfo left"}, false, []string{"base", "right", "source", "twin"}},
	{"narinfo is cut off", func(t *testing.T, r *trial) { must(t, os.Truncate(r.narInfoFile("left"), 100)) },
		[]string{"narinfo left"}, false, []string{"base", "right", "source", "twin"}},
	{"narinfo is another's", func(t *testing.T, r *trial) {
		text, err := os.ReadFile(r.narInfoFile("right"))
		must(t, errors.Join(err, os.WriteFile(r.narInfoFile("left"), text, 0o644)))
	}, []string{"narinfo left"}, false, []string{"base", "right", "source", "twin"}},
	{"both are gone, but for the narinfo's name", func(t *testing.T, r *trial) {
		must(t, errors.Join(os.Truncate(r.narInfoFile("left"), 0), os.Remove(r.narFile(t, "left"))))
	}, []string{"narinfo left"}, false, []string{"base", "right", "source", "twin"}},
	{"narinfo is missing", func(t *testing.T, r *trial) { must(t, os.Remove(r.narInfoFile("base"))) },
		[]string{"reference left", "reference right"}, false, []string{"source", "twin"}},
	{"bit of a NAR is flipped", func(t *testing.T, r *trial) { spoil(t, r.narFile(t, "left")) },
		[]string{"contents left"}, true, []string{"base", "right", "source", "twin"}},
	{"bit of a shared NAR is flipped", func(t *testing.T, r *trial) { spoil(t, r.narFile(t, "base")) },
		[]string{"contents base", "contents twin"}, true, []string{"source"}},
	{"NARs are swapped", func(t *testing.T, r *trial) {
		left, right, aside := r.narFile(t, "left"), r.narFile(t, "right"), filepath.Join(r.dir, "aside")
		must(t, errors.Join(os.Rename(left, aside), os.Rename(right, left), os.Rename(aside, right)))
	}, []string{"contents left", "contents right"}, true, []string{"base", "source", "twin"}},
	{"narinfo names another's NAR", func(t *testing.T, r *trial) {
		r.edit(t, "left", "URL", func(string) string { return "nar/" + filepath.Base(r.narFile(t, "right")) })
	}, []string{"contents left"}, true, []string{"base", "right", "source", "twin"}},
	{"bit of NarHash is flipped", func(t *testing.T, r *trial) { r.edit(t, "left", "NarHash", flip) },
		[]string{"contents left"}, true, []string{"base", "right", "source", "twin"}},
	{"bit of FileHash is flipped", func(t *testing.T, r *trial) { r.edit(t, "left", "FileHash", flip) },
		[]string{"contents left"}, true, []string{"base", "right", "source", "twin"}},
	{"bit of FileHash is flipped, of a shared NAR", func(t *testing.T, r *trial) { r.edit(t, "twin", "FileHash", flip) },
		[]string{"contents twin"}, true, []string{"base", "left", "right", "source", "top"}},
	{"FileSize is another, of a shared NAR", func(t *testing.T, r *trial) { r.edit(t, "twin", "FileSize", flip) },
		[]string{"nar twin"}, false, []string{"base", "left", "right", "source", "top"}},
	{"NarHash of a source is another", func(t *testing.T, r *trial) { r.edit(t, "source", "NarHash", flip) },
		[]string{"contents source"}, true, []string{"base", "left", "right", "top", "twin"}},
	{"bit of a reference is flipped", func(t *testing.T, r *trial) {
		r.edit(t, "left", "References", func(ref string) string { return ref + "x" })
	},
		[]string{"reference left"}, false, []string{"base", "right", "source", "twin"}},
	{"bit of StorePath is flipped", func(t *testing.T, r *trial) { r.edit(t, "left", "StorePath", func(p string) string { return p + "x" }) },
		[]string{"reference top"}, false, []string{"base", "leftx", "right", "source", "twin"}},
}

// spoil flips a bit of a file, and nothing else that can be seen.
func spoil(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 104) // in the file that the NAR has
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, 104)
	must(t, err)
}

func TestDamageIsFound(t *testing.T) {
	s := newSite(t)
	s.trial(t).isWell(t)
	for _, d := range damages {
		t.Run(d.what, func(t *testing.T) {
			r := s.trial(t)
			d.do(t, r)
			before := r.snapshot(t)
			is(t, r, r.check(t).Problems, d.of...)
			if d.contents {
				r.checker.Contents = false
				is(t, r, r.check(t).Problems)
			}
			for file, text := range r.snapshot(t) {
				if before[file] != text {
					t.Errorf("the check has changed %s", file)
				}
			}
		})
	}
}

func TestDamageIsMendedFromTheStore(t *testing.T) {
	s := newSite(t)
	for _, d := range damages {
		for _, compression := range []string{"none", "zstd"} { // under the same name, and another
			t.Run(d.what+"/"+compression, func(t *testing.T) {
				r := s.trial(t)
				r.compression = compression
				d.do(t, r)
				var want []string
				for _, p := range d.of {
					want = append(want, p+" rewritten")
				}
				is(t, r, r.mend(t), want...)
				r.isWell(t)
			})
		}
	}
}

func TestWhatCantBeMendedIsWithdrawnWithAllThatNeedsIt(t *testing.T) {
	s := newSite(t)
	for _, d := range damages {
		t.Run(d.what, func(t *testing.T) {
			r := s.trial(t)
			d.do(t, r)
			r.hide()
			for _, repair := range r.mend(t) {
				if repair.Action != Withdrawn {
					t.Errorf("want all withdrawn: %s", show([]Repair{repair}))
				}
			}
			r.isWell(t, d.gone...)
			// What is left of it must not be in the way of a build that comes later.
			must(t, r.Copy(t.Context(), []string{r.paths["top"], r.paths["twin"], r.paths["source"]}, nil))
			r.isWell(t)
		})
	}
}

func TestHalfOfTheNarsAreGone(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	for _, name := range []string{"base", "right", "source"} { // base has twin's
		must(t, os.Remove(r.narFile(t, name)))
	}
	r.hide("right")
	is(t, r, r.mend(t), "nar base rewritten", "nar twin rewritten", "nar source rewritten", "nar right withdrawn", "reference top withdrawn")
	r.isWell(t, "base", "left", "source", "twin")
}

func TestSampleReadsAShare(t *testing.T) {
	r := newSite(t).trial(t)
	spoil(t, r.narFile(t, "left"))
	spoil(t, r.narFile(t, "right"))
	r.checker.Share = func(url string) bool { return filepath.Base(url) == filepath.Base(r.narFile(t, "left")) }
	report := r.check(t)
	is(t, r, report.Problems, "contents left")
	if p := r.checker.Progress(); report.Entries != 6 || report.Nars != 1 || p.Done != 1 || p.Total != 1 || p.Read != report.Bytes || p.Bytes != p.Read {
		t.Errorf("report %+v, progress %+v", report, p)
	}
}

func TestCacheForAnotherStoreIsLeftAlone(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, os.WriteFile(filepath.Join(r.dir, "nix-cache-info"), []byte("StoreDir: /gnu/store\n"), 0o644))
	r.reopen(t)
	before := r.snapshot(t)
	r.hide()
	is(t, r, r.mend(t), "store nix-cache-info left")
	if len(r.snapshot(t)) != len(before) {
		t.Error("something is gone")
	}

	r = s.trial(t) // one entry only
	r.edit(t, "top", "StorePath", func(p string) string { return "/gnu/store/" + filepath.Base(p) })
	r.hide()
	is(t, r, r.mend(t), "store "+filepath.Base(r.narInfoFile("top"))+" left")
}

func TestWhatIsElsewhereIsNotMissing(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, os.Remove(r.narInfoFile("base")))
	r.checker.Upstream = true
	if report := r.check(t); len(report.Problems) > 0 || report.Left != 1 {
		t.Errorf("%+v", report)
	}
	r.checker.Upstream = false
	base := s.trial(t)
	r.checker.Bases, r.mender.Bases = []*bincache.Cache{base.cache}, []*bincache.Cache{base.cache}
	r.isWell(t, "left", "right", "source", "top", "twin")

	// Damaged here, and whole there: those who need it stay.
	must(t, os.WriteFile(r.narInfoFile("base"), nil, 0o644))
	r.edit(t, "right", "FileSize", flip)
	r.hide()
	is(t, r, r.mend(t), "narinfo base withdrawn", "nar right withdrawn")
	r.isWell(t, "left", "source", "top", "twin")

	// A base that is not mounted any more tells nothing.
	must(t, os.RemoveAll(base.dir))
	r.checker.Cache = r.cache
	if _, err := r.checker.Check(t.Context()); err == nil || !strings.Contains(err.Error(), base.dir) {
		t.Errorf("error is %v", err)
	}
}

func TestWhatMayBeElsewhereIsLeft(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, os.Remove(r.narInfoFile("base")))
	r.hide()
	r.mender.Closed = false
	before := r.snapshot(t)
	is(t, r, r.mend(t), "reference left left", "reference right left")
	if len(r.snapshot(t)) != len(before) {
		t.Error("something is gone")
	}
	r.hidden = nil // but it can be had
	is(t, r, r.mend(t), "reference left rewritten", "reference right rewritten")
	r.isWell(t)
}

// A Nix makes the directories that it knows. That others want one more is no fault.
func TestLostDirectoriesAreNamed(t *testing.T) {
	r := newSite(t).trial(t)
	for _, test := range []struct{ gone, problems, notes string }{
		{"nar log", "log nar", ""},
		{"build-trace-v2", "", "build-trace-v2"},
		{"realisations", "", "realisations"},
		{"realisations build-trace-v2", "build-trace-v2 realisations", ""},
	} {
		for dir := range strings.FieldsSeq(test.gone) {
			must(t, os.Rename(filepath.Join(r.dir, dir), filepath.Join(r.dir, dir+".away")))
		}
		report := r.check(t)
		names := func(all []Problem) string {
			var files []string
			for _, p := range all {
				if p.Kind == Layout {
					files = append(files, p.File)
				}
			}
			return strings.Join(files, " ")
		}
		if got := names(report.Problems); got != test.problems {
			t.Errorf("without %s problems are %q, want %q", test.gone, got, test.problems)
		}
		if got := names(report.Notes); got != test.notes {
			t.Errorf("without %s notes are %q, want %q", test.gone, got, test.notes)
		}
		for dir := range strings.FieldsSeq(test.gone) {
			must(t, os.Rename(filepath.Join(r.dir, dir+".away"), filepath.Join(r.dir, dir)))
		}
	}
	// What is in its place is in the way.
	must(t, os.RemoveAll(filepath.Join(r.dir, "build-trace-v2")))
	must(t, os.WriteFile(filepath.Join(r.dir, "build-trace-v2"), nil, 0o644))
	if report := r.check(t); !slices.ContainsFunc(report.Problems, func(p Problem) bool { return p.Kind == Layout }) {
		t.Errorf("a file in place of a directory is none of the problems %+v", report.Problems)
	}
}
