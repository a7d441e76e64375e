package nixstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
)

func nothing(int64) bool { return false }

// checkGraph reports what is wrong with a graph that should hold the given paths,
// and returns their rows.
func checkGraph(t *testing.T, s *Store, g Graph, want []string) map[string]int64 {
	t.Helper()
	rows := make(map[string]int64)
	var paths []string
	infos, err := s.NodeInfos(t.Context(), g)
	must(t, err)
	contents, err := s.Contents(t.Context(), g)
	must(t, err)
	for i, node := range g {
		info := infos[i]
		content := Content{Path: info.Path, NarHash: info.NarHash, Sigs: info.Sigs}
		if diff := cmp.Diff(content, contents[i]); diff != "" {
			t.Errorf("contents (-want +got):\n%s", diff)
		}
		paths = append(paths, info.Path)
		rows[info.Path] = node.ID
		var refs []string
		for _, ref := range node.Refs {
			if int(ref) >= i {
				t.Fatalf("path %d refers to path %d, which comes later", i, ref)
			}
			refs = append(refs, paths[ref])
		}
		slices.Sort(refs)
		others := slices.DeleteFunc(info.References, func(ref string) bool {
			return ref == info.Path || !slices.Contains(want, ref)
		})
		if diff := cmp.Diff(others, refs); diff != "" && len(others)+len(refs) > 0 {
			t.Errorf("references of %s (-want +got):\n%s", info.Path, diff)
		}
	}
	slices.Sort(paths)
	want = slices.Sorted(slices.Values(want))
	if diff := cmp.Diff(want, paths); diff != "" && len(want)+len(paths) > 0 {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	return rows
}

func TestClosureIsWhatNixSays(t *testing.T) {
	nix := nixtest.New(t)
	graph(t, nix)
	chain := nix.AddTexts(t, "text", 20)
	s := openStore(t, nix)
	all := nix.Lines(t, "nix", "path-info", "--all")
	// Of each alone, derivations included, and of all together.
	for _, roots := range append(slices.Collect(slices.Chunk(all, 1)), all, []string{chain, chain}, nil) {
		g, err := s.Closure(t.Context(), roots, nothing)
		must(t, err)
		var want []string
		if len(roots) > 0 {
			want = nix.Lines(t, "nix-store", append([]string{"-qR"}, roots...)...)
		}
		rows := checkGraph(t, s, g, want)
		for path, row := range rows {
			i := slices.IndexFunc(g, func(n Node) bool { return n.ID == row })
			if want := slices.Contains(roots, path); g[i].Asked != want {
				t.Errorf("%s was asked for: %v, want %v", path, g[i].Asked, want)
			}
		}
	}
}

func TestClosureLeavesOutWhatIsSkipped(t *testing.T) {
	nix := nixtest.New(t)
	top := graph(t, nix)
	s := openStore(t, nix)
	all := nix.Lines(t, "nix-store", append([]string{"-qR"}, top...)...)
	g, err := s.Closure(t.Context(), top, nothing)
	must(t, err)
	rows := checkGraph(t, s, g, all)
	for _, skipped := range all {
		// What only the skipped one refers to is not looked at: that is everything
		// which nothing else leads to.
		asked := make(map[int64]bool)
		g, err := s.Closure(t.Context(), top, func(id int64) bool {
			asked[id] = true
			return id == rows[skipped]
		})
		must(t, err)
		want := reachable(t, s, top, skipped)
		checkGraph(t, s, g, want)
		if len(asked) > len(want)+1 {
			t.Errorf("%d paths were asked for, want %d and the skipped one", len(asked), len(want))
		}
	}
}

func TestClosureTellsContentsAsLongAsTheyAreWanted(t *testing.T) {
	s, top := bigStore(t, 2*edgesAtOnce+1)
	g, err := s.Closure(t.Context(), []string{top}, nothing)
	must(t, err)
	contents, err := s.Contents(t.Context(), g)
	must(t, err)
	all := make(map[int64]Content)
	for i, node := range g {
		all[node.ID] = contents[i]
	}
	for _, most := range []int{1, 10, edgesAtOnce + 1, len(g) + 1} {
		var seen map[int64]Content
		again, err := s.ClosureContents(t.Context(), []string{top}, nothing, func() func(int64, Content) bool {
			seen = make(map[int64]Content)
			return func(id int64, c Content) bool {
				seen[id] = c
				return len(seen) < most
			}
		})
		must(t, err)
		if diff := cmp.Diff(g, again); diff != "" {
			t.Errorf("graph (-closure +with contents):\n%s", diff)
		}
		if len(seen) != min(most, len(g)) {
			t.Errorf("contents of %d paths were told, want %d", len(seen), min(most, len(g)))
		}
		for id, c := range seen {
			if diff := cmp.Diff(all[id], c); diff != "" {
				t.Fatalf("path %d (-contents +told):\n%s", id, diff)
			}
		}
	}
}

// reachable returns all paths that can be reached without passing one of them.
func reachable(t *testing.T, s *Store, from []string, without string) []string {
	t.Helper()
	var found []string
	for todo := slices.Clone(from); len(todo) > 0; todo = todo[1:] {
		if todo[0] == without || slices.Contains(found, todo[0]) {
			continue
		}
		found = append(found, todo[0])
		info, err := s.Info(t.Context(), todo[0])
		must(t, err)
		todo = append(todo, info.References...)
	}
	return found
}

// execSQL changes Nix's database.
func execSQL(t testing.TB, nix *nixtest.Store, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(nix.State, "db", "db.sqlite"))
	must(t, err)
	defer db.Close()
	_, err = db.Exec(query, args...)
	must(t, err)
}

