package integration

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A manager listens as systemd does for what a service has to say.
type manager struct {
	socket string

	mu    sync.Mutex
	heard []string // guarded by mu
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // t.TempDir is too long for a socket's name
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &manager{socket: filepath.Join(dir, "socket")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	must(t, err)
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.heard = append(m.heard, strings.Split(string(buf[:n]), "\n")...)
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return m
}

func (m *manager) times(state string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.heard {
		if s == state {
			n++
		}
	}
	return n
}

func (m *manager) first() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Concat(m.heard, []string{""})[0]
}

func TestSystemdHearsOfTheDaemon(t *testing.T) {
	t.Parallel()
	manager := newManager(t)
	l := newLarder(t, nixes[0])
	l.machine = l.with("NOTIFY_SOCKET="+manager.socket, "WATCHDOG_USEC=300000")
	d := l.start(t, "larder", "daemon", "--poll", "1h", "--stop-timeout", "1h")
	eventually(t, "READY", func() bool { return manager.first() != "" })
	if manager.first() != "READY=1" && manager.first() != "WATCHDOG=1" {
		t.Errorf("the first word is %q", manager.first())
	}
	eventually(t, "READY", func() bool { return manager.times("READY=1") == 1 })

	// However seldom it looks by itself, and however long a job takes.
	eventually(t, "the watchdog", func() bool { return manager.times("WATCHDOG=1") > 3 })
	_, release := l.stickyJob(t)
	l.inHand(t)
	n := manager.times("WATCHDOG=1")
	eventually(t, "the watchdog during a job", func() bool { return manager.times("WATCHDOG=1") > n+3 })
	if n := manager.times("STOPPING=1"); n > 0 {
		t.Errorf("STOPPING was sent %d times", n)
	}
	d.signal(t, syscall.SIGTERM)
	d.waitFor(t, "msg=draining")
	release()
	d.endsWell(t)
	eventually(t, "STOPPING", func() bool { return manager.times("STOPPING=1") == 1 })
	if n := manager.times("READY=1"); n != 1 {
		t.Errorf("READY was sent %d times", n)
	}
}

// What is in hand may take as long as --stop-timeout, and systemd is to know from
// the beginning what it waits for.
func TestSystemdHearsOfTheEndWhenItBegins(t *testing.T) {
	t.Parallel()
	manager := newManager(t)
	l := newLarder(t, nixes[0])
	l.machine = l.with("NOTIFY_SOCKET=" + manager.socket)
	_, release := l.stickyJob(t)
	d := l.startWorker(t, "--stop-timeout", "1h")
	l.inHand(t)
	d.signal(t, syscall.SIGTERM)
	d.waitFor(t, "msg=draining")
	eventually(t, "STOPPING", func() bool { return manager.times("STOPPING=1") == 1 })
	release()
	d.endsWell(t)
}
