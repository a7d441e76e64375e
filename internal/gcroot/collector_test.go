package gcroot

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// collector holds gc.lock, as Nix's does, and listens where it does. (That Nix's
// own keeps what it is told of is tested with all three versions in integration.)
func collector(t *testing.T) (state string, socket net.Listener) {
	t.Helper()
	// Not below t.TempDir, whose name is too long for a socket's.
	state, err := os.MkdirTemp("", "gc")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(state) })
	lock, err := os.Create(filepath.Join(state, "gc.lock"))
	must(t, err)
	t.Cleanup(func() { lock.Close() })
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	must(t, os.Mkdir(filepath.Join(state, "gc-socket"), 0o755))
	socket, err = net.Listen("unix", filepath.Join(state, "gc-socket", "socket"))
	must(t, err)
	t.Cleanup(func() { socket.Close() })
	return state, socket
}

func TestCollectorIsToldOfEveryPath(t *testing.T) {
	state, socket := collector(t)
	told := make(chan []string, 1)
	go func() {
		conn, err := socket.Accept()
		if err != nil {
			return
		}
		var paths []string
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			paths = append(paths, lines.Text())
			conn.Write([]byte("1"))
		}
		told <- paths
	}()
	must(t, TellCollector(state, time.Minute, path("one"), path("two")))
	if got, want := strings.Join(<-told, " "), path("one")+" "+path("two"); got != want {
		t.Errorf("it was told of %s, want %s", got, want)
	}
}

func TestCollectorThatDoesNotAnswerIsNotWaitedFor(t *testing.T) {
	state, _ := collector(t)
	if err := TellCollector(state, 10*time.Millisecond, path("one")); err == nil {
		t.Error("no error, want one that says so")
	}
}

func TestWithoutACollectorNobodyIsTold(t *testing.T) {
	state, socket := collector(t)
	must(t, socket.Close()) // it has just ended
	must(t, TellCollector(state, time.Minute, path("one")))
	must(t, os.Remove(filepath.Join(state, "gc.lock")))
	must(t, TellCollector(state, time.Minute, path("one")))
	must(t, os.WriteFile(filepath.Join(state, "gc.lock"), nil, 0o600)) // nobody holds it
	must(t, TellCollector(state, time.Minute, path("one")))
}
