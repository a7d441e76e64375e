package cachecheck

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// A repair must not take more away because of what may pass.
func TestNothingIsDoneWhileNobodyKnows(t *testing.T) {
	s := newSite(t)
	for what, fault := range map[string]func(r *trial){
		"the database is locked": func(r *trial) { r.findErr = errors.New("database is locked") },
		"the disk is full":       func(r *trial) { r.fault = func([]string) error { return errors.New("no space left on device") } },
	} {
		t.Run(what, func(t *testing.T) {
			r := s.trial(t)
			must(t, os.Remove(r.narFile(t, "base")))
			spoil(t, r.narFile(t, "left"))
			must(t, os.Remove(r.narInfoFile("right")))
			before := r.snapshot(t)
			fault(r)
			is(t, r, r.mend(t), "nar base left", "nar twin left", "contents left left", "reference top left")
			after := r.snapshot(t)
			for file, text := range before {
				if after[file] != text {
					t.Errorf("%s has changed", file)
				}
			}
			r.findErr, r.fault = nil, nil
			r.mend(t)
			r.isWell(t)
		})
	}
}

// What can't be copied for good is withdrawn, and nothing with it that can be.
func TestOneThatCantBeCopiedIsInNobodysWay(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, errors.Join(os.Remove(r.narFile(t, "source")), os.Remove(r.narFile(t, "top"))))
	r.fault = func(paths []string) error {
		if slices.Contains(paths, r.paths["top"]) {
			return fmt.Errorf("%w: the store is corrupt", ErrCannot)
		}
		return nil
	}
	is(t, r, r.mend(t), "nar source rewritten", "nar top withdrawn")
	r.isWell(t, "base", "left", "right", "source", "twin")
}

func TestOtherBuildIsNoReplacement(t *testing.T) {
	s := newSite(t)
	for name, want := range map[string][]string{
		"left":   {"nar left withdrawn", "reference top withdrawn"},
		"source": {"nar source rewritten"}, // there is only one with this path
	} {
		r := s.trial(t)
		must(t, os.Remove(r.narFile(t, name)))
		r.builds = map[string]bincache.Hash{r.paths[name]: {1}}
		is(t, r, r.mend(t), want...)
	}
	// What was built differently does not matter to who needs it.
	r := s.trial(t)
	must(t, os.Remove(r.narInfoFile("base")))
	r.builds = map[string]bincache.Hash{r.paths["left"]: {1}, r.paths["right"]: {2}}
	is(t, r, r.mend(t), "reference left rewritten", "reference right rewritten")
	r.isWell(t)
}

func TestSharedNarIsMendedForAllThatNameIt(t *testing.T) {
	s := newSite(t)
	for _, compression := range []string{"none", "zstd"} {
		for what, do := range map[string]func(r *trial){
			"nar":      func(r *trial) { must(t, os.Remove(r.narFile(t, "twin"))) },
			"contents": func(r *trial) { spoil(t, r.narFile(t, "twin")) },
		} {
			r := s.trial(t)
			do(r)
			r.compression = compression
			r.hide("twin")
			is(t, r, r.mend(t), what+" base rewritten", what+" twin rewritten")
			r.isWell(t)
		}
	}
}

func TestRewrittenEntryKeepsWhatOthersWrote(t *testing.T) {
	s := newSite(t)
	for what, do := range map[string]func(r *trial){
		"nar":      func(r *trial) { must(t, os.Remove(r.narFile(t, "left"))) },
		"contents": func(r *trial) { spoil(t, r.narFile(t, "left")) },
	} {
		for _, compression := range []string{"none", "zstd"} {
			r := s.trial(t)
			text, err := os.ReadFile(r.narInfoFile("left"))
			must(t, err)
			const others = "Sig: other-1:QUFB\nX-Foreign: yes\n"
			must(t, os.WriteFile(r.narInfoFile("left"), append(text, others...), 0o644))
			do(r)
			r.compression = compression
			is(t, r, r.mend(t), what+" left rewritten")
			r.isWell(t)
			text, err = os.ReadFile(r.narInfoFile("left"))
			if must(t, err); !strings.HasSuffix(string(text), others) || !strings.Contains(string(text), "\nCompression: "+compression+"\n") {
				t.Errorf("%s, %s: the narinfo is %s", what, compression, text)
			}
		}
	}
}

// Others may be faster: what is whole by now is neither rewritten nor withdrawn.
func TestWhatOthersHaveMendedStays(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, os.Remove(r.narFile(t, "base")))
	spoil(t, r.narFile(t, "left"))
	must(t, os.Remove(r.narInfoFile("right")))
	must(t, os.Truncate(r.narInfoFile("source"), 0))
	problems := r.check(t).Problems
	other := s.trial(t)
	for _, name := range []string{"base", "left"} {
		must(t, errors.Join(os.RemoveAll(r.narFile(t, name)), os.Link(other.narFile(t, name), r.narFile(t, name))))
	}
	must(t, os.Link(other.narInfoFile("right"), r.narInfoFile("right")))
	must(t, os.Remove(r.narInfoFile("source"))) // by a collector
	r.hide()
	is(t, r, r.mendAll(t, problems), "nar base settled", "nar twin settled", "contents left settled", "reference top settled", "narinfo source settled")
	r.isWell(t, "base", "left", "right", "top", "twin")
}

