package cachewriter

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
)

// everyKind builds paths of every kind, with their closure, some of it signed.
func everyKind(t *testing.T, f *fixture) (paths, closure []string) {
	t.Helper()
	paths = f.nix.Build(t, `let
		base = build "base" "mkdir -p $out/empty; echo base > $out/.hidden; echo up > $out/..up; ln -s /nowhere $out/link" { };
		fixed = build "fixed" "echo fixed > $out" { outputHash = "`+bincache.Hash(sha256.Sum256([]byte("fixed\n"))).String()+`"; };
		text = builtins.toFile "text" "see ${builtins.toFile "other" ""}";
		left = build "left" "echo $base $fixed > $out" { inherit base fixed; };
		right = build "right" "echo $base $out > $out; chmod +x $out" { inherit base; };
		in (build "all" "mkdir $out; echo $out $left $right $text > $out/refs; echo $out > $dev; head -c 3000000 /dev/zero > $doc" {
			inherit left right text;
			outputs = [ "out" "dev" "doc" ];
		}).all`)
	key := filepath.Join(t.TempDir(), "key")
	f.nix.Run(t, "nix-store", "--generate-binary-cache-key", "test-1", key, key+".pub")
	f.nix.Run(t, "nix", append([]string{"store", "sign", "--key-file", key, "-r"}, paths[:2]...)...)
	paths = append(paths, f.nix.Add(t, "source", strings.Repeat("source\n", 1000)))
	return paths, f.nix.Lines(t, "nix-store", append([]string{"-qR"}, paths...)...)
}

// TestCacheIsTheOneThatNixWrites compares every entry byte for byte.
func TestCacheIsTheOneThatNixWrites(t *testing.T) {
	f := newFixture(t)
	paths, closure := everyKind(t, f)
	r := f.copy(t, Options{Compression: compress.Method{Name: "none"}}, paths...)
	if r.Paths != len(closure) || r.Copied != len(closure) {
		t.Errorf("result is %+v, want %d paths", r, len(closure))
	}
	theirs := t.TempDir()
	f.nix.Run(t, "nix", append([]string{"copy", "--to", "file://" + theirs + "?compression=none"}, paths...)...)
	if diff := cmp.Diff(entryFiles(t, theirs), entryFiles(t, f.dir)); diff != "" {
		t.Errorf("(-nix +larder):\n%s", diff)
	}
	var size int64
	for name, text := range entryFiles(t, f.dir) {
		if strings.HasPrefix(name, "nar/") {
			size += int64(len(text))
		}
	}
	if r.NarBytes != size || r.FileBytes != size {
		t.Errorf("result is %+v, want %d bytes", r, size)
	}
	f.check(t)
}

// entryFiles returns all narinfos and NARs.
func entryFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, pattern := range []string{"*.narinfo", "nar/*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		must(t, err)
		for _, name := range names {
			text, err := os.ReadFile(name)
			must(t, err)
			files[strings.TrimPrefix(name, dir+"/")] = string(text)
		}
	}
	delete(files, "nar/.keep")
	return files
}

func TestNixAgreesWithTheCache(t *testing.T) {
	for _, compression := range []compress.Method{compress.Default, {Name: "zstd", Level: 19}, {Name: "xz", Level: 0}, {Name: "none"}} {
		t.Run(compression.String(), func(t *testing.T) {
			f := newFixture(t)
			paths, closure := everyKind(t, f)
			f.copy(t, Options{Compression: compression}, paths...)
			f.check(t)
			url := "file://" + f.dir
			f.nix.Run(t, "nix", "store", "verify", "--store", url, "--all", "--no-trust")
			infos := f.nix.Lines(t, "nix", append([]string{"path-info", "-r", "--store", url}, paths...)...)
			if diff := cmp.Diff(set(closure), set(infos)); diff != "" {
				t.Errorf("nix path-info -r (-want +got):\n%s", diff)
			}

			// A store that never heard of these paths gets them all, bit by bit.
			hashes := f.nix.Run(t, "nix-store", append([]string{"-q", "--hash"}, closure...)...)
			f.nix.Forget(t)
			f.nix.Run(t, "nix-store", append([]string{"--realise", "--max-jobs", "0", "--option", "substituters", url + "?trusted=1"}, paths...)...)
			f.nix.Run(t, "nix-store", "--verify", "--check-contents")
			if got := f.nix.Run(t, "nix-store", append([]string{"-q", "--hash"}, closure...)...); got != hashes {
				t.Error("the hashes are others now")
			}
		})
	}
}

