package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A terminal is where a process runs in the foreground. What it prints goes there.
type terminal struct {
	*process
	master *os.File
	screen buffer
}

// startOnTerminal is start on a terminal of its own, as the leader of its session.
func (m *machine) startOnTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	master, slave, err := openTerminal()
	must(t, err)
	defer slave.Close()
	term := &terminal{process: &process{machine: m, args: args, tty: slave}, master: master}
	m.launch(t, term.process)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, err := io.Copy(&term.screen, master)
		if err != nil && !errors.Is(err, syscall.EIO) { // which is the end
			fmt.Fprintf(&term.screen, "read terminal: %v", err)
		}
	}()
	t.Cleanup(func() {
		term.cmd.Process.Kill()
		<-term.done
		master.Close()
		<-read
		if t.Failed() {
			t.Logf("%v\nterminal:\n%s", term.process, &term.screen)
		}
	})
	return term
}

func openTerminal() (master, slave *os.File, err error) {
	// Not blocking, or Close would wait for what is typed last.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	return master, slave, err
}

// types has somebody type something.
func (term *terminal) types(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(term.master, text)
	must(t, err)
}

// shows waits until the terminal shows something.
func (term *terminal) shows(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q on the terminal", text), func() bool { return strings.Contains(term.screen.String(), text) })
}
