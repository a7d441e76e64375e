package cachewriter

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nar"
	"github.com/nix-larder/larder/internal/nixstore"
)

// rebuild has a path built again, with other contents and further references.
func (f *fixture) rebuild(t *testing.T, path, contents string, references ...string) {
	t.Helper()
	must(t, os.Chmod(path, 0o644))
	must(t, os.WriteFile(path, []byte(contents), 0o644))
	hash := sha256.New()
	size, err := new(nar.Dumper).Dump(t.Context(), hash, path)
	must(t, err)
	f.sql(t, "update ValidPaths set hash = ?, narSize = ? where path = ?", fmt.Sprintf("sha256:%x", hash.Sum(nil)), size, path)
	for _, ref := range references {
		f.sql(t, "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b where a.path = ? and b.path = ?", path, ref)
	}
}

// sql changes Nix's database.
func (f *fixture) sql(t *testing.T, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(f.nix.State, "db", "db.sqlite")+"?_busy_timeout=10000")
	must(t, err)
	defer db.Close()
	_, err = db.Exec(statement, args...)
	must(t, err)
}

// A conflict is what Kept is told of.
type conflict struct{ path, cache, store string }

// tellConflicts returns a function for Kept, and what it was told of.
func tellConflicts() (kept func(have, n *bincache.NarInfo), told func() []conflict) {
	var mu sync.Mutex
	var all []conflict
	return func(have, n *bincache.NarInfo) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, conflict{n.StorePath, have.NarHash.String(), n.NarHash.String()})
		}, func() []conflict {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
}

func TestAnotherBuildIsToldOfOnce(t *testing.T) {
	f := newFixture(t)
	base := f.nix.Add(t, "base", "one result")
	f.copy(t, Options{}, base)
	was, err := f.cache.Entry(base)
	must(t, err)
	f.rebuild(t, base, "another result")
	info, err := f.store.Info(t.Context(), base)
	must(t, err)
	log, text := logged()
	kept, told := tellConflicts()
	w := f.writer(t, Options{Log: log, Kept: kept, Keys: []signature.SecretKey{newKey(t, "one-1")}})
	for range 3 {
		must(t, copyOnly(t, w, base, Result{Paths: 1}))
		w.Forget() // as a daemon does
	}
	if n := strings.Count(text(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, text())
	}
	want := conflict{base, was.NarHash.String(), bincache.Hash(info.NarHash).String()}
	if got := told(); len(got) != 1 || got[0] != want {
		t.Errorf("told of %v, want %v", got, want)
	}
	// The signature would be of the other contents.
	if now, err := f.cache.Entry(base); err != nil || now.Sigs != nil {
		t.Errorf("entry is %+v, %v", now, err)
	}
}

// Somebody else may publish another build while we dump ours.
func TestAnotherBuildThatIsPublishedMeanwhileIsToldOf(t *testing.T) {
	f := newFixture(t)
	path := f.nix.Add(t, "path", "one result")
	f.copy(t, Options{}, path)
	was, err := f.cache.Entry(path)
	must(t, err)
	text := was.Format()
	must(t, os.Remove(f.narInfoFile(path)))
	f.rebuild(t, path, "another result")
	kept, told := tellConflicts()
	meanwhile := func(*nixstore.Info) string { // it has just been looked for
		must(t, os.WriteFile(f.narInfoFile(path), text, 0o644))
		return ""
	}
	_, err = f.writer(t, Options{Kept: kept, Cut: meanwhile}).Copy(t.Context(), path)
	must(t, err)
	if got := told(); len(got) != 1 || got[0].path != path {
		t.Errorf("told of %v", got)
	}
	if now, err := f.cache.Entry(path); err != nil || now.NarHash != was.NarHash {
		t.Errorf("entry is %+v, %v", now, err)
	}
	f.check(t)
}

