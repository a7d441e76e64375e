package bincache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/trouble"
)

func TestPublishedFileIsThereOnce(t *testing.T) {
	c := newCache(t)
	first, second := temp(t, c, "first"), temp(t, c, "second")
	must(t, first.Publish("nar/x"))
	if err := second.Publish("nar/x"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("publish again: %v, want fs.ErrExist", err)
	}
	// The second one is as it was.
	if _, err := second.WriteString(" and more"); err != nil {
		t.Error(err)
	}
	must(t, second.Publish("nar/y"))
	first.Discard()
	second.Discard()
	for name, want := range map[string]string{"nar/x": "first", "nar/y": "second and more"} {
		if got, err := os.ReadFile(filepath.Join(c.Path(), name)); string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

// TestOnlyOnePublisherWins has many publish under one name at a time.
func TestOnlyOnePublisherWins(t *testing.T) {
	c := newCache(t)
	for round := range 20 {
		name := fmt.Sprintf("nar/%d", round)
		var won sync.Map
		var all sync.WaitGroup
		for i := range 8 {
			f := temp(t, c, fmt.Sprint(i))
			all.Go(func() {
				err := f.Publish(name)
				f.Discard()
				if err == nil {
					won.Store(fmt.Sprint(i), true)
				} else if !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		text, err := os.ReadFile(filepath.Join(c.Path(), name))
		must(t, err)
		winners := 0
		won.Range(func(any, any) bool { winners++; return true })
		if _, ok := won.Load(string(text)); !ok || winners != 1 {
			t.Errorf("%d think that they published %s", winners, name)
		}
	}
}

func TestDiscardedFileLeavesNothing(t *testing.T) {
	c := newCache(t)
	temp(t, c, "x").Discard()
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

// holdFile is a child that makes an unfinished file and keeps it until it is
// killed.
func holdFile(args []string) error {
	c, err := Open(args[0], storeDir)
	if err != nil {
		return err
	}
	f, err := c.CreateTemp()
	if err != nil {
		return err
	}
	fmt.Println(path.Base(f.Name()))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func TestSweepTakesWhatDeadWritersLeft(t *testing.T) {
	c := newCache(t)
	child := trouble.Command(t, "hold a file", c.Path())
	stdin, err := child.StdinPipe()
	must(t, err)
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	var name string
	_, err = fmt.Fscanln(stdout, &name)
	must(t, err)
	mine := temp(t, c, "mine")
	defer mine.Discard()

	old := time.Now().Add(-time.Hour)
	age := func() {
		t.Helper()
		for _, name := range append(unfinished(t, c), ".keep") {
			must(t, os.Chtimes(filepath.Join(c.Path(), tmpDir, name), old, old))
		}
	}
	sweep := func(want ...string) {
		t.Helper()
		must(t, c.SweepTemp(time.Minute))
		left := make(map[string]bool)
		for _, name := range unfinished(t, c) {
			left[name] = true
		}
		for _, name := range want {
			if !left[name] {
				t.Errorf("%s was swept", name)
			}
		}
		if len(left) != len(want) {
			t.Errorf("sweep left %v, want %q", left, want)
		}
	}
	age()
	sweep(name, path.Base(mine.Name())) // both writers are alive

	must(t, child.Process.Kill())
	_ = child.Wait()
	dead := filepath.Join(c.Path(), tmpDir, name)
	must(t, os.Chtimes(dead, time.Now(), time.Now()))
	sweep(name, path.Base(mine.Name())) // it is young: its writer may not have come to lock it

	age()
	sweep(path.Base(mine.Name()))
	if _, err := os.Stat(filepath.Join(c.Path(), tmpDir, ".keep")); err != nil {
		t.Error(err)
	}
}

// TestSweepersDoNotDisturbEachOther has several sweep the same files, as when
// several commands start at the same moment.
func TestSweepersDoNotDisturbEachOther(t *testing.T) {
	c := newCache(t)
	for round := range 5 {
		for i := range 100 {
			must(t, os.WriteFile(filepath.Join(c.Path(), tmpDir, fmt.Sprintf("host-%d-%d", round, i)), nil, 0o644))
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := c.SweepTemp(0); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if left := unfinished(t, c); len(left) > 0 {
			t.Errorf("%d files were left", len(left))
		}
	}
}

func TestLockIsHeldByOne(t *testing.T) {
	c := newCache(t)
	must(t, os.Remove(filepath.Join(c.Path(), lockFile))) // as a copy of the cache may have
	var all sync.WaitGroup
	var holders atomic.Int32
	for range 8 {
		all.Go(func() {
			unlock, err := c.lock(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if n := holders.Add(1); n != 1 {
				t.Errorf("%d hold the lock", n)
			}
			holders.Add(-1)
			if err := unlock(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestLockIsWaitedForNoLongerThanWanted(t *testing.T) {
	c := newCache(t)
	unlock, err := c.lock(t.Context())
	must(t, err)
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("lock: %v, want context.DeadlineExceeded", err)
	}
}

// TestNothingIsWrittenOutside plants links that lead out of the cache wherever
// something is written.
func TestNothingIsWrittenOutside(t *testing.T) {
	nar := narInfo(hello, "hello").URL
	for _, planted := range []string{
		"nar", "log", ".larder", tmpDir, lockFile, ".keep", "nar/.keep", "CACHEDIR.TAG", infoFile, nar, narInfoName(hello),
	} {
		for _, target := range []string{"directory", "file", "missing"} {
			t.Run(planted+" to "+target, func(t *testing.T) {
				outside := t.TempDir()
				must(t, os.Mkdir(filepath.Join(outside, "directory"), 0o755))
				must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("01234"), 0o600))
				before := snapshot(t, outside)

				dir := filepath.Join(t.TempDir(), "cache")
				create1(t, dir, Options{}).Close()
				link := filepath.Join(dir, planted)
				must(t, os.RemoveAll(link))
				must(t, os.Symlink(filepath.Join(outside, target), link))

				// Which of it succeeds does not matter.
				if c, err := Create(dir, storeDir, Options{}); err == nil {
					defer c.Close()
					_ = c.SweepTemp(0)
					_ = c.CheckWritable()
					for range 2 {
						_ = tryToPublish(c)
					}
					// The narinfo is damaged: this one takes the lock.
					_ = os.Truncate(filepath.Join(dir, narInfoName(hello)), 0)
					must(t, os.RemoveAll(filepath.Join(outside, "file")))
					must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("01234"), 0o600))
					_ = tryToPublish(c)
				}
				if diff := cmp.Diff(before, snapshot(t, outside)); diff != "" {
					t.Errorf("outside (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// tryToPublish publishes an entry, if that is possible.
func tryToPublish(c *Cache) error {
	n := narInfo(hello, "hello")
	f, err := c.CreateTemp()
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := f.WriteString("hello"); err != nil {
		return err
	}
	if err := c.PublishNar(f, n.URL); err != nil {
		return err
	}
	info, err := c.TempNarInfo(n)
	if err != nil {
		return err
	}
	defer info.Discard()
	_, err = c.PublishNarInfo(context.Background(), info, hello)
	return err
}
