package cachewriter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

// corrupt changes a file of the store, as a failing disk would.
func corrupt(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.Chmod(path, 0o644))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func TestCorruptStoreIsNotPublished(t *testing.T) {
	for name, text := range map[string]string{"same size": "sOurce", "shorter": "s", "longer": "source and more"} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			good, source := f.nix.AddTexts(t, "good", 5), f.nix.Add(t, "source", "source")
			referrer := f.nix.Build(t, `build "referrer" "echo `+source+` > $out" { dep = builtins.storePath "`+source+`"; }`)[0]
			corrupt(t, source, text)
			w := f.writer(t, Options{})
			_, err := w.Copy(t.Context(), referrer, good)
			if !errors.Is(err, ErrStoreCorrupt) || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), source) {
				t.Errorf("error is %v, want ErrStoreCorrupt for %s", err, source)
			}
			f.hasNot(t, source, referrer)
			f.has(t, good)
			f.check(t)

			// Once the store is repaired, the same Writer goes on.
			corrupt(t, source, "source")
			_, err = w.Copy(t.Context(), referrer)
			must(t, err)
			f.has(t, source, referrer)
			f.check(t)
		})
	}
}

func TestUnreadablePathIsNotTheCachesFault(t *testing.T) {
	f := newFixture(t)
	source, good := f.nix.Add(t, "source", "source"), f.nix.Add(t, "good", "good")
	must(t, os.Remove(source))
	w := f.writer(t, Options{})
	_, err := w.Copy(t.Context(), source, good)
	if err == nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotInStore) || !strings.Contains(err.Error(), source) {
		t.Errorf("error is %v, want one for %s alone", err, source)
	}
	f.hasNot(t, source)
	f.has(t, good)
	f.check(t)
}

// TestPathThatGoesWhileItIsReadIsGone has the collector come after the look.
func TestPathThatGoesWhileItIsReadIsGone(t *testing.T) {
	f := newFixture(t)
	w := f.writer(t, Options{Workers: 1})
	dumped := func(path string, between func()) error {
		info, err := f.store.Info(t.Context(), path)
		must(t, err)
		between()
		_, err = w.dump(t.Context(), w.newDumper(false), &entry{info: info})
		return err
	}
	gone := f.nix.Add(t, "gone", "gone")
	if err := dumped(gone, func() { f.nix.Run(t, "nix-store", "--delete", gone) }); !errors.Is(err, ErrNotInStore) {
		t.Errorf("collected: %v, want ErrNotInStore", err)
	}
	// Collected and built again, with another result.
	again := f.nix.Add(t, "again", "again")
	err := dumped(again, func() {
		f.nix.Run(t, "nix-store", "--delete", again)
		must(t, os.WriteFile(again, []byte("another result"), 0o644))
		f.nix.Register(t, again+"\n"+strings.Repeat("0", 64)+"\n128\n\n0\n")
	})
	if err == nil || errors.Is(err, ErrStoreCorrupt) || errors.Is(err, ErrNotInStore) || errors.Is(err, ErrUnavailable) {
		t.Errorf("registered anew: %v, want an error to try again after", err)
	}
	var looked look
	err = w.lookAll(t.Context(), nixstore.Graph{{ID: 1 << 40}}, nil, func(_ nixstore.Node, l *look) error {
		looked = *l
		return nil
	})
	if err != nil || !errors.Is(looked.err, ErrNotInStore) {
		t.Errorf("row is gone: %v, %v; want ErrNotInStore of this path", looked.err, err)
	}
	f.check(t)
}

func TestDamagedEntriesAreReplaced(t *testing.T) {
	truncate := func(size int64) func(string) error {
		return func(file string) error { return os.Truncate(file, size) }
	}
	for name, damage := range map[string]struct{ narInfo, nar func(string) error }{
		"narinfo is empty":      {narInfo: truncate(0)},
		"narinfo is cut off":    {narInfo: truncate(200)},
		"narinfo is missing":    {narInfo: os.Remove},
		"NAR is missing":        {nar: os.Remove},
		"NAR is empty":          {nar: truncate(0)},
		"NAR is cut off":        {nar: truncate(20)},
		"both are gone":         {os.Remove, os.Remove},
		"both are cut off":      {truncate(200), truncate(20)},
		"narinfo without a NAR": {truncate(0), os.Remove},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			closure := f.nix.Lines(t, "nix-store", "-qR", f.nix.AddTexts(t, "text", 7))
			f.copy(t, Options{}, closure[6])
			before := entryFiles(t, f.dir)
			for _, path := range []string{closure[0], closure[3], closure[6]} {
				narInfo, nar := f.entry(t, path)
				if damage.narInfo != nil {
					must(t, damage.narInfo(narInfo))
				}
				if damage.nar != nil {
					must(t, damage.nar(nar))
				}
			}
			log, text := logged()
			r := f.copy(t, Options{Log: log}, closure[6])
			if r.Copied != 3 {
				t.Errorf("%d were copied, want 3; log:\n%s", r.Copied, text())
			}
			f.check(t)
			after := entryFiles(t, f.dir)
			for name := range before {
				if before[name] != after[name] {
					t.Errorf("%s is not what it was", name)
				}
			}
		})
	}
}