func TestReplaceSwapsAnotherBuildInWhole(t *testing.T) {
	f := newFixture(t)
	lib := f.nix.Add(t, "lib", "lib")
	base := f.nix.Add(t, "base", "one result")
	top := f.nix.Build(t, `build "top" "echo $dep > $out" { dep = builtins.storePath "`+base+`"; }`)[0]
	one, two := newKey(t, "one-1"), newKey(t, "two-1")
	f.copy(t, Options{Keys: []signature.SecretKey{one, two}}, top)
	was, err := f.cache.Entry(base)
	must(t, err)
	topWas, err := os.ReadFile(f.narInfoFile(top))
	must(t, err)

	// Now it needs the lib, which the cache has not.
	f.rebuild(t, base, "another result, of "+lib, lib)
	log, text := logged()
	w := f.writer(t, Options{Replace: true, Log: log, Keys: []signature.SecretKey{one}})
	r, err := w.Copy(t.Context(), top)
	must(t, err)
	if r.Copied != 2 || r.Replaced != 1 || r.Signed != 0 {
		t.Errorf("result is %+v, want 2 copied, 1 of them replaced", r)
	}
	f.check(t)
	now, err := f.cache.Entry(base)
	must(t, err)
	info, err := f.store.Info(t.Context(), base)
	must(t, err)
	if !SameContents(now, info) || !slices.Equal(now.References, []string{filepath.Base(lib)}) {
		t.Errorf("entry is %+v", now)
	}
	f.signedBy(t, []signature.SecretKey{one}, base, lib)
	if !strings.Contains(text(), "replaced entry was signed by others as well") || !strings.Contains(text(), "two-1") {
		t.Errorf("log is %s", text())
	}
	// Clients may have read the old narinfo.
	if _, err := os.Stat(filepath.Join(f.dir, was.URL)); err != nil {
		t.Error(err)
	}
	if topNow, err := os.ReadFile(f.narInfoFile(top)); err != nil || string(topNow) != string(topWas) {
		t.Errorf("the entry of the same contents is now %s: %v", topNow, err)
	}
	f.nix.Run(t, "nix", "store", "verify", "--store", "file://"+f.dir, "--all", "--no-trust")

	before := stats(t, f.dir)
	if r := f.copy(t, Options{Replace: true, Keys: []signature.SecretKey{one}}, top); r != (Result{Paths: 3}) {
		t.Errorf("the second time: %+v", r)
	}
	if diff := cmp.Diff(before, stats(t, f.dir)); diff != "" {
		t.Errorf("files were touched (-before +after):\n%s", diff)
	}
}

// What --replace is for may also be an entry that somebody has tampered with.
func TestReplaceMendsReferencesAndSizes(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	f.copy(t, Options{}, m.top)
	good := entryFiles(t, f.dir)
	for name, change := range map[string]func(n *bincache.NarInfo){
		"size":       func(n *bincache.NarInfo) { n.NarSize++ },
		"references": func(n *bincache.NarInfo) { n.References = nil },
	} {
		n, err := f.cache.Entry(m.top)
		must(t, err)
		change(n)
		must(t, os.WriteFile(f.narInfoFile(m.top), n.Format(), 0o644))
		if r := f.copy(t, Options{Replace: true}, m.top); r.Replaced != 1 || r.Copied != 1 {
			t.Errorf("%s: result is %+v", name, r)
		}
		if name := filepath.Base(f.narInfoFile(m.top)); entryFiles(t, f.dir)[name] != good[name] {
			t.Errorf("%s: entry is %s", name, entryFiles(t, f.dir)[name])
		}
	}
}

func TestSignaturesOfTheStoreComeToEntriesThatLackThem(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 3)
	f.copy(t, Options{}, top)
	key := newKey(t, "store-1")
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(key.String()), 0o600))
	f.nix.Run(t, "nix", "store", "sign", "--key-file", file, top)
	must(t, copyOnly(t, f.writer(t, Options{}), top, Result{Paths: 3, Signed: 1}))
	f.signedBy(t, []signature.SecretKey{key}, top)
	before := stats(t, f.dir)
	must(t, copyOnly(t, f.writer(t, Options{}), top, Result{Paths: 3}))
	if diff := cmp.Diff(before, stats(t, f.dir)); diff != "" {
		t.Errorf("files were touched (-before +after):\n%s", diff)
	}
	// With a key, both come at once.
	f.nix.Run(t, "nix", "store", "sign", "--key-file", file, "--recursive", top)
	other := newKey(t, "other-1")
	must(t, copyOnly(t, f.writer(t, Options{Keys: []signature.SecretKey{other}}), top, Result{Paths: 3, Signed: 3}))
	f.signedBy(t, []signature.SecretKey{other, key}, f.nix.Lines(t, "nix-store", "-qR", top)...)
}

// Anybody whom Nix trusts may have written anything there. No entry must become unreadable
// by it.
func TestWhatIsNoSignatureStaysInTheStore(t *testing.T) {
	f := newFixture(t)
	there, fresh := f.nix.Add(t, "there", "there"), f.nix.Add(t, "fresh", "fresh")
	f.copy(t, Options{}, there)
	f.sql(t, "update ValidPaths set sigs = 'nonsense a-1:QUFB b-1:%'")
	must(t, copyOnly(t, f.writer(t, Options{}), there, Result{Paths: 1, Signed: 1}))
	must(t, copyOnly(t, f.writer(t, Options{}), there, Result{Paths: 1}))
	f.copy(t, Options{}, fresh)
	for _, path := range []string{there, fresh} {
		n, err := f.cache.Entry(path)
		must(t, err)
		if !slices.Equal(n.Sigs, []string{"a-1:QUFB"}) {
			t.Errorf("%s has %q", path, n.Sigs)
		}
	}
}
