package cachewriter

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/trouble"
)

// A family is
//
//	top ──▶ left ──▶ base
//	   └──▶ right ─────┘
//
// and sibling, to which nothing refers, and which refers to right.
type family struct{ base, left, right, top, sibling string }

func (f *fixture) family(t *testing.T) (m family) {
	t.Helper()
	for _, path := range f.nix.Build(t, `let
		base = build "base" "echo base > $out" { };
		left = build "left" "echo $base > $out" { inherit base; };
		right = build "right" "echo $base > $out" { inherit base; };
		in [
			base left right
			(build "top" "echo $left $right > $out" { inherit left right; })
			(build "sibling" "echo $right > $out" { inherit right; })
		]`) {
		switch name := nixstore.Name(path); name {
		case "base":
			m.base = path
		case "left":
			m.left = path
		case "right":
			m.right = path
		case "top":
			m.top = path
		case "sibling":
			m.sibling = path
		}
	}
	return m
}

var errElsewhere = errors.New("no answer")

// elsewhere is an Elsewhere that has some paths.
func elsewhere(paths ...string) func(context.Context, *nixstore.Info) (bool, error) {
	return func(_ context.Context, info *nixstore.Info) (bool, error) {
		return slices.Contains(paths, info.Path), nil
	}
}

// cut is a Cut of some paths.
func cut(paths ...string) func(*nixstore.Info) string {
	return func(info *nixstore.Info) string {
		if slices.Contains(paths, info.Path) {
			return "nobody wants it"
		}
		return ""
	}
}

// wantLeftOut reports an error that does not say that a path is left out.
func wantLeftOut(t *testing.T, err error, path string) {
	t.Helper()
	if !errors.Is(err, ErrLeftOut) || !strings.Contains(err.Error(), path+": nobody wants it") {
		t.Errorf("error is %v, want ErrLeftOut for %s", err, path)
	}
}

func TestWhatIsElsewhereCountsAsPresent(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	w := f.writer(t, Options{Elsewhere: elsewhere(m.base, m.right)})
	r, err := w.Copy(t.Context(), m.top)
	must(t, err)
	if r.Paths != 4 || r.Copied != 2 {
		t.Errorf("result is %+v, want 2 of 4 copied", r)
	}
	f.has(t, m.left, m.top)
	f.hasNot(t, m.base, m.right)
	if p := w.Progress(); p.Paths != 4 || p.Done != 4 {
		t.Errorf("progress is %+v, want all 4 done", p)
	}
	// What is known is not looked for again, and what is in the cache is not looked for
	// elsewhere.
	must(t, copyOnly(t, w, m.top, Result{}))
	f.copy(t, Options{Elsewhere: func(_ context.Context, info *nixstore.Info) (bool, error) {
		if info.Path == m.left || info.Path == m.top {
			t.Errorf("%s was looked for elsewhere", info.Path)
		}
		return true, nil
	}}, m.top)

	// When it is no longer elsewhere, it is copied.
	f.copy(t, Options{}, m.top)
	f.has(t, m.base, m.right)
	f.check(t)
}

// copyOnly copies a path, which must have a given result.
func copyOnly(t *testing.T, w *Writer, path string, want Result) error {
	t.Helper()
	got, err := w.Copy(t.Context(), path)
	if got != want {
		t.Errorf("result is %+v, want %+v", got, want)
	}
	return err
}

func TestForgottenPathIsLookedForElsewhereAgain(t *testing.T) {
	f := newFixture(t)
	base := f.family(t).base
	there := true
	w := f.writer(t, Options{Elsewhere: func(context.Context, *nixstore.Info) (bool, error) { return there, nil }})
	must(t, copyOnly(t, w, base, Result{Paths: 1}))
	there = false
	must(t, copyOnly(t, w, base, Result{}))
	w.Forget()
	_, err := w.Copy(t.Context(), base)
	must(t, err)
	f.has(t, base)
	f.check(t)
}

func TestSilenceOfElsewhereMakesTheCacheUnavailable(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	var answers atomic.Bool
	w := f.writer(t, Options{
		Elsewhere: func(_ context.Context, info *nixstore.Info) (bool, error) {
			if info.Path == m.right && !answers.Load() {
				return false, errElsewhere
			}
			return false, nil
		},
		Cut: cut(m.left), // which would be a reason, too
	})
	_, err := w.Copy(t.Context(), m.top)
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, errElsewhere) || errors.Is(err, ErrLeftOut) || !strings.Contains(err.Error(), m.right) {
		t.Errorf("error is %v, want ErrUnavailable for %s", err, m.right)
	}
	f.hasNot(t, m.right, m.top)
	answers.Store(true)
	_, err = w.Copy(t.Context(), m.sibling)
	must(t, err)
	f.has(t, m.base, m.right, m.sibling)
	f.check(t)
}

