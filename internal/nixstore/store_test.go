package nixstore

import (
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nix-larder/larder/internal/nixtest"
)

// TestInfoIsWhatNixSays compares all that Nix knows of all paths there are,
// derivations included.
func TestInfoIsWhatNixSays(t *testing.T) {
	nix := nixtest.New(t)
	graph(t, nix)
	s := openStore(t, nix)
	var infos []struct {
		Path, NarHash, Deriver, CA string
		NarSize                    int64
		References, Signatures     []string
	}
	must(t, json.Unmarshal([]byte(nix.Run(t, "nix", "path-info", "--json", "--all")), &infos))
	seen := make(map[string]bool)
	for _, want := range infos {
		got, err := s.Info(t.Context(), want.Path)
		must(t, err)
		slices.Sort(want.References)
		if diff := cmp.Diff(&Info{
			Path: want.Path, NarHash: got.NarHash, NarSize: want.NarSize, References: want.References,
			Deriver: want.Deriver, Sigs: want.Signatures, CA: want.CA,
		}, got, cmpopts.EquateEmpty(), cmpopts.SortSlices(strings.Compare)); diff != "" {
			t.Errorf("(-nix +larder):\n%s", diff)
		}
		if hash := "sha256-" + base64.StdEncoding.EncodeToString(got.NarHash[:]); hash != want.NarHash {
			t.Errorf("NAR hash of %s is %s, want %s", want.Path, hash, want.NarHash)
		}
		if !slices.IsSorted(got.References) {
			t.Errorf("references of %s are not sorted: %q", want.Path, got.References)
		}
		for what, there := range map[string]bool{
			"deriver": want.Deriver != "", "content address": want.CA != "", "two signatures": len(want.Signatures) == 2,
			"reference to itself": slices.Contains(want.References, want.Path), "no references": len(want.References) == 0,
		} {
			seen[what] = seen[what] || there
		}
		if err := s.Check(t.Context(), []string{want.Path}); err != nil {
			t.Errorf("%s is said not to be valid: %v", want.Path, err)
		}
	}
	for what, there := range seen {
		if !there {
			t.Errorf("no path of this test has: %s", what)
		}
	}
	if len(infos) != 12 {
		t.Errorf("%d paths in this test, want 12", len(infos))
	}
}

func TestWhatIsNotValidIsNotInTheStore(t *testing.T) {
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	s := openStore(t, nix)
	nodes, err := s.Closure(t.Context(), []string{source}, nothing)
	must(t, err)
	gone := nix.Add(t, "gone", "gone")
	nix.Run(t, "nix-store", "--delete", gone)
	onDisk := filepath.Join(nix.Dir, strings.Repeat("0", 32)+"-on-disk")
	must(t, os.WriteFile(onDisk, nil, 0o644))
	for _, path := range []string{gone, onDisk, nix.Dir, source + "/inside", "", "source", strings.ToUpper(source)} {
		if _, err := s.Info(t.Context(), path); !errors.Is(err, ErrNotValid) || !strings.Contains(err.Error(), path) {
			t.Errorf("Info of %q: %v, want ErrNotValid", path, err)
		}
		if err := s.Check(t.Context(), []string{source, path}); !errors.Is(err, ErrNotValid) || !strings.Contains(err.Error(), path) {
			t.Errorf("Check of %q: %v, want ErrNotValid", path, err)
		}
		if g, err := s.Closure(t.Context(), []string{source, path}, nothing); !errors.Is(err, ErrNotValid) {
			t.Errorf("Closure of %q: %v, %v, want ErrNotValid", path, g, err)
		}
	}
	nix.Run(t, "nix-store", "--delete", source)
	wantGone(t, s, nodes)
	// What comes again is another row.
	nix.Add(t, "source", "source")
	wantGone(t, s, nodes)
}

func wantGone(t *testing.T, s *Store, nodes []Node) {
	t.Helper()
	infos, err := s.NodeInfos(t.Context(), nodes)
	must(t, err)
	contents, err := s.Contents(t.Context(), nodes)
	must(t, err)
	for i := range nodes {
		if infos[i] != nil || contents[i].Path != "" {
			t.Errorf("a path that was collected is there: %v, %v", infos[i], contents[i])
		}
	}
}

