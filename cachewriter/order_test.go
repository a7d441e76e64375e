package cachewriter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsnotify/fsnotify"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

// TestCacheIsWholeAtEveryMoment copies a few hundred paths while one goroutine
// looks again and again whether anything is wrong, and the kernel keeps the order
// in which files appeared.
func TestCacheIsWholeAtEveryMoment(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 300)
	watcher, err := fsnotify.NewBufferedWatcher(10_000)
	must(t, err)
	defer watcher.Close()
	must(t, watcher.Add(f.dir))
	must(t, watcher.Add(filepath.Join(f.dir, "nar")))

	ctx, cancel := context.WithCancel(t.Context())
	looked := make(chan int)
	go func() {
		rounds := 0
		for ; ctx.Err() == nil; rounds++ {
			for _, problem := range problems(f.dir, false) {
				t.Error(problem)
			}
		}
		looked <- rounds
	}()
	f.copy(t, Options{Workers: 4}, top)
	cancel()
	t.Logf("looked %d times", <-looked)
	f.check(t)

	appeared := make(map[string]bool)
	narInfos := 0
	for _, e := range events(t, watcher, f.dir) {
		name := strings.TrimPrefix(e.Name, f.dir+"/")
		if !e.Has(fsnotify.Create) || appeared[name] {
			continue
		}
		appeared[name] = true
		if !strings.HasSuffix(name, ".narinfo") {
			continue
		}
		narInfos++
		text, err := os.ReadFile(e.Name)
		must(t, err)
		n, err := bincache.ParseNarInfo(text)
		must(t, err)
		if !appeared[n.URL] {
			t.Errorf("%s came before its NAR", name)
		}
		for _, ref := range n.References {
			if !appeared[ref[:32]+".narinfo"] {
				t.Errorf("%s came before %s, to which it refers", name, ref)
			}
		}
	}
	if narInfos != 300 {
		t.Errorf("saw %d narinfos appear, want 300", narInfos)
	}
}

// events returns all that has happened until now in directories that are watched, of
// which dir is one.
func events(t *testing.T, w *fsnotify.Watcher, dir string) (all []fsnotify.Event) {
	t.Helper()
	last := filepath.Join(dir, ".last") // they come in their order
	must(t, os.WriteFile(last, nil, 0o644))
	defer os.Remove(last)
	for {
		select {
		case e := <-w.Events:
			if e.Name == last {
				return all
			}
			all = append(all, e)
		case err := <-w.Errors:
			t.Fatal(err) // some were lost
		}
	}
}

// stuck damages the entry of a path and takes the cache's lock, so that whoever
// replaces the entry waits until release is called. The path must be in the cache.
func (f *fixture) stuck(t *testing.T, path string) (release func()) {
	t.Helper()
	narInfo, nar := f.entry(t, path)
	must(t, os.Truncate(narInfo, 0))
	must(t, os.Remove(nar)) // when it is there again, the publisher has come to the narinfo
	lock, err := os.OpenFile(filepath.Join(f.dir, ".larder", "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	t.Cleanup(func() { lock.Close() })
	return func() { lock.Close() }
}

// TestLateReferrerIsNotForgotten has a path admitted while the publisher has what
// it refers to in hand.
func TestLateReferrerIsNotForgotten(t *testing.T) {
	for _, present := range []bool{false, true} {
		name := "missing"
		if present {
			name = "present"
		}
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			top := f.nix.AddTexts(t, "text", 2)
			base := f.nix.Lines(t, "nix-store", "-qR", top)[0]
			if f.copy(t, Options{}, base); present {
				f.copy(t, Options{}, top)
			}
			_, nar := f.entry(t, base)
			release := f.stuck(t, base)

			w := f.writer(t, Options{})
			first := copyAsync(t.Context(), w, base)
			trouble.Eventually(t, "the publisher is busy", func() bool { _, err := os.Stat(nar); return err == nil })
			second := copyAsync(t.Context(), w, top)
			trouble.Eventually(t, "both are in the window", func() bool { return len(w.room) == 2 })
			release()
			must(t, within(t, "first Copy", first))
			must(t, within(t, "second Copy", second))
			f.has(t, base, top)
			f.check(t)
		})
	}
}

// TestNothingCountsAsCompleteBeforeItsReferences damages an entry in the middle
// of a closure whose other entries are good.
func TestNothingCountsAsCompleteBeforeItsReferences(t *testing.T) {
	f := newFixture(t)
	closure := f.nix.Lines(t, "nix-store", "-qR", f.nix.AddTexts(t, "text", 9))
	top := closure[8]
	f.copy(t, Options{}, top)
	_, nar := f.entry(t, closure[4])
	release := f.stuck(t, closure[4])

	w := f.writer(t, Options{})
	done := copyAsync(t.Context(), w, top)
	trouble.Eventually(t, "the entry is being replaced", func() bool { _, err := os.Stat(nar); return err == nil })
	trouble.Eventually(t, "all others have been looked at", func() bool { return len(w.room) == 5 })
	if p := w.Progress(); p.Done != 4 || p.Paths != 9 {
		t.Errorf("progress is %+v, want 4 of 9", p)
	}
	select {
	case err := <-done:
		t.Fatalf("Copy returned %v with a broken closure", err)
	default:
	}
	release()
	must(t, within(t, "Copy", done))
	if p := w.Progress(); p.Done != 9 {
		t.Errorf("progress is %+v, want 9 done", p)
	}
	f.check(t)
}