// bigStore makes the database of a store with a chain of paths, each of which
// refers to itself and to four of those before.
func bigStore(t testing.TB, count int) (s *Store, top string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "db"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "db", "schema"), []byte("10"), 0o644))
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "db", "db.sqlite")+"?_synchronous=off&_journal_mode=wal")
	must(t, err)
	defer db.Close()
	// As in Nix's src/libstore/schema.sql.
	_, err = db.Exec(`
		create table ValidPaths (
			id integer primary key autoincrement not null, path text unique not null, hash text not null,
			registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
		create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference));
		create index IndexReferrer on Refs(referrer);
		create index IndexReference on Refs(reference);
		create table DerivationOutputs (drv integer not null, id text not null, path text not null, primary key (drv, id));`)
	must(t, err)
	_, err = db.Exec(fmt.Sprintf(`
		with recursive n(i) as (select 1 union all select i + 1 from n where i < %d)
		insert into ValidPaths (path, hash, registrationTime, narSize)
		select printf('/nix/store/%%032d-path', i), 'sha256:' || printf('%%064d', i), 1, 1000 from n;
		insert or ignore into Refs
		select v.id, max(1, v.id - d.column1) from ValidPaths v, (values (0), (1), (2), (17), (1000)) d;`, count))
	must(t, err)
	s, err = Open(Dirs{Store: "/nix/store", State: dir}, time.Second)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s, fmt.Sprintf("/nix/store/%032d-path", count)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestLongChainTakesLittleMemory asserts what cachewriter promises of it.
func TestLongChainTakesLittleMemory(t *testing.T) {
	const count = 50_000
	s, top := bigStore(t, count)
	before := heap()
	begin := time.Now()
	g, err := s.Closure(t.Context(), []string{top}, nothing)
	must(t, err)
	took := time.Since(begin)
	per := float64(heap()-before) / count
	if len(g) != count || g[0].ID != 1 || g[count-1].ID != count {
		t.Fatalf("%d paths, from row %d to %d", len(g), g[0].ID, g[len(g)-1].ID)
	}
	for i, node := range g {
		for _, ref := range node.Refs {
			if int(ref) >= i {
				t.Fatalf("path %d refers to path %d, which comes later", i, ref)
			}
		}
	}
	runtime.KeepAlive(g)
	t.Logf("%.0f bytes for each path, %v", per, took)
	if per >= 200 {
		t.Errorf("a path of a closure takes %.0f bytes, want less than 200", per)
	}

	// And it ends as soon as nobody waits for it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	found := 0
	_, err = s.Closure(ctx, []string{top}, func(int64) bool {
		if found++; found == count/10 {
			cancel()
		}
		return false
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) || found > count/2 {
		t.Errorf("canceled Closure: %v after %d paths, want context.Canceled", err, found)
	}
}

func TestCycleIsAnErrorAndNotForEver(t *testing.T) {
	nix := nixtest.New(t)
	top := nix.AddTexts(t, "text", 3)
	execSQL(t, nix, "insert into Refs select min(id), max(id) from ValidPaths")
	if _, err := openStore(t, nix).Closure(t.Context(), []string{top}, nothing); err == nil || !strings.Contains(err.Error(), top) {
		t.Errorf("error is %v, want one for %s", err, top)
	}
}

// TestReadersAndWritersDoNotMeet reads while Nix adds paths, and while somebody
// has the database's write lock all along.
func TestReadersAndWritersDoNotMeet(t *testing.T) {
	nix := nixtest.New(t)
	first := nix.AddTexts(t, "first", 30)
	s, err := Open(Dirs{Store: nix.Dir, State: nix.State}, 0)
	must(t, err)
	defer s.Close()

	var texts []string
	done := make(chan bool)
	go func() {
		defer close(done)
		for i := range 5 {
			texts = append(texts, nix.AddTexts(t, fmt.Sprintf("text-%d", i), 40))
		}
	}()
	reads := 0
	for running := true; running; reads++ {
		select {
		case <-done:
			running = false
		default:
		}
		g, err := s.Closure(t.Context(), []string{first}, nothing)
		must(t, err)
		if len(g) != 30 {
			t.Fatalf("closure of %d paths, want 30", len(g))
		}
		_, err = s.NodeInfos(t.Context(), g[29:])
		must(t, err)
	}
	t.Logf("read %d times meanwhile", reads)
	for _, text := range texts {
		g, err := s.Closure(t.Context(), []string{text}, nothing)
		must(t, err)
		if len(g) != 40 {
			t.Errorf("closure of %d paths, want 40", len(g))
		}
	}

	db, err := sql.Open("sqlite3", "file:"+filepath.Join(nix.State, "db", "db.sqlite")+"?_txlock=immediate")
	must(t, err)
	defer db.Close()
	tx, err := db.Begin()
	must(t, err)
	defer tx.Rollback()
	_, err = tx.Exec("delete from ValidPaths where path = ?", first)
	must(t, err)
	if err := s.Check(t.Context(), []string{first}); err != nil {
		t.Errorf("beside an unfinished transaction: %v", err)
	}
}