func TestOutputsAreThoseThatNixKnows(t *testing.T) {
	nix := nixtest.New(t)
	top := graph(t, nix)
	s := openStore(t, nix)
	drvs := 0
	for _, path := range nix.Lines(t, "nix", "path-info", "--all") {
		if !strings.HasSuffix(path, ".drv") {
			continue
		}
		drvs++
		want := nix.Lines(t, "nix-store", "-q", "--outputs", path)
		slices.Sort(want)
		got, err := s.Outputs(t.Context(), path)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("outputs of %s (-nix +larder):\n%s", path, diff)
		}
		read, err := s.Dirs().DrvOutputs(path)
		must(t, err)
		slices.Sort(read)
		if diff := cmp.Diff(want, read); diff != "" {
			t.Errorf("DrvOutputs of %s (-nix +larder):\n%s", path, diff)
		}
	}
	if drvs != 4 {
		t.Errorf("%d derivations in this test, want 4", drvs)
	}

	drv := nix.Run(t, "nix-store", "-q", "--deriver", top[0])
	outputs, err := s.Outputs(t.Context(), drv)
	must(t, err)
	// Only the valid ones count.
	doc := slices.IndexFunc(outputs, func(path string) bool { return strings.HasSuffix(path, "-doc") })
	nix.Run(t, "nix-store", "--delete", outputs[doc])
	outputs = slices.Delete(outputs, doc, doc+1)
	got, err := s.Outputs(t.Context(), drv)
	must(t, err)
	if diff := cmp.Diff(outputs, got); diff != "" {
		t.Errorf("after one was deleted (-want +got):\n%s", diff)
	}
	// When the derivation is gone, its outputs still know of it.
	nix.Run(t, "nix-store", "--delete", drv, "--option", "keep-derivations", "false")
	got, err = s.Outputs(t.Context(), drv)
	must(t, err)
	if diff := cmp.Diff(outputs, got); diff != "" {
		t.Errorf("after the derivation was deleted (-want +got):\n%s", diff)
	}
	got, err = s.Outputs(t.Context(), nix.Dir+"/unknown.drv")
	if len(got) > 0 || err != nil {
		t.Errorf("outputs of an unknown derivation: %q, %v", got, err)
	}
}

func TestOnlyTheKnownSchemaIsOpened(t *testing.T) {
	nix := nixtest.New(t)
	dirs := Dirs{Store: nix.Dir, State: nix.State}
	file := filepath.Join(nix.State, "db", "schema")
	for _, version := range []string{"9", "11", "100", "", "ten"} {
		must(t, os.WriteFile(file, []byte(version), 0o644))
		if s, err := Open(dirs, time.Second); err == nil {
			s.Close()
			t.Errorf("schema %q was opened", version)
		} else if !strings.Contains(err.Error(), "want 10") {
			t.Errorf("schema %q: %v, want an error that names both versions", version, err)
		}
	}
	must(t, os.WriteFile(file, []byte("10\n"), 0o644))
	s, err := Open(dirs, time.Second)
	must(t, err)
	s.Close()
	must(t, os.RemoveAll(nix.State))
	if _, err := Open(dirs, time.Second); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no Nix: %v, want fs.ErrNotExist", err)
	}
}

func TestDirsAreThoseOfTheEnvironment(t *testing.T) {
	t.Setenv("NIX_STORE_DIR", "")
	t.Setenv("NIX_STATE_DIR", "")
	t.Setenv("NIX_LOG_DIR", "")
	if got, want := DefaultDirs(), (Dirs{Store: "/nix/store", State: "/nix/var/nix", Log: "/nix/var/log/nix"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	t.Setenv("NIX_STORE_DIR", "/a/store/")
	t.Setenv("NIX_STATE_DIR", "/a//state")
	t.Setenv("NIX_LOG_DIR", "/a/log/")
	if got, want := DefaultDirs(), (Dirs{Store: "/a/store", State: "/a/state", Log: "/a/log"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestStateDirMayHaveAnyName has names that mean something in a URL.
func TestStateDirMayHaveAnyName(t *testing.T) {
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	for _, name := range []string{"with space", "what?mode=rwc", "100%", "number#1", "café", "a&b=c"} {
		state := filepath.Join(t.TempDir(), name)
		must(t, os.CopyFS(state, os.DirFS(nix.State)))
		s, err := Open(Dirs{Store: nix.Dir, State: state}, time.Second)
		must(t, err)
		if _, err := s.Info(t.Context(), source); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		s.Close()
	}
}

// openFiles returns how many descriptors this process has on a store's database.
func openFiles(t *testing.T, nix *nixtest.Store) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, filepath.Join(nix.State, "db")+"/") {
			n++
		}
	}
	return n
}

// eventuallyClosed waits until a store's database is closed, but not for the minute after
// which it is in any case.
func eventuallyClosed(t *testing.T, nix *nixtest.Store) {
	t.Helper()
	for begin := time.Now(); openFiles(t, nix) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("%d files of the database are still open", openFiles(t, nix))
		}
	}
}

