package hook

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/queue"
)

func TestOutputsGetRowsAndRoots(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	hooktest.WantSays(t, s.run(t, s.Path("a")+" "+s.Path("b")), "")
	s.WantRows(t, s.Path("a"), s.Path("b"))
	s.WantRoots(t, s.Path("a"), s.Path("b"))

	// A rebuild is no trouble.
	hooktest.WantSays(t, s.run(t, s.Path("a")), "")
	s.WantRows(t, s.Path("a"), s.Path("b"))
	s.WantRoots(t, s.Path("a"), s.Path("b"))
}

func TestEnvironmentIsNotTrusted(t *testing.T) {
	hash := strings.Repeat("0", 32)
	for name, test := range map[string]struct {
		outPaths string // $S is the store
		drv      string
		want     []string
		says     string
	}{
		"spaces":           {"  $S/H-a   $S/H-b ", "", []string{"a", "b"}, ""},
		"tabs and lines":   {"\t$S/H-a\n\n$S/H-b\r\n", "", []string{"a", "b"}, ""},
		"twice":            {"$S/H-a $S/H-a", "", []string{"a"}, ""},
		"nothing":          {"", "", nil, "neither DRV_PATH nor OUT_PATHS is set"},
		"only spaces":      {" \t\n", " ", nil, "neither DRV_PATH nor OUT_PATHS is set"},
		"outside":          {"/tmp/x $S/H-a", "", []string{"a"}, `read OUT_PATHS: "/tmp/x" is not below $S`},
		"dots":             {"$S/../etc/passwd $S/H-a", "", []string{"a"}, "read OUT_PATHS: "},
		"dots for a name":  {"$S/.. $S/. $S/ $S", "", nil, "read OUT_PATHS: "},
		"inside":           {"$S/H-a/bin/x $S/H-b", "", []string{"b"}, "read OUT_PATHS: "},
		"relative":         {"H-a", "", nil, "read OUT_PATHS: "},
		"no hash":          {"$S/hello $S/H-a", "", []string{"a"}, "read OUT_PATHS: "},
		"name of our own":  {"$S/queue $S/H-a", "", []string{"a"}, "read OUT_PATHS: "},
		"many":             {strings.Repeat("/x ", 1000), "", nil, "and 997 more"},
		"bad drv":          {"$S/H-a", "/tmp/x.drv", []string{"a"}, `read DRV_PATH: "/tmp/x.drv" is not below $S`},
		"unknown drv":      {"$S/H-a", "$S/H-x.drv", []string{"a"}, "Nix database"},
		"control sequence": {"$S/H-\x1b[31mred", "", nil, `\x1b[31mred`},
		"not UTF-8":        {"$S/H-\xff\xfe", "", nil, `\xff\xfe`},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newSiteWithQueue(t)
			r := strings.NewReplacer("$S", s.Store, "H-", hash+"-")
			s.env["DRV_PATH"] = r.Replace(test.drv)
			hooktest.WantSays(t, s.run(t, r.Replace(test.outPaths)), r.Replace(test.says))
			var want []string
			for _, name := range test.want {
				want = append(want, s.Path(name))
			}
			s.WantRows(t, want...)
			s.WantRoots(t, want...)
		})
	}
}

func TestAllOutputsOfTheDerivationCount(t *testing.T) {
	for name, outPaths := range map[string]string{
		"none":      "", // Nix 2.8.0
		"wanted":    "$S/H-dev",
		"all":       "$S/H-dev $S/H-doc $S/H-out",
		"and other": "$S/H-out $S/H-other",
	} {
		for _, suffix := range []string{"", "!out"} {
			t.Run(name+suffix, func(t *testing.T) {
				s, _ := newSiteWithQueue(t)
				want := []string{s.Path("out"), s.Path("dev"), s.Path("doc")}
				s.env["DRV_PATH"] = s.drv(t, "hello", want...) + suffix
				if strings.Contains(outPaths, "other") {
					want = append(want, s.Path("other"))
				}
				r := strings.NewReplacer("$S", s.Store, "H-", strings.Repeat("0", 32)+"-")
				hooktest.WantSays(t, s.run(t, r.Replace(outPaths)), "")
				s.WantRows(t, want...)
				s.WantRoots(t, want...)
				for row, err := range s.Open(t).Rows(t.Context()) {
					must(t, err)
					if row.Drv != s.Path("hello.drv") {
						t.Errorf("%s was built by %q, want hello", row.Path, row.Drv)
					}
				}
			})
		}
	}
}