// TestWindowIsBounded has the publisher stuck at the first path, on which all
// others wait.
func TestWindowIsBounded(t *testing.T) {
	const count = window + 100
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", count)
	base := f.nix.Lines(t, "nix-store", "-qR", top)[0]
	f.copy(t, Options{}, base)
	release := f.stuck(t, base)

	w := f.writer(t, Options{})
	done := copyAsync(t.Context(), w, top)
	trouble.Eventually(t, "the window is full and dumped", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		dumped := 0
		for _, e := range w.open {
			if e.dump != nil {
				dumped++
			}
		}
		return dumped == window
	})
	if n := len(unfinished(t, f.dir)); n > 2*window {
		t.Errorf("%d unfinished files, want at most %d", n, 2*window)
	}
	w.mu.Lock()
	if len(w.open) != window || len(w.todo) != 0 {
		t.Errorf("%d paths in the window and %d to do, want %d and none", len(w.open), len(w.todo), window)
	}
	w.mu.Unlock()
	release()
	must(t, within(t, "Copy", done))
	f.has(t, top)
	f.check(t)
}

func TestCloseDoesNotWaitForTheLock(t *testing.T) {
	f := newFixture(t)
	base := f.nix.Add(t, "base", "base")
	f.copy(t, Options{}, base)
	_, nar := f.entry(t, base)
	release := f.stuck(t, base)
	defer release()
	w := f.writer(t, Options{})
	done := copyAsync(t.Context(), w, base)
	trouble.Eventually(t, "the publisher waits for the lock", func() bool { _, err := os.Stat(nar); return err == nil })
	closed := make(chan struct{})
	go func() { w.Close(); close(closed) }()
	within(t, "Close", closed)
	if err := within(t, "Copy", done); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
	if left := unfinished(t, f.dir); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

func TestForgetMakesItLookAgain(t *testing.T) {
	f := newFixture(t)
	closure := f.nix.Lines(t, "nix-store", "-qR", f.nix.AddTexts(t, "text", 3))
	w := f.writer(t, Options{})
	copied := func() int {
		t.Helper()
		r, err := w.Copy(t.Context(), closure[2])
		must(t, err)
		return r.Copied
	}
	remove := func() {
		t.Helper()
		narInfo, nar := f.entry(t, closure[0])
		must(t, errors.Join(os.Remove(narInfo), os.Remove(nar)))
	}
	if n := copied(); n != 3 {
		t.Errorf("%d were copied, want 3", n)
	}
	remove()
	if n := copied(); n != 0 {
		t.Errorf("%d were copied, want none: it remembers", n)
	}
	w.Forget()
	if n := copied(); n != 1 {
		t.Errorf("%d were copied, want the one that was deleted", n)
	}
	f.check(t)

	// Not while a call relies on what it has found.
	release := f.stuck(t, closure[1])
	w = f.writer(t, Options{})
	done := copyAsync(t.Context(), w, closure[2])
	trouble.Eventually(t, "all have been looked at", func() bool { return len(w.room) == 2 })
	w.Forget()
	release()
	must(t, within(t, "Copy", done))
	if p := w.Progress(); p.Done != 3 {
		t.Errorf("progress is %+v, want 3 done", p)
	}
	f.check(t)
}

// TestCallsShareDumps has many copy overlapping closures at the same time, and
// counts the files that are made for it: two for each path.
func TestCallsShareDumps(t *testing.T) {
	const count = 200
	f := newFixture(t)
	closure := f.nix.Lines(t, "nix-store", "-qR", f.nix.AddTexts(t, "text", count))
	watcher, err := fsnotify.NewBufferedWatcher(10_000)
	must(t, err)
	defer watcher.Close()
	must(t, watcher.Add(filepath.Join(f.dir, ".larder", "tmp")))

	w := f.writer(t, Options{Workers: 4})
	var calls []<-chan error
	for i := range 16 {
		calls = append(calls, copyAsync(t.Context(), w, closure[count-1-i%4]))
	}
	for _, call := range calls {
		must(t, within(t, "Copy", call))
	}
	made := 0
	for _, e := range events(t, watcher, filepath.Join(f.dir, ".larder", "tmp")) {
		if e.Has(fsnotify.Create) {
			made++
		}
	}
	if made != 2*count {
		t.Errorf("%d unfinished files were made for %d paths, want 2 each", made, count)
	}
	if p := w.Progress(); p.Done != count || p.Paths != count {
		t.Errorf("progress is %+v, want all of %d", p, count)
	}
	f.check(t)
}
