package cachemerge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

func init() {
	parts["merge as nobody"] = func(args []string) error {
		if err := trouble.BecomeNobody(); err != nil {
			return err
		}
		syscall.Umask(0o077)
		r, err := mergeIn(context.Background(), args[0], args[1:]...)
		fmt.Printf("%d linked, %d lost", r.LinkedBytes, r.Lost())
		return err
	}
	parts["merge without links"] = func(args []string) error {
		if err := trouble.Deny(syscall.SYS_LINKAT, syscall.EPERM); err != nil {
			return err
		}
		_, err := mergeIn(context.Background(), args[0], args[1:]...)
		return err
	}
}

func TestFileSystemWithoutLinksIsCopiedTo(t *testing.T) {
	sources, target := overlapping(t), filepath.Join(t.TempDir(), "cache")
	must(t, trouble.Command(t, "merge without links", append([]string{target}, sources...)...).Run())
	if r := merge(t, target, sources...); r.Present != len(overlappingNames) {
		t.Errorf("result is %+v, want all present", r)
	}
	if i := (item{name: "libc"}); sameFile(t, narFile(sources[0], i), narFile(target, i)) {
		t.Error("NAR was linked")
	}
}

func TestOtherFileSystemIsCopiedFrom(t *testing.T) {
	source := filepath.Join(trouble.Tmpfs(t, "8m"), "cache")
	fill(t, source, named("a", "b")...)
	target := filepath.Join(t.TempDir(), "cache")
	r := merge(t, target, source)
	has(t, target, "a", "b")
	if r.LinkedBytes != 0 || r.CopiedBytes == 0 {
		t.Errorf("result is %+v, want all copied", r)
	}
	file := narFile(target, item{name: "a"})
	info, err := os.Stat(file)
	must(t, err)
	if info.Mode() != 0o644 {
		t.Errorf("mode of %s is %v", file, info.Mode())
	}
}

// TestFullDiskIsNobodysFault merges what does not fit, makes room, and goes on.
func TestMergeGoesOnAfterAFullDisk(t *testing.T) {
	var items []item
	for i := range 100 {
		items = append(items, item{name: fmt.Sprint("item-", i), text: strings.Repeat(fmt.Sprint(i, "\n"), 10_000)})
		if i > 0 {
			items[i].refs = []string{items[i-1].name}
		}
	}
	source, disk := newCache(t, items...), trouble.Tmpfs(t, "2m")
	target, ballast := filepath.Join(disk, "cache"), filepath.Join(disk, "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 1<<20), 0o644))
	r, err := mergeIn(t.Context(), target, source)
	if !errors.Is(err, syscall.ENOSPC) || r.Damaged != nil || r.LeftOut != nil {
		t.Errorf("result is %+v, %v; want ENOSPC and nothing else", r, err)
	}
	for _, problem := range problems(target) {
		t.Error(problem)
	}
	must(t, os.Remove(ballast))
	must(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT, "size=16m"))
	merge(t, target, source)
	if count := entries(t, target); count != len(items) {
		t.Errorf("%d entries, want %d", count, len(items))
	}
	nothingUnfinished(t, target)
}

// TestFileThatSomebodyElseOwnsIsCopied: its owner could change it later.
func TestOnlyAFileThatFitsIsLinked(t *testing.T) {
	trouble.NeedRoot(t)
	const other, group = 4711, 815
	for name, c := range map[string]struct {
		change     func(nar string) error
		targetMode os.FileMode
		linked     bool
	}{
		"same":                    {func(string) error { return nil }, 0o644, true},
		"other mode":              {func(nar string) error { return os.Chmod(nar, 0o444) }, 0o644, false},
		"other owner":             {func(nar string) error { return os.Chown(nar, other, -1) }, 0o644, false},
		"other group, all read":   {func(nar string) error { return os.Chown(nar, -1, group) }, 0o644, true},
		"other group, group only": {func(nar string) error { return errors.Join(os.Chown(nar, -1, group), os.Chmod(nar, 0o640)) }, 0o640, false},
		"same group, group only":  {func(nar string) error { return os.Chmod(nar, 0o640) }, 0o640, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := item{name: "a"}
			source, target := newCache(t, a), filepath.Join(t.TempDir(), "cache")
			must(t, c.change(narFile(source, a)))
			cache, err := bincache.Create(target, storeDir, bincache.Options{Mode: c.targetMode})
			must(t, err)
			must(t, cache.Close())
			merge(t, target, source)
			if linked := sameFile(t, narFile(source, a), narFile(target, a)); linked != c.linked {
				t.Errorf("linked is %v, want %v", linked, c.linked)
			}
			info, err := os.Stat(narFile(target, a))
			must(t, err)
			if sys := info.Sys().(*syscall.Stat_t); info.Mode() != c.targetMode || sys.Uid != 0 {
				t.Errorf("mode is %v, owner %d", info.Mode(), sys.Uid)
			}
		})
	}
}

// TestUserMergesCachesOfOthers: of root, which the system's rules for links protect,
// with a file that nobody else may read.
func TestUserMergesCachesOfOthers(t *testing.T) {
	trouble.NeedRoot(t)
	top := t.TempDir()
	must(t, os.Chmod(filepath.Dir(top), 0o755))
	const nobody = 65534
	source, home := filepath.Join(top, "source"), filepath.Join(top, "home")
	fill(t, source, item{name: "a"}, item{name: "secret"}, item{name: "on-secret", refs: []string{"secret"}})
	must(t, os.Chmod(narFile(source, item{name: "secret"}), 0o600))
	must(t, os.Mkdir(home, 0o755))
	must(t, os.Chown(home, nobody, nobody))
	write(t, filepath.Join(source, "log/secret.drv"), "secret")
	must(t, os.Chmod(filepath.Join(source, "log/secret.drv"), 0o600))
	must(t, os.Chmod(filepath.Join(source, "realisations"), 0o700))
	target := filepath.Join(home, "cache")
	cmd := trouble.Command(t, "merge as nobody", target, source)
	out, err := cmd.Output()
	must(t, err)
	if want := "0 linked, 1 lost"; string(out) != want {
		t.Errorf("it says %q, want %q", out, want)
	}
	has(t, target, "a")
	for _, problem := range problems(target) {
		t.Error(problem)
	}
	info, err := os.Stat(narFile(target, item{name: "a"}))
	must(t, err)
	if info.Mode() != 0o644 {
		t.Errorf("mode is %v", info.Mode())
	}
}
