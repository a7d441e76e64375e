package nar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// writerFunc is a writer that looks at what is going on, or meddles with it.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// onFirstWrite returns a writer to buf that calls f before it takes anything.
// Dump has read one block by then, and has more to read.
func onFirstWrite(buf *bytes.Buffer, f func()) io.Writer {
	called := false
	return writerFunc(func(p []byte) (int, error) {
		if !called {
			called = true
			f()
		}
		return buf.Write(p)
	})
}

func TestShrinkingFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	tree{mode: 0o644, data: strings.Repeat("x", 4*blockSize)}.create(t, path)
	var d Dumper
	_, err := d.Dump(t.Context(), onFirstWrite(new(bytes.Buffer), func() {
		if err := os.Truncate(path, 2*blockSize); err != nil {
			t.Error(err)
		}
	}), path)
	want := fmt.Sprintf("read %s: size is %d now, want %d: unexpected EOF", path, 2*blockSize, 4*blockSize)
	if err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v does not wrap io.ErrUnexpectedEOF", err)
	}
}

func TestGrowingFileHasItsFirstSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	tr := tree{mode: 0o644, data: strings.Repeat("x", 4*blockSize)}
	tr.create(t, path)
	var d Dumper
	var buf bytes.Buffer
	if _, err := d.Dump(t.Context(), onFirstWrite(&buf, func() {
		if err := os.Truncate(path, 9*blockSize); err != nil {
			t.Error(err)
		}
	}), path); err != nil {
		t.Fatal(err)
	}
	diff(t, "Dump", buf.Bytes(), []byte(tr.nar()))
}

func TestVanishedFileIsNotExist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	var d Dumper
	check := func(err error, name string) {
		t.Helper()
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("error is %v, want one that wraps fs.ErrNotExist and names %s", err, name)
		}
	}
	_, err := d.Dump(t.Context(), io.Discard, path)
	check(err, path)

	directory(map[string]tree{"a": file(strings.Repeat("x", 4*blockSize)), "b": file("")}).create(t, path)
	b := filepath.Join(path, "b")
	_, err = d.Dump(t.Context(), onFirstWrite(new(bytes.Buffer), func() {
		if err := os.Remove(b); err != nil {
			t.Error(err)
		}
	}), path)
	check(err, b)
}

func TestNothingOutsideIsRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	big := file(strings.Repeat("x", 4*blockSize))
	tr := directory(map[string]tree{
		"a": directory(map[string]tree{"big": big, "c": file("inside")}),
		"b": file("inside"),
	})
	outside := directory(map[string]tree{"b": file("outside"), "c": file("outside")})
	outside.create(t, filepath.Join(dir, "outside"))

	t.Run("directory becomes symlink", func(t *testing.T) {
		tr.create(t, path)
		var d Dumper
		var buf bytes.Buffer
		if _, err := d.Dump(t.Context(), onFirstWrite(&buf, func() {
			if err := errors.Join(os.Rename(path+"/a", dir+"/moved"), os.Symlink("../outside", path+"/a")); err != nil {
				t.Error(err)
			}
		}), path); err != nil {
			t.Fatal(err)
		}
		diff(t, "Dump", buf.Bytes(), []byte(tr.nar()))
	})

	t.Run("file becomes symlink", func(t *testing.T) {
		path := path + "2"
		tr.create(t, path)
		var d Dumper
		var buf bytes.Buffer
		_, err := d.Dump(t.Context(), onFirstWrite(&buf, func() {
			if err := errors.Join(os.Remove(path+"/b"), os.Symlink("../outside/b", path+"/b")); err != nil {
				t.Error(err)
			}
		}), path)
		// Some file systems don't list types: there the symlink is seen in time.
		if err != nil && !strings.Contains(err.Error(), path+"/b: ") {
			t.Errorf("error is %v, want one that names %s/b", err, path)
		}
		if strings.Contains(buf.String(), str("outside")) {
			t.Error("the symlink was followed")
		}
	})
}