func TestAnotherBuildOfThePathIsKept(t *testing.T) {
	f := newFixture(t)
	base := f.nix.Add(t, "base", "one result")
	f.copy(t, Options{}, base)
	before := entryFiles(t, f.dir)
	// It is collected and built again, with another result.
	f.nix.Run(t, "nix-store", "--delete", base)
	must(t, os.WriteFile(base, []byte("another result"), 0o644))
	hash := f.nix.Run(t, "nix-hash", "--type", "sha256", base)
	f.nix.Register(t, base+"\n"+hash+"\n128\n\n0\n")
	top := f.nix.Build(t, `build "top" "echo $dep > $out" { dep = builtins.storePath "`+base+`"; }`)[0]

	log, text := logged()
	w := f.writer(t, Options{Log: log})
	for range 2 {
		_, err := w.Copy(t.Context(), base, top)
		must(t, err)
	}
	if n := strings.Count(text(), "level=WARN"); n != 1 || !strings.Contains(text(), base) {
		t.Errorf("%d warnings, want one for %s:\n%s", n, base, text())
	}
	after := entryFiles(t, f.dir)
	for name := range before {
		if after[name] != before[name] {
			t.Errorf("%s was changed", name)
		}
	}
	f.has(t, top)
	f.check(t)
}

// TestCanceledCopyReturnsAtOnce is canceled in the middle of a path that takes
// seconds.
func TestCanceledCopyReturnsAtOnce(t *testing.T) {
	f := newFixture(t)
	// Its hash is wrong: nobody should come to compare it.
	huge := f.nix.AddSparse(t, "huge", 64<<30, strings.Repeat("0", 64))
	w := f.writer(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := copyAsync(ctx, w, huge)
	trouble.Eventually(t, "it is being dumped", func() bool { return len(unfinished(t, f.dir)) > 0 })
	cancel()
	if err := within(t, "canceled Copy", done); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
	// The Writer is as good as new.
	small := f.nix.Add(t, "small", "small")
	_, err := w.Copy(t.Context(), small)
	must(t, err)

	done = copyAsync(t.Context(), w, huge)
	trouble.Eventually(t, "it is being dumped", func() bool { return len(unfinished(t, f.dir)) > 0 })
	w.Close()
	if err := within(t, "Copy of a closed Writer", done); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
	if err := within(t, "Copy after Close", copyAsync(t.Context(), w, huge)); err == nil {
		t.Error("Copy after Close returned nil")
	}
	f.has(t, small)
	f.hasNot(t, huge)
	f.check(t)
}

// TestOthersGoOnWhenACallIsCanceled has two calls wait for the same path.
func TestOthersGoOnWhenACallIsCanceled(t *testing.T) {
	const size, hash = 256 << 20, "8b49bcce6ece96b56b8654167ecb6652d926d141b18ca996ce7704c50b521a19"
	f := newFixture(t)
	shared := f.nix.AddSparse(t, "shared", size, hash)
	w := f.writer(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	waiting := func() (n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range w.open {
			n += len(e.calls)
		}
		return n
	}
	first, second := copyAsync(ctx, w, shared), copyAsync(t.Context(), w, shared)
	trouble.Eventually(t, "both wait for it", func() bool { return waiting() == 2 })
	cancel()
	if err := within(t, "canceled Copy", first); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
	must(t, within(t, "the other Copy", second))
	f.has(t, shared)

	// This time the second one comes when the dump has been told to end.
	_, nar := f.entry(t, shared)
	must(t, errors.Join(os.Remove(nar), os.Remove(f.narInfoFile(shared))))
	w = f.writer(t, Options{})
	ctx, cancel = context.WithCancel(t.Context())
	first = copyAsync(ctx, w, shared)
	trouble.Eventually(t, "it is being dumped", func() bool { return len(unfinished(t, f.dir)) > 0 })
	cancel()
	second = copyAsync(t.Context(), w, shared)
	if err := within(t, "canceled Copy", first); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
	must(t, within(t, "the other Copy", second))
	f.has(t, shared)
	f.check(t)
}

// TestCloseNeverLeavesACallBehind closes Writers whose calls have got to anywhere.
func TestCloseNeverLeavesACallBehind(t *testing.T) {
	nix := nixtest.New(t)
	top := nix.AddTexts(t, "text", 60)
	for i := range 40 {
		f := newFixtureAt(t, nix, filepath.Join(t.TempDir(), "cache"))
		w := f.writer(t, Options{})
		first, second := copyAsync(t.Context(), w, top), copyAsync(t.Context(), w, top)
		time.Sleep(time.Duration(i) * time.Millisecond / 2) // not to wait for anything: to hit anything
		w.Close()
		for _, call := range []<-chan error{first, second} {
			if err := within(t, "Copy of a closed Writer", call); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v, want context.Canceled", err)
			}
		}
		f.check(t)
	}
}

// What somebody says to be damaged is replaced, and never missing.
func TestWhatIsSaidToBeDamagedIsRewritten(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	f.copy(t, Options{}, m.top)
	_, nar := f.entry(t, m.base)
	info, err := os.Stat(nar)
	must(t, err)
	must(t, os.WriteFile(nar, make([]byte, info.Size()), 0o644))
	if r := f.copy(t, Options{}, m.top); r.Copied != 0 {
		t.Errorf("without a word: %+v", r)
	}
	rewrite := func(have *bincache.NarInfo) bool { return have.StorePath == m.base }
	if r := f.copy(t, Options{Rewrite: rewrite, Elsewhere: elsewhere(m.base)}, m.top); r.Copied != 0 {
		t.Errorf("what others have: %+v", r)
	}
	if r := f.copy(t, Options{Rewrite: rewrite}, m.top); r.Copied != 1 {
		t.Errorf("with it: %+v", r)
	}
	f.check(t)
}