// What a writer adds between the check and the repair needs what is damaged.
func TestWhatCameMeanwhileGoesWithWhatItNeeds(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, os.Remove(r.narInfoFile("top")))
	must(t, os.Remove(r.narFile(t, "left")))
	problems := r.check(t).Problems
	must(t, os.Link(s.trial(t).narInfoFile("top"), r.narInfoFile("top")))
	r.hide()
	is(t, r, r.mendAll(t, problems), "nar left withdrawn", "reference top withdrawn")
	r.isWell(t, "base", "right", "source", "twin")
}

func TestCircleIsWithdrawnTogether(t *testing.T) {
	s := newSite(t)
	for _, first := range []string{"left", "right"} {
		r := s.trial(t)
		ref := " " + filepath.Base(r.paths["top"]) // top needs both, and now one of them top
		r.edit(t, first, "References", func(refs string) string { return refs + ref })
		must(t, os.Truncate(r.narInfoFile("base"), 0))
		r.hide()
		is(t, r, r.mend(t), "narinfo base withdrawn", "reference left withdrawn", "reference right withdrawn", "reference top withdrawn")
		r.isWell(t, "source", "twin")
	}
}

func TestRecordsAndPins(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	ended := time.Now().Truncate(time.Second)
	_, err := r.cache.RecordRun(bincache.Run{Ended: ended, Used: []string{r.paths["top"]}}, 0)
	must(t, err)
	must(t, r.cache.Pin(t.Context(), "whole", ended, 1, r.paths["source"]))
	must(t, r.cache.Pin(t.Context(), "lost", ended, 1, r.paths["top"]))
	must(t, r.cache.Pin(t.Context(), "strange", ended, 1, s.nix.Dir+"/00000000000000000000000000000000-gone"))
	must(t, r.cache.Pin(t.Context(), "cut", ended, 1, r.paths["top"]))
	must(t, os.Truncate(filepath.Join(r.dir, ".larder/pins/cut"), 20))
	for name, text := range map[string]string{"20200101T000000Z-cut": "larder-run 1\nended 2020", "20200102T000000Z-newer": "larder-run 99\n"} {
		must(t, os.WriteFile(filepath.Join(r.dir, ".larder/runs", name), []byte(text), 0o644))
	}
	must(t, os.Remove(r.narInfoFile("top")))

	repairs := r.mend(t)
	strange := "pin .larder/pins/strange left"
	is(t, r, repairs, "record .larder/runs/20200101T000000Z-cut removed", "record .larder/runs/20200102T000000Z-newer left",
		"pin .larder/pins/cut left", "pin top rewritten", strange)
	must(t, os.Remove(filepath.Join(r.dir, ".larder/runs/20200102T000000Z-newer")))
	must(t, errors.Join(r.cache.Unpin(t.Context(), "strange"), r.cache.Unpin(t.Context(), "cut")))
	r.isWell(t)

	// What goes although a pin keeps it, is told of that pin.
	must(t, os.Remove(r.narFile(t, "left")))
	r.hide()
	is(t, r, r.mend(t), "nar left withdrawn", "reference top withdrawn", "pin top left")
}

// Who can't read these collects nothing, and says that verify mends it.
func TestWhatTheCacheRemembersIsLookedAt(t *testing.T) {
	r := newSite(t).trial(t)
	retired := filepath.Join(r.dir, ".larder/retired")
	for _, name := range []string{"retired", "recompressed", "settings"} {
		must(t, os.WriteFile(filepath.Join(r.dir, ".larder", name), make([]byte, 100), 0o644))
	}
	is(t, r, r.mend(t), "state .larder/recompressed removed", "state .larder/retired removed", "state .larder/settings left")
	must(t, os.Remove(filepath.Join(r.dir, ".larder/settings")))
	r.isWell(t)
	must(t, os.WriteFile(retired, []byte("larder-retired 99\n"), 0o644))
	is(t, r, r.mend(t), "state .larder/retired left")
}

func TestSignaturesAreChecked(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	r.checker.Keys = append(r.checker.Keys, testKey(t))
	is(t, r, r.mend(t), "signature base left", "signature left left", "signature right left", "signature top left", "signature twin left") // source needs none
}

func TestCheckAndRepairEndWithTheContext(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, os.Remove(r.narFile(t, "left")))
	problems := r.check(t).Problems
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.checker.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("check: %v", err)
	}
	before := r.snapshot(t)
	r.mender.Cache = r.cache
	if _, err := r.mender.Mend(ctx, problems); !errors.Is(err, context.Canceled) {
		t.Errorf("mend: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	r.fault = func([]string) error { cancel(); return ctx.Err() }
	if _, err := r.mender.Mend(ctx, problems); !errors.Is(err, context.Canceled) {
		t.Errorf("mend: %v", err)
	}
	if len(r.snapshot(t)) != len(before) {
		t.Error("something is gone")
	}
}

// An entry that is damaged and left must not bring back what it needs.
func TestWhatIsLeftBringsNothingBack(t *testing.T) {
	s := newSite(t)
	r := s.trial(t)
	must(t, os.Truncate(r.narInfoFile("base"), 0))
	must(t, os.Remove(r.narFile(t, "top")))
	r.hide("base")
	r.fault = func([]string) error { return errors.New("no space left on device") }
	is(t, r, r.mend(t), "narinfo base withdrawn", "reference left withdrawn", "reference right withdrawn", "nar top left")
	is(t, r, r.check(t).Problems, "nar top")
	r.fault, r.hidden = nil, nil
	r.mend(t)
	r.isWell(t)
}
