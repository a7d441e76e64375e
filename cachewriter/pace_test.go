package cachewriter

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestThreadRestsWhenOthersWantItsCore(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct{ ran, waited, want time.Duration }{
		{10 * ms, 0, 0},
		{10 * ms, 2 * ms, 0},
		{10 * ms, 10 * ms, 620 * ms}, // with another one of its kind
		{10 * ms, 110 * ms, 520 * ms},
		{10 * ms, 700 * ms, 0}, // its priority does the same
		{100 * ms, 100 * ms, longestRest},
		{0, 0, 0},
	} {
		if got := rest(test.ran, test.waited); got != test.want {
			t.Errorf("after running %v and waiting %v it rests %v, want %v", test.ran, test.waited, got, test.want)
		}
	}
}

func TestPacerLooksAtWhatCameSince(t *testing.T) {
	file := filepath.Join(t.TempDir(), "schedstat")
	write := func(ran, waited time.Duration) {
		t.Helper()
		must(t, os.WriteFile(file, fmt.Appendf(nil, "%d %d 7\n", ran.Nanoseconds(), waited.Nanoseconds()), 0o644))
	}
	write(0, 0)
	f, err := os.Open(file)
	must(t, err)
	p := &pacer{stat: f}
	defer p.close()
	expect := func(want time.Duration) {
		t.Helper()
		if got := p.look(); got != want {
			t.Errorf("it rests %v, want %v", got, want)
		}
	}
	expect(0)
	write(paceWindow/2, paceWindow) // too early to tell
	expect(0)
	write(paceWindow, paceWindow)
	expect((paceShare - 2) * paceWindow)
	expect(0)
	write(2*paceWindow, paceWindow)
	expect(0)
	must(t, os.WriteFile(file, []byte("what else"), 0o644))
	expect(0)
}

func TestPacerSeesIdleCores(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stat")
	write := func(idle, disk int) {
		t.Helper()
		must(t, os.WriteFile(file, fmt.Appendf(nil, "cpu  11 22 33 %d %d 0 7 0 0 0\ncpu0 1 2 3 4 5 6\n", idle, disk), 0o644))
	}
	write(1000, 100)
	f, err := os.Open(file)
	must(t, err)
	p := &pacer{cores: f}
	defer f.Close()
	p.idle()
	write(1003, 102)
	if got, want := p.idle(), 50*time.Millisecond; got != want {
		t.Errorf("cores were idle for %v, want %v", got, want)
	}
	if got := p.idle(); got != 0 {
		t.Errorf("cores were idle for %v, want no time", got)
	}
	if got := (&pacer{}).idle(); got != 0 {
		t.Errorf("where nobody tells cores were idle for %v", got)
	}
}

func TestPacerReadsItsThread(t *testing.T) {
	p := newPacer()
	defer p.close()
	if p == nil {
		t.Skip("this system does not tell how long threads wait")
	}
	if len(readNumbers(p.stat)) < 2 {
		t.Error("it can't read how long its thread has run")
	}
	if p.idle() <= 0 {
		t.Error("it can't read that cores have been idle since the system started")
	}
}

func TestNobodyRestsInTheForeground(t *testing.T) {
	w := &Writer{}
	w.setBackground(true)
	background := w.foreground
	w.setBackground(false)
	for _, c := range []<-chan struct{}{background, w.foreground} {
		select {
		case <-c:
		default:
			t.Error("who rests is not told of the foreground")
		}
	}
	w.setBackground(true)
	select {
	case <-w.foreground:
		t.Error("it is still in the foreground")
	default:
	}
}
