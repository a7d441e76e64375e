package plainfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFileIsRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []int{os.O_RDONLY, os.O_RDONLY | syscall.O_NONBLOCK} {
		f, err := Open(name, flag)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err != nil || string(text) != "text" {
			t.Errorf("with %#x it says %q, %v", flag, text, err)
		}
		if f.Name() != name {
			t.Errorf("it is called %s, want %s", f.Name(), name)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestErrorIsLikeThatOfPackageOS(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	_, err := Open(name, os.O_RDONLY)
	_, want := os.Open(name)
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != want.Error() {
		t.Errorf("error is %v, want %v", err, want)
	}
}

// A pipe that somebody planted must not hold whoever opens it.
func TestPipeIsNotWaitedFor(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(name, os.O_RDONLY|syscall.O_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