func TestManyOutputsAreNoTrouble(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	var want []string
	for size := 0; size < 128<<10; {
		want = append(want, s.Path(fmt.Sprintf("%d-%s", len(want), strings.Repeat("x", 150))))
		size += len(want[0]) + 1
	}
	hooktest.WantSays(t, s.run(t, strings.Join(want, " ")), "")
	s.WantRows(t, want...)
	s.WantRoots(t, want...)
}

func TestRootsAloneAreLeftWhenTheQueueCanNotBeHad(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, s *site)
		says  string
	}{
		"missing":      {func(t *testing.T, s *site) { must(t, os.Remove(s.File)) }, "no such file"},
		"no directory": {func(t *testing.T, s *site) { must(t, os.RemoveAll(filepath.Dir(s.File))) }, "no such file"},
		"corrupt": {func(t *testing.T, s *site) {
			must(t, os.WriteFile(s.File, []byte(strings.Repeat("garbage ", 1000)), 0o644))
		}, "the queue is corrupt"},
		"a directory": {func(t *testing.T, s *site) {
			must(t, os.Remove(s.File))
			must(t, os.Mkdir(s.File, 0o755))
		}, "open queue "},
	} {
		t.Run(name, func(t *testing.T) {
			s, q := newSiteWithQueue(t)
			must(t, q.Close())
			test.spoil(t, s)
			hooktest.WantSays(t, s.run(t, s.Path("a")), test.says)
			s.WantRoots(t, s.Path("a"))
		})
	}
}

func TestQueueThatComesLaterFindsItsRoots(t *testing.T) {
	s := newSite(t)
	hooktest.WantSays(t, s.run(t, s.Path("a")), "no such file")
	q := s.Open(t)
	roots, err := gcroot.Make(s.State, gcroot.Owner{
		Queue: q.File(), ID: q.Identity().ID, UID: q.Identity().UID, GID: q.Identity().GID,
	})
	must(t, err)
	names, err := roots.List()
	must(t, err)
	if want := filepath.Base(s.Path("a")); !slices.Equal(names, []string{want}) {
		t.Errorf("roots are %q, want %q", names, want)
	}
}

func TestForgottenQueueGetsNoRoots(t *testing.T) {
	s, q := newSiteWithQueue(t)
	for age, roots := range map[time.Duration][]string{
		6 * 24 * time.Hour: {s.Path("a")},
		8 * 24 * time.Hour: nil,
	} {
		must(t, s.RootDir().RemoveAll())
		then := time.Now().Add(-age)
		must(t, os.Chtimes(s.File+"-lock", then, then))
		said := s.run(t, s.Path("a"))
		s.WantRoots(t, roots...)
		s.WantRows(t, s.Path("a"))
		if roots == nil {
			hooktest.WantSays(t, said, fmt.Sprintf("no worker since %s: no root was made", then.Format(time.DateOnly)))
			if n := strings.Count(said, "no worker"); n != 1 {
				t.Errorf("hook says it %d times, want once: %q", n, said)
			}
		}
	}
	lock, err := q.Lock() // a worker comes back
	must(t, err)
	defer lock.Unlock()
	hooktest.WantSays(t, s.run(t, s.Path("a")), "")
	s.WantRoots(t, s.Path("a"))
}

func TestForgottenQueueThatNeverWasGetsNoRoots(t *testing.T) {
	s := newSite(t)
	hooktest.WantSays(t, s.run(t, s.Path("a")), "no such file")
	then := time.Now().Add(-8 * 24 * time.Hour)
	must(t, os.Chtimes(filepath.Join(s.State, "gcroots", "larder", queue.ExpectedID(s.File), "queue"), then, then))
	hooktest.WantSays(t, s.run(t, s.Path("b")), "no worker since")
	s.WantRoots(t, s.Path("a"))
}

