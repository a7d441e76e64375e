package compress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// xzPiece is how much the program is given at a time: the slowest level takes some 50 ms
// for it.
const xzPiece = 64 << 10

// xz has the program xz compress a frame, in a process of its own. There is no library in
// Go that is as good at it, and liblzma is a thing of C that would have to be built.
//
// It is told to use one thread, and what users set for it does not count: so the same
// NAR becomes the same file, and it takes as much memory as xz(1) says for the level,
// from 3 MiB to 674.
func (f *Frames) xz(level int, one *Frame) ([]byte, error) {
	program, err := xzProgram()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out, said := bytes.NewBuffer(f.out[:0]), new(bytes.Buffer)
	cmd := xzCommand(ctx, program, level)
	cmd.Stdout, cmd.Stderr = out, said // copied by other goroutines, until Wait returns
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// By this thread, whose priority it then has.
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := f.feed(in, cmd.Process.Pid, one)
	if stop != nil {
		cancel()
	}
	if err := cmd.Wait(); stop == nil {
		stop = xzError(err, said.String())
	}
	return out.Bytes(), stop
}

var errUnwanted = errors.New("nobody wants it any more")

// feed writes a frame to the process. It returns an error if that need not end what it
// does; if it has ended already, it says itself why.
func (f *Frames) feed(in io.WriteCloser, pid int, one *Frame) error {
	defer in.Close()
	if f.Between != nil {
		defer func() { _ = f.Between(0) }() // (ignored) it is done
	}
	for piece := range slices.Chunk(one.data, xzPiece) {
		if one.unwanted.Load() {
			return errUnwanted
		}
		if f.Between != nil {
			if err := f.Between(pid); err != nil {
				return err
			}
		}
		if _, err := in.Write(piece); err != nil {
			return nil
		}
	}
	return nil
}

// xzError adds to an error what the program has said.
func xzError(err error, said string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if said, _, _ = strings.Cut(strings.TrimSpace(said), "\n"); said != "" {
		return fmt.Errorf("%s (%w)", said, err) // it begins with its name
	}
	return fmt.Errorf("xz: %w", err)
}

func xzCommand(ctx context.Context, program string, level int) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, "-z", "-c", "--format=xz", "--check=crc64", "-T1", fmt.Sprintf("-%d", level))
	// Not XZ_OPT and XZ_DEFAULTS, nor secrets.
	cmd.Env = []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	// What a terminal sends is for us: what is in hand may have to be finished.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// xzProgram returns where the program is.
var xzProgram = sync.OnceValues(func() (string, error) {
	program, err := exec.LookPath("xz")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoProgram, err)
	}
	return program, nil
})

// xzPatience is how long a program may take that has nothing to do.
const xzPatience = 10 * time.Second

// checkXz returns an error if there is no program that can compress: busybox has one of
// that name that can't.
func checkXz() error {
	program, err := xzProgram()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), xzPatience)
	defer cancel()
	cmd := xzCommand(ctx, program, 0)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err == nil && !bytes.HasPrefix(out, []byte("\xfd7zXZ\x00")) {
		err = errors.New("it does not write xz's format")
	}
	if err != nil {
		return fmt.Errorf("%w: %s can't compress: %w", ErrNoProgram, program, xzError(err, said.String()))
	}
	return nil
}