func TestCutKeepsOutAllThatRefersToIt(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	w := f.writer(t, Options{Cut: cut(m.left)})
	for range 2 {
		r, err := w.Copy(t.Context(), m.top, m.sibling)
		wantLeftOut(t, err, m.left)
		f.hasNot(t, m.left, m.top)
		f.has(t, m.base, m.right, m.sibling)
		f.check(t)
		if r.Copied > 3 {
			t.Errorf("result is %+v, want at most 3 copied", r)
		}
	}
	// It is nothing to those who do not need it.
	_, err := w.Copy(t.Context(), m.sibling)
	must(t, err)
	// What everything refers to leaves nothing.
	f = newFixtureAt(t, f.nix, t.TempDir()+"/cache")
	_, err = f.writer(t, Options{Cut: cut(m.base)}).Copy(t.Context(), m.top, m.sibling)
	wantLeftOut(t, err, m.base)
	f.hasNot(t, m.base, m.left, m.right, m.top, m.sibling)
	f.check(t)
}

// TestCutBelowWhatIsElsewhereIsNoMatter has an upstream whose paths are there for all,
// and refer to what is left out here.
func TestCutBelowWhatIsElsewhereIsNoMatter(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	w := f.writer(t, Options{Elsewhere: elsewhere(m.left, m.right), Cut: cut(m.base)})
	_, err := w.Copy(t.Context(), m.top, m.sibling)
	must(t, err)
	f.has(t, m.top, m.sibling)
	f.hasNot(t, m.base, m.left, m.right)
	_, err = w.Copy(t.Context(), m.top, m.base)
	wantLeftOut(t, err, m.base) // it was asked for
}

func TestWhatIsThereIsNotCut(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	f.copy(t, Options{}, m.left)
	f.copy(t, Options{Cut: cut(m.left, m.base)}, m.top)
	f.has(t, m.top)
	f.check(t)

	// Nor is what is elsewhere.
	f = newFixtureAt(t, f.nix, t.TempDir()+"/cache")
	f.copy(t, Options{Cut: cut(m.left, m.base), Elsewhere: elsewhere(m.left, m.base)}, m.top)
	f.has(t, m.right, m.top)
	f.hasNot(t, m.left, m.base)
}

// TestDamagedEntryIsCut has what would be replaced be unwanted now.
func TestDamagedEntryIsCut(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	f.copy(t, Options{}, m.left)
	release := f.stuck(t, m.left)
	release()
	_, err := f.writer(t, Options{Cut: cut(m.left)}).Copy(t.Context(), m.top)
	wantLeftOut(t, err, m.left)
	f.hasNot(t, m.top)
}

// TestOtherTroubleIsToldBeforeCuts has a path that is left out beside one that is
// corrupt.
func TestOtherTroubleIsToldBeforeCuts(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	corrupt(t, m.right, "something else")
	w := f.writer(t, Options{Cut: cut(m.left)})
	for _, paths := range [][]string{{m.top}, {m.left, m.sibling}, {m.sibling, m.left}} {
		_, err := w.Copy(t.Context(), paths...)
		if !errors.Is(err, ErrStoreCorrupt) || errors.Is(err, ErrLeftOut) || !strings.Contains(err.Error(), m.right) {
			t.Errorf("error is %v, want ErrStoreCorrupt for %s alone", err, m.right)
		}
	}
	_, err := w.Copy(t.Context(), m.left)
	wantLeftOut(t, err, m.left)
	f.hasNot(t, m.left, m.right, m.top, m.sibling)
	f.has(t, m.base)
}

// waiting returns how many calls of Copy wait for entries. The Writer's mutex is held.
func waiting(w *Writer) int {
	calls := make(map[*call]bool)
	for _, e := range w.open {
		for _, c := range e.calls {
			calls[c] = true
		}
	}
	return len(calls)
}

// TestConcurrentCallsAreCutAlike has two calls share what is left out and what is not.
func TestConcurrentCallsAreCutAlike(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	f.copy(t, Options{}, m.base)
	_, nar := f.entry(t, m.base)
	release := f.stuck(t, m.base)
	w := f.writer(t, Options{Cut: cut(m.left), Elsewhere: elsewhere(m.right)})
	first := copyAsync(t.Context(), w, m.top)
	second := copyAsync(t.Context(), w, m.top, m.sibling)
	trouble.Eventually(t, "the publisher is busy", func() bool { _, err := os.Stat(nar); return err == nil })
	trouble.Eventually(t, "both have come to the end", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.unlooked == 0 && waiting(w) == 2
	})
	release()
	wantLeftOut(t, within(t, "first Copy", first), m.left)
	wantLeftOut(t, within(t, "second Copy", second), m.left)
	f.has(t, m.base, m.sibling)
	f.hasNot(t, m.left, m.right, m.top)
	if n := len(w.room); n != 0 {
		t.Errorf("%d entries are left in the window", n)
	}
}
