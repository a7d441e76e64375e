package cachewriter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/trouble"
)

func newKey(t *testing.T, name string) signature.SecretKey {
	t.Helper()
	key, _, err := signature.GenerateKeypair(name, nil)
	must(t, err)
	return key
}

// signedBy reports paths whose entries have other signatures than those by some keys,
// in the order of their names.
func (f *fixture) signedBy(t *testing.T, keys []signature.SecretKey, paths ...string) {
	t.Helper()
	for _, path := range paths {
		n, err := f.cache.Entry(path)
		must(t, err)
		sigs, err := n.Sign(keys)
		must(t, err)
		if !slices.Equal(n.Sigs, sigs) {
			t.Errorf("%s has signatures %q, want %q", path, n.Sigs, sigs)
		}
	}
}

// TestSignedCacheIsTheOneThatNixWrites compares every entry byte for byte.
func TestSignedCacheIsTheOneThatNixWrites(t *testing.T) {
	f := newFixture(t)
	paths, _ := everyKind(t, f) // some of them are signed in the store
	key := newKey(t, "cache-1")
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(key.String()), 0o600))
	f.copy(t, Options{Compression: compress.Method{Name: "none"}, Keys: []signature.SecretKey{key}}, paths...)
	theirs := t.TempDir()
	f.nix.Run(t, "nix", append([]string{"copy", "--to", "file://" + theirs + "?compression=none&secret-key=" + file}, paths...)...)
	if diff := cmp.Diff(entryFiles(t, theirs), entryFiles(t, f.dir)); diff != "" {
		t.Errorf("(-nix +larder):\n%s", diff)
	}
	f.check(t)
}

func TestEntriesThatAreThereGetTheSignaturesThatTheyLack(t *testing.T) {
	f := newFixture(t)
	paths, closure := everyKind(t, f)
	f.copy(t, Options{}, paths...)
	before := entryFiles(t, f.dir)
	one, two := newKey(t, "one-1"), newKey(t, "two-1")
	for _, keys := range [][]signature.SecretKey{{two}, {one, two}, {two, one}} {
		r := f.copy(t, Options{Keys: keys}, paths...)
		if len(keys) == 2 && keys[0].String() == two.String() {
			if r.Signed != 0 {
				t.Errorf("%+v: signed although all is signed", r)
			}
		} else if want := (Result{Paths: len(closure), Signed: len(closure)}); r != want {
			t.Errorf("result is %+v, want %+v", r, want)
		}
		f.check(t)
	}
	f.copy(t, Options{}, paths...) // takes nothing away
	after := entryFiles(t, f.dir)
	for _, path := range closure {
		n, err := f.cache.Entry(path)
		must(t, err)
		if signed, err := n.SignedBy([]signature.SecretKey{one, two}); !signed || err != nil || !slices.IsSorted(n.Sigs) {
			t.Errorf("%s has %q: %v", path, n.Sigs, err)
		}
		// Without them it is what it was, with what the store had of signatures.
		n.Sigs = slices.DeleteFunc(n.Sigs, func(sig string) bool { return strings.HasPrefix(sig, "one-1:") || strings.HasPrefix(sig, "two-1:") })
		name := filepath.Base(f.narInfoFile(path))
		after[name] = string(n.Format())
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("(-before +after, without the new signatures):\n%s", diff)
	}
}

func TestSignedEntriesAreNotTouched(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 20)
	keys := []signature.SecretKey{newKey(t, "one-1"), newKey(t, "two-1")}
	f.copy(t, Options{Keys: keys}, top)
	before := stats(t, f.dir)
	for _, keys := range [][]signature.SecretKey{keys, keys[:1], nil} {
		if r := f.copy(t, Options{Keys: keys}, top); r != (Result{Paths: 20}) {
			t.Errorf("result with %d keys is %+v", len(keys), r)
		}
	}
	if diff := cmp.Diff(before, stats(t, f.dir)); diff != "" {
		t.Errorf("files were touched (-before +after):\n%s", diff)
	}
}

// A key that is made anew under its old name has to sign all again.
func TestSignatureOfAnotherKeyOfTheNameIsNotEnough(t *testing.T) {
	f := newFixture(t)
	path := f.nix.Add(t, "source", "source")
	f.copy(t, Options{Keys: []signature.SecretKey{newKey(t, "one-1")}}, path)
	again := []signature.SecretKey{newKey(t, "one-1")}
	if r := f.copy(t, Options{Keys: again}, path); r.Signed != 1 {
		t.Errorf("result is %+v", r)
	}
	n, err := f.cache.Entry(path)
	must(t, err)
	if signed, err := n.SignedBy(again); !signed || err != nil || len(n.Sigs) != 2 {
		t.Errorf("signatures are %q: %v", n.Sigs, err)
	}
}