// TestIdleStoreIsNotKeptOpen asserts that Nix can tidy up its log.
func TestIdleStoreIsNotKeptOpen(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("no /proc")
	}
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	s := openStore(t, nix)
	_, err := s.Info(t.Context(), source)
	must(t, err)
	if openFiles(t, nix) == 0 {
		t.Fatal("the test does not see the open database")
	}
	eventuallyClosed(t, nix)
	_, err = s.Info(t.Context(), source)
	must(t, err)
	s.Close()
	if n := openFiles(t, nix); n > 0 {
		t.Errorf("%d files of the database are open after Close", n)
	}
}

func TestErrorsNameWhatIsWrongInTheDatabase(t *testing.T) {
	nix := nixtest.New(t)
	zeros := strings.Repeat("0", 64)
	for i, hash := range []string{"md5:" + zeros[:32], "sha256:" + zeros[:52], "sha256:" + strings.Repeat("x", 64), ""} {
		path := nix.Add(t, fmt.Sprintf("source-%d", i), "source")
		execSQL(t, nix, "update ValidPaths set hash = ? where path = ?", hash, path)
		if _, err := openStore(t, nix).Info(t.Context(), path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", hash)) {
			t.Errorf("hash %q: %v", hash, err)
		}
	}
}

// TestDatabaseThatCantBeReadIsUnavailable has what is nobody's fault but Nix's.
func TestDatabaseThatCantBeReadIsUnavailable(t *testing.T) {
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	s, err := Open(Dirs{Store: nix.Dir, State: nix.State}, 10*time.Millisecond)
	must(t, err)
	defer s.Close()
	check := func(what string) {
		t.Helper()
		_, err := s.Info(t.Context(), source)
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotValid) {
			t.Errorf("%s: %v, want ErrUnavailable", what, err)
		}
	}
	file := filepath.Join(nix.State, "db", "db.sqlite")
	db, err := sql.Open("sqlite3", "file:"+file+"?_locking_mode=exclusive&_txlock=exclusive")
	must(t, err)
	defer db.Close()
	tx, err := db.Begin()
	must(t, err)
	_, err = tx.Exec("update ValidPaths set ultimate = 1")
	must(t, err)
	check("locked")
	must(t, errors.Join(tx.Rollback(), db.Close()))
	if _, err := s.Info(t.Context(), source); err != nil {
		t.Errorf("unlocked: %v", err)
	}
	eventuallyClosed(t, nix)

	must(t, os.WriteFile(file, []byte(strings.Repeat("garbage ", 1000)), 0o644))
	check("garbage")
	must(t, os.Remove(file))
	check("removed")
}

func TestInfosAreOfThoseThatAreThere(t *testing.T) {
	nix := nixtest.New(t)
	closure := nix.Lines(t, "nix-store", "-qR", nix.AddTexts(t, "text", 3))
	s, err := Open(Dirs{Store: nix.Dir, State: nix.State}, time.Second)
	must(t, err)
	defer s.Close()
	paths := []string{closure[2], nix.Dir + "/" + strings.Repeat("0", 32) + "-missing", closure[0], closure[2]}
	infos, err := s.Infos(t.Context(), paths)
	must(t, err)
	for i, path := range paths {
		want, err := s.Info(t.Context(), path)
		if errors.Is(err, ErrNotValid) {
			err = nil
		}
		must(t, err)
		if diff := cmp.Diff(want, infos[i]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if infos, err := s.Infos(t.Context(), nil); err != nil || len(infos) != 0 {
		t.Errorf("of no paths: %v, %v", infos, err)
	}
}