func TestTroubleWithRootsIsToldOnce(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	must(t, os.WriteFile(s.State, nil, 0o644)) // where a directory should be
	said := s.run(t, s.Path("a"))
	hooktest.WantSays(t, said, "make root directory")
	if n := strings.Count(said, "make root"); n != 1 {
		t.Errorf("hook says it %d times, want once: %q", n, said)
	}
	s.WantRows(t, s.Path("a"))
}

func TestPanicIsAnError(t *testing.T) {
	s := newSite(t)
	c := s.config()
	c.Getenv = func(string) string { panic("out of cheese") }
	hooktest.WantSays(t, says(Run(t.Context(), c)), "panic: out of cheese")
}

// The worker finishes an earlier job of the path after the hook has looked whether
// there is a root, and before the hook has the row in the queue.
func TestRootSurvivesAWorkerThatFinishesMeanwhile(t *testing.T) {
	s, q := newSiteWithQueue(t)
	hooktest.WantSays(t, s.run(t, s.Path("a")), "")
	job, err := q.Claim(t.Context())
	must(t, err)

	c := s.config()
	s.env["OUT_PATHS"] = s.Path("a")
	waiting := make(chan struct{})
	c.Stage = func(stage string) {
		if stage == "waiting for the queue" {
			close(waiting)
		}
	}
	done := make(chan error, 1)
	must(t, q.Done(t.Context(), job, func() error {
		// From here on nobody but us can write to the queue, and the row is as good as
		// gone.
		go func() { done <- Run(t.Context(), c) }()
		<-waiting
		s.WantRoots(t, s.Path("a"))
		return s.RootDir().Remove(s.Path("a"))
	}))
	must(t, <-done)
	s.WantRows(t, s.Path("a"))
	s.WantRoots(t, s.Path("a"))
}

// The same, at random.
func TestNoRowIsWithoutItsRoot(t *testing.T) {
	s, q := newSiteWithQueue(t)
	db, err := sql.Open("sqlite3", "file:"+s.File+"?_txlock=immediate&_busy_timeout=60000")
	must(t, err)
	defer db.Close()
	stop := make(chan struct{})
	finished := 0
	var worker sync.WaitGroup
	worker.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			job, err := q.Claim(t.Context())
			if errors.Is(err, queue.ErrEmpty) {
				continue
			}
			if err == nil {
				finished++
				err = q.Done(t.Context(), job, func() error { return s.RootDir().Remove(job.Path) })
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 300 {
		hooktest.WantSays(t, s.run(t, s.Path("a")+" "+s.Path("b")), "")
		wantRowsRooted(t, db, s)
	}
	close(stop)
	worker.Wait()
	if t.Logf("the worker finished %d jobs", finished); finished == 0 {
		t.Error("the worker did nothing")
	}
}

// wantRowsRooted fails the test if a row has no root, while nobody can write to
// the queue.
func wantRowsRooted(t *testing.T, db *sql.DB, s *site) {
	t.Helper()
	tx, err := db.Begin()
	must(t, err)
	defer tx.Rollback()
	roots := s.Roots(t)
	rows, err := tx.Query("select path from jobs")
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var path string
		must(t, rows.Scan(&path))
		if !slices.Contains(roots, path) {
			t.Fatalf("%s has a row and no root", path)
		}
	}
	must(t, rows.Err())
}

func TestOneLineIsOne(t *testing.T) {
	long := errors.Join(errors.New("first"), errors.New(strings.Repeat("ö", 100_000)))
	got := OneLine(long)
	if !strings.HasPrefix(got, "first; öö") || !strings.HasSuffix(got, "ö…") || len(got) > 1024 || !utf8.ValidString(got) {
		t.Errorf("line of %d bytes: %q", len(got), got)
	}
	if got := OneLine(errors.New("a\nb")); got != "a; b" {
		t.Errorf("line is %q", got)
	}
}