// What is signed is what the store has, whatever the entry says.
func TestEntryWithOtherContentsIsNotSigned(t *testing.T) {
	f := newFixture(t)
	base, other := f.nix.Add(t, "base", "base"), f.nix.Add(t, "other", "other")
	f.copy(t, Options{}, base, other)
	file, _ := f.entry(t, base)
	n, err := f.cache.Entry(base)
	must(t, err)
	was := n.Format()
	for name, change := range map[string]func(){
		"nar hash":   func() { n.NarHash[0]++ },
		"nar size":   func() { n.NarSize++ },
		"references": func() { n.References = []string{filepath.Base(other)} },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(file, was, 0o644))
			n, err = f.cache.Entry(base)
			must(t, err)
			change()
			must(t, os.WriteFile(file, n.Format(), 0o644))
			log, text := logged()
			if r := f.copy(t, Options{Log: log, Keys: []signature.SecretKey{newKey(t, "one-1")}}, base); r != (Result{Paths: 1}) {
				t.Errorf("result is %+v", r)
			}
			if strings.Count(text(), "level=WARN") != 1 || !strings.Contains(text(), "kept another build of the same path") || !strings.Contains(text(), base) {
				t.Errorf("log is %s", text())
			}
			if now, err := os.ReadFile(file); err != nil || string(now) != string(n.Format()) {
				t.Errorf("entry is now %s: %v", now, err)
			}
		})
	}
}

func TestWhatIsElsewhereIsSignedOnlyIfItIsHereAsWell(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	f.copy(t, Options{}, m.left)
	keys := []signature.SecretKey{newKey(t, "one-1")}
	r := f.copy(t, Options{Elsewhere: elsewhere(m.base, m.left, m.right), Keys: keys}, m.top)
	if r.Copied != 1 || r.Signed != 2 {
		t.Errorf("result is %+v, want 1 copied, 2 signed", r)
	}
	f.hasNot(t, m.right)
	f.signedBy(t, keys, m.base, m.left, m.top)
}

// TestEntryHasTheSignaturesOfAllItsWriters lets several publish the same paths at once.
func TestEntryHasTheSignaturesOfAllItsWriters(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 50)
	var keys []signature.SecretKey
	var done []<-chan error
	for _, name := range []string{"a", "b", "c", "d"} {
		key := newKey(t, name)
		keys = append(keys, key)
		done = append(done, copyAsync(t.Context(), f.writer(t, Options{Keys: []signature.SecretKey{key}}), top))
	}
	for _, done := range done {
		must(t, within(t, "Copy", done))
	}
	f.signedBy(t, keys, f.nix.Lines(t, "nix-store", "-qR", top)...)
	f.check(t)
}

func TestSigningWaitsForTheLockButNotAtTheEnd(t *testing.T) {
	f := newFixture(t)
	path := f.nix.Add(t, "source", "source")
	f.copy(t, Options{}, path)
	lock, err := os.Create(filepath.Join(f.dir, ".larder", "lock"))
	must(t, err)
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	keys := []signature.SecretKey{newKey(t, "one-1")}
	waiting := func() bool { return len(unfinished(t, f.dir)) == 1 }

	ctx, cancel := context.WithCancel(t.Context())
	done := copyAsync(ctx, f.writer(t, Options{Keys: keys}), path)
	trouble.Eventually(t, "it waits for the lock", waiting)
	cancel()
	if err := within(t, "canceled Copy", done); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	w := f.writer(t, Options{Keys: keys})
	done = copyAsync(t.Context(), w, path)
	trouble.Eventually(t, "it waits for the lock", waiting)
	w.Close()
	if err := within(t, "closed Copy", done); !errors.Is(err, context.Canceled) {
		t.Errorf("closed: %v", err)
	}
	done = copyAsync(t.Context(), f.writer(t, Options{Keys: keys}), path)
	trouble.Eventually(t, "it waits for the lock", waiting)
	must(t, lock.Close())
	must(t, within(t, "Copy", done))
	f.signedBy(t, keys, path)
	f.check(t)
}
