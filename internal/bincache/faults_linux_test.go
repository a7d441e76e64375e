package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/trouble"
)

func init() {
	parts["publish without links"] = publishWithoutLinks
	parts["be nobody"] = beNobody
	parts["check if writable"] = checkWritable
}

// publishWithoutLinks is a child on a file system that knows no links.
func publishWithoutLinks(args []string) error {
	var errno syscall.Errno
	if _, err := fmt.Sscan(args[1], &errno); err != nil {
		return err
	}
	if err := trouble.Deny(syscall.SYS_LINKAT, errno); err != nil {
		return err
	}
	if err := os.Link(os.Args[0], filepath.Join(args[0], "link")); !errors.Is(err, errno) {
		return fmt.Errorf("link: %v, want %v", err, errno)
	}
	syscall.Umask(0o022)
	c, err := Create(filepath.Join(args[0], "cache"), storeDir, Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	for range 2 {
		if err := tryToPublish(c); err != nil {
			return err
		}
	}
	f, err := c.CreateTemp()
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := f.Publish(narInfoName(hello)); !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("publish again: %v, want fs.ErrExist", err)
	}
	return nil
}

func TestFileSystemWithoutLinksWillDo(t *testing.T) {
	ordinary := newCache(t)
	publish(t, ordinary, hello, "hello")
	want := snapshot(t, ordinary.Path())
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOTSUP, syscall.ENOSYS, syscall.EMLINK} {
		t.Run(errno.Error(), func(t *testing.T) {
			dir := t.TempDir()
			must(t, trouble.Command(t, "publish without links", dir, fmt.Sprint(int(errno))).Run())
			if diff := cmp.Diff(want, snapshot(t, filepath.Join(dir, "cache"))); diff != "" {
				t.Errorf("(-with links +without):\n%s", diff)
			}
		})
	}
}

// beNobody is a child that may write the cache in its argument, but not all of
// the files in it.
func beNobody(args []string) error {
	if err := trouble.BecomeNobody(); err != nil {
		return err
	}
	if dir := args[1]; dir != "" {
		c, err := Open(dir, storeDir)
		if err != nil {
			return err
		}
		if err := c.CheckWritable(); !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("check another user's cache: %v, want fs.ErrPermission", err)
		}
		// What another user left unfinished is not ours to sweep.
		if err := c.SweepTemp(0); err != nil {
			return err
		}
	}
	c, err := Open(args[0], storeDir)
	if err != nil {
		return err
	}
	if err := c.CheckWritable(); err != nil {
		return err
	}
	if _, err := c.Entry(hello); !errors.Is(err, ErrDamaged) {
		return fmt.Errorf("unreadable narinfo: %v, want ErrDamaged", err)
	}
	if err := tryToPublish(c); err != nil {
		return err
	}
	_, err = c.Entry(hello)
	return err
}

func TestUnreadableNarInfoIsReplaced(t *testing.T) {
	trouble.NeedRoot(t)
	const nobody = 65534
	top := t.TempDir()
	must(t, os.Chmod(filepath.Dir(top), 0o755)) // so that nobody gets there
	mine, theirs := create1(t, filepath.Join(top, "mine"), Options{}), create1(t, filepath.Join(top, "theirs"), Options{})
	publish(t, theirs, hello, "hello")
	must(t, os.Chmod(filepath.Join(theirs.Path(), narInfoName(hello)), 0o600))
	must(t, os.Chown(theirs.Path(), nobody, nobody))
	for _, dir := range dirs {
		must(t, os.Chown(filepath.Join(theirs.Path(), dir), nobody, nobody))
	}
	must(t, os.Chown(filepath.Join(theirs.Path(), lockFile), nobody, nobody))
	temp(t, mine, "unfinished").Close()

	must(t, trouble.Command(t, "be nobody", theirs.Path(), mine.Path()).Run())
	if left := unfinished(t, mine); len(left) != 1 {
		t.Errorf("%q are left of root's one file", left)
	}
}

// checkWritable is a child that nobody lets write, in one directory at least.
func checkWritable(args []string) error {
	if err := trouble.BecomeNobody(); err != nil {
		return err
	}
	c, err := Open(args[0], storeDir)
	if err != nil {
		return err
	}
	if err := c.CheckWritable(); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "write to "+filepath.Join(args[0], args[1])+": ") {
		return fmt.Errorf("check without the right to write to %s: %v", args[1], err)
	}
	return nil
}

func TestWhoeverMayNotWriteIsTold(t *testing.T) {
	trouble.NeedRoot(t)
	top := t.TempDir()
	must(t, os.Chmod(filepath.Dir(top), 0o755)) // so that nobody gets there
	c := create1(t, filepath.Join(top, "cache"), Options{Mode: 0o666})
	must(t, c.CheckWritable())
	for _, dir := range []string{".", tmpDir} {
		must(t, os.Chmod(filepath.Join(c.Path(), dir), 0o755))
		if err := trouble.Command(t, "check if writable", c.Path(), dir).Run(); err != nil {
			t.Error(err)
		}
		must(t, os.Chmod(filepath.Join(c.Path(), dir), 0o777))
	}
}

// Root may write everywhere, but not there.
func TestReadOnlyFileSystemIsFoundOut(t *testing.T) {
	disk := trouble.Tmpfs(t, "8m")
	c := create1(t, filepath.Join(disk, "cache"), Options{})
	must(t, c.CheckWritable())
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	again, err := Open(c.Path(), storeDir)
	must(t, err)
	defer again.Close()
	if err := again.CheckWritable(); !errors.Is(err, syscall.EROFS) {
		t.Errorf("error is %v, want EROFS", err)
	}
}