// TestReplacedFileIsNotFollowed has one goroutine swap a file for a symlink all
// the time, to hit the instant between looking at a file and opening it.
func TestReplacedFileIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	directory(map[string]tree{"f": file("inside")}).create(t, path)
	file("outside").create(t, filepath.Join(dir, "outside"))

	ctx, cancel := context.WithCancel(t.Context())
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		for ctx.Err() == nil {
			for _, tr := range []tree{symlink("../outside"), file("inside")} {
				tr.create(t, filepath.Join(dir, "new"))
				if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(path, "f")); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	var d Dumper
	var buf bytes.Buffer
	refused := 0
	for range 20_000 {
		buf.Reset()
		_, err := d.Dump(t.Context(), &buf, path)
		if err != nil {
			refused++
		} else if strings.Contains(buf.String(), str("outside")) {
			t.Error("a symlink was followed")
			break
		}
	}
	cancel()
	<-swapped
	t.Logf("refused %d times", refused)
}

func TestOtherTypesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	directory(map[string]tree{"a": file("")}).create(t, path)
	fifo := filepath.Join(path, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	var d Dumper
	for _, p := range []string{path, fifo} {
		_, err := d.Dump(t.Context(), io.Discard, p)
		if want := "dump " + fifo + ": not a regular file, directory or symlink"; err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
}

func TestTooDeepIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	tr := directory(nil)
	for range maxDepth - 1 {
		tr = directory(map[string]tree{"d": tr})
	}
	tr.create(t, path)
	diff(t, "Dump", dump(t, path), []byte(tr.nar()))

	path += "2"
	directory(map[string]tree{"d": tr}).create(t, path)
	var d Dumper
	_, err := d.Dump(t.Context(), io.Discard, path)
	if err == nil || !strings.Contains(err.Error(), "more than 256 directories inside each other") {
		t.Errorf("error is %v, want one about too many directories", err)
	}
}

func TestWriterErrorIsPassedOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	directory(map[string]tree{"a": directory(map[string]tree{"b": file(strings.Repeat("x", 4*blockSize))})}).create(t, path)
	full := errors.New("disk full")
	for writes := range 4 {
		var d Dumper
		var taken int64
		n, err := d.Dump(t.Context(), writerFunc(func(p []byte) (int, error) {
			if writes == 0 {
				taken += 5
				return 5, full
			}
			writes--
			taken += int64(len(p))
			return len(p), nil
		}), path)
		if err != full {
			t.Errorf("error is %v, want %v", err, full)
		}
		if n != taken {
			t.Errorf("Dump returned %d, the writer took %d bytes", n, taken)
		}

		// The next dump starts afresh.
		var buf bytes.Buffer
		if _, err := d.Dump(t.Context(), &buf, path); err != nil {
			t.Fatal(err)
		}
		diff(t, "Dump after an error", buf.Bytes(), dump(t, path))
	}

	var d Dumper
	if _, err := d.Dump(t.Context(), writerFunc(func(p []byte) (int, error) { return len(p) - 1, nil }), path); err != io.ErrShortWrite {
		t.Errorf("error is %v, want %v", err, io.ErrShortWrite)
	}
}

func TestCanceledDumpStops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	file(strings.Repeat("x", 8*blockSize)).create(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	var buf bytes.Buffer
	var d Dumper
	n, err := d.Dump(ctx, onFirstWrite(&buf, cancel), path)
	if !errors.Is(err, context.Canceled) || n != blockSize {
		t.Errorf("Dump returned %d, %v, want %d and context.Canceled", n, err, blockSize)
	}
	n, err = d.Dump(ctx, &buf, path)
	if !errors.Is(err, context.Canceled) || n != 0 {
		t.Errorf("Dump returned %d, %v, want 0 and context.Canceled", n, err)
	}
}

func TestErrorsLeaveNoDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	big := file(strings.Repeat("x", 4*blockSize))
	directory(map[string]tree{"a": directory(map[string]tree{"b": directory(map[string]tree{"c": big})})}).create(t, path)
	if err := unix.Mkfifo(filepath.Join(path, "a/b/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	descriptors := func() int {
		entries, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}

	before := descriptors()
	var d Dumper
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		for _, try := range []struct {
			ctx context.Context
			w   io.Writer
		}{
			{t.Context(), io.Discard}, // finds the pipe
			{t.Context(), writerFunc(func([]byte) (int, error) { return 0, io.ErrClosedPipe })},
			{ctx, onFirstWrite(new(bytes.Buffer), cancel)},
		} {
			if _, err := d.Dump(try.ctx, try.w, path); err == nil {
				t.Error("Dump succeeded, want an error")
			}
		}
	}
	if after := descriptors(); after > before {
		t.Errorf("%d descriptors are open, want %d", after, before)
	}
}
