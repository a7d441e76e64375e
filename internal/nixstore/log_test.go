package nixstore

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/nixtest"
)

func logDirs(nix *nixtest.Store) Dirs { return Dirs{Store: nix.Dir, State: nix.State, Log: nix.Log} }

func readLog(t *testing.T, d Dirs, drv string) string {
	t.Helper()
	r, err := d.OpenLog(drv)
	must(t, err)
	defer r.Close()
	text, err := io.ReadAll(r)
	must(t, err)
	return string(text)
}

// noLog fails the test if there is a log.
func noLog(t *testing.T, d Dirs, drv string) {
	t.Helper()
	if d.HasLog(drv) {
		t.Errorf("%q has a log", drv)
	}
	if _, err := d.OpenLog(drv); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open log of %q: %v, want fs.ErrNotExist", drv, err)
	}
}

func TestLogIsWhatTheBuilderPrinted(t *testing.T) {
	for name, conf := range map[string]string{".bz2": "", "": "compress-build-log = false"} {
		nix := nixtest.New(t, conf)
		d := logDirs(nix)
		out := nix.Build(t, `build "talks" "echo one; echo two >&2; echo > $out" { }`)[0]
		drv := nix.Run(t, "nix-store", "--query", "--deriver", out)
		if files, _ := filepath.Glob(nix.Log + "/drvs/*/*.drv" + name); len(files) != 1 {
			t.Fatalf("Nix has the logs %q", files)
		}
		if got := readLog(t, d, drv); got != "one\ntwo\n" || !d.HasLog(drv) {
			t.Errorf("log is %q", got)
		}
		noLog(t, d, out)
		noLog(t, d, strings.Replace(drv, "talks", "other", 1))
	}
}

// TestLogsThatCompressWellAreReadInWhole has logs of which little is left.
func TestLogsThatCompressWellAreReadInWhole(t *testing.T) {
	nix := nixtest.New(t)
	d := logDirs(nix)
	for name, want := range map[string]string{
		"none": "", "lines": strings.Repeat("one line after the other\n", 12_000), "same": strings.Repeat("a", 3<<20) + "\n",
	} {
		file := filepath.Join(t.TempDir(), "text")
		must(t, os.WriteFile(file, []byte(want), 0o644))
		out := nix.Build(t, `build "`+name+`" "cat `+file+`; echo > $out" { }`)[0]
		drv := nix.Run(t, "nix-store", "--query", "--deriver", out)
		info, err := os.Stat(d.logFiles(drv)[1])
		must(t, err)
		if info.Size() > smallLog {
			t.Errorf("%s: the log has %d bytes, which says nothing", name, info.Size())
		}
		if got := readLog(t, d, drv); got != want {
			t.Errorf("%s: log has %d bytes, want %d", name, len(got), len(want))
		}
	}
}

// Who names a derivation may be somebody who wrote into a cache.
func TestLogOfWhatIsNoDerivationIsNotLookedFor(t *testing.T) {
	dir := t.TempDir()
	d := Dirs{Store: "/nix/store", Log: filepath.Join(dir, "log")}
	must(t, os.MkdirAll(filepath.Join(d.Log, logsDir, "aa"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "secret.drv"), []byte("secret"), 0o644))
	name := strings.Repeat("a", hashLen) + "-x.drv"
	must(t, os.Symlink(filepath.Join(dir, "secret.drv"), filepath.Join(d.Log, logsDir, "aa", name[2:])))
	for _, drv := range []string{"", "x.drv", "/nix/store/../../secret.drv", "/nix/store/" + strings.Repeat("../", 11) + "x.drv", "/elsewhere/" + name} {
		noLog(t, d, drv)
	}
	if _, err := d.OpenLog("/nix/store/" + name); err == nil {
		t.Error("a link is followed")
	}
	noLog(t, Dirs{Store: "/nix/store"}, "/nix/store/"+name)
}

func TestLogThatIsStillWrittenHasNoEnd(t *testing.T) {
	nix := nixtest.New(t)
	d := logDirs(nix)
	out := nix.Build(t, `build "talks" "echo one; echo > $out" { }`)[0]
	drv := nix.Run(t, "nix-store", "--query", "--deriver", out)
	file := d.logFiles(drv)[1]
	whole, err := os.ReadFile(file)
	must(t, err)
	for _, size := range []int{0, 2, len(whole) / 2, len(whole) - 1} {
		must(t, os.Truncate(file, int64(size)))
		r, err := d.OpenLog(drv)
		must(t, err)
		if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v, want io.ErrUnexpectedEOF", size, len(whole), err)
		}
		must(t, r.Close())
		must(t, os.WriteFile(file, whole, 0o644))
	}
}

func TestNewLogsAreFoundByTheirTimes(t *testing.T) {
	d := Dirs{Store: "/nix/store", Log: t.TempDir()}
	now := time.Now()
	logsSince := func(since time.Time) []string {
		t.Helper()
		found, err := d.LogsSince(since)
		must(t, err)
		return slices.Sorted(maps.Keys(found))
	}
	if got := logsSince(time.Time{}); got != nil {
		t.Errorf("before the first build: %q", got)
	}
	write := func(name string, age time.Duration) string {
		t.Helper()
		file := filepath.Join(d.Log, logsDir, name[:2], name[2:])
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, nil, 0o644))
		must(t, os.Chtimes(file, now.Add(-age), now.Add(-age)))
		return "/nix/store/" + strings.TrimSuffix(name, ".bz2")
	}
	hash := strings.Repeat("1", hashLen-1)
	old := write("a"+hash+"-old.drv.bz2", time.Hour)
	young := write("b"+hash+"-young.drv.bz2", 0)
	plain := write("b"+hash+"-plain.drv", time.Minute)
	write("b"+hash+"-not", 0)
	write("nonsense.drv", 0)
	if got, want := logsSince(now.Add(-time.Minute)), []string{plain, young}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if got, want := logsSince(time.Time{}), []string{old, plain, young}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	found, err := d.LogsSince(now)
	if err != nil || len(found) != 1 || !found[young].Equal(now.Round(0)) {
		t.Errorf("found %v, %v, want %s of %s", found, err, young, now)
	}
}