func set(list []string) map[string]bool {
	set := make(map[string]bool)
	for _, x := range list {
		set[x] = true
	}
	return set
}

func TestSecondCopyTouchesNothing(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 50)
	w := f.writer(t, Options{})
	first, err := w.Copy(t.Context(), top)
	must(t, err)
	before := stats(t, f.dir)

	again, err := w.Copy(t.Context(), top) // what it remembers
	must(t, err)
	fresh := f.copy(t, Options{}, top) // what it sees
	other := f.copy(t, Options{Compression: compress.Method{Name: "none"}}, top)
	if first.Copied != 50 || again != (Result{}) || fresh != (Result{Paths: 50}) || other != (Result{Paths: 50}) {
		t.Errorf("results are %+v, %+v, %+v, %+v", first, again, fresh, other)
	}
	if diff := cmp.Diff(before, stats(t, f.dir)); diff != "" {
		t.Errorf("files were touched (-before +after):\n%s", diff)
	}
}

// stats returns the inode and the time of change of every narinfo and NAR.
func stats(t *testing.T, dir string) map[string][2]int64 {
	t.Helper()
	stats := make(map[string][2]int64)
	for name := range entryFiles(t, dir) {
		var s unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, name), &s))
		stats[name] = [2]int64{int64(s.Ino), s.Ctim.Nano()}
	}
	return stats
}

func TestOnlyWhatIsMissingIsCopied(t *testing.T) {
	f := newFixture(t)
	closure := f.nix.Lines(t, "nix-store", "-qR", f.nix.AddTexts(t, "text", 50))
	half, top := closure[24], closure[49]
	f.copy(t, Options{}, half)
	before := stats(t, f.dir)
	r := f.copy(t, Options{}, top)
	if r.Paths != 50 || r.Copied != 50-len(before)/2 {
		t.Errorf("%+v with %d entries there", r, len(before)/2)
	}
	after := stats(t, f.dir)
	for name, stat := range before {
		if after[name] != stat {
			t.Errorf("%s was touched", name)
		}
	}
	f.check(t)
}

// TestOnlyWhatIsMissingOfManyIsCopied has more paths than are looked at together: at first
// those that are found first are missing, and then a few of all.
func TestOnlyWhatIsMissingOfManyIsCopied(t *testing.T) {
	const count = 3 * lookAhead
	f := newFixture(t)
	closure := f.nix.Lines(t, "nix-store", "-qR", f.nix.AddTexts(t, "text", count))
	top := closure[count-1]
	f.copy(t, Options{}, closure[lookAhead-1])
	if r := f.copy(t, Options{}, top); r.Paths != count || r.Copied != count-lookAhead {
		t.Errorf("%+v, want %d paths, and %d of them copied", r, count, count-lookAhead)
	}
	f.check(t)
	for i, place := range []int{0, 1, lookAhead, 2*lookAhead + 7, count - 1} {
		narInfo, nar := f.entry(t, closure[place])
		if i%2 == 0 {
			must(t, os.Remove(narInfo))
		} else {
			must(t, os.Truncate(nar, 20))
		}
	}
	if r := f.copy(t, Options{}, top); r.Paths != count || r.Copied != 5 {
		t.Errorf("%+v, want %d paths, and 5 of them copied", r, count)
	}
	f.check(t)
}

func TestPathThatIsNotInTheStoreIsSaidToBe(t *testing.T) {
	f := newFixture(t)
	good := f.nix.Add(t, "good", "good")
	gone := f.nix.Add(t, "gone", "gone")
	f.nix.Run(t, "nix-store", "--delete", gone)
	w := f.writer(t, Options{})
	for _, paths := range [][]string{{gone}, {good, gone}, {good, f.nix.Dir + "/no-store-path"}} {
		_, err := w.Copy(t.Context(), paths...)
		if !errors.Is(err, ErrNotInStore) || !strings.Contains(err.Error(), paths[len(paths)-1]) {
			t.Errorf("error is %v, want ErrNotInStore for %s", err, paths[len(paths)-1])
		}
	}
	f.hasNot(t, good, gone)
}

func TestDumpersHelpWithALargePath(t *testing.T) {
	const frame = 8 << 20
	f := newFixture(t)
	path := f.nix.Add(t, "large", string(sample(6*frame)))
	w := f.writer(t, Options{Workers: 2})
	_, err := w.Copy(t.Context(), path)
	must(t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.exchange.Spare() == 0 {
		t.Error("no frame was left for the other dumper")
	}
}
