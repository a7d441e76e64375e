package pace

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

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
	p := &Pacer{stat: f}
	defer p.Close()
	expect := func(want time.Duration) {
		t.Helper()
		if got := p.Look(); got != want {
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
	p := &Pacer{cores: f}
	defer f.Close()
	p.idle()
	write(1003, 102)
	if got, want := p.idle(), 50*time.Millisecond; got != want {
		t.Errorf("cores were idle for %v, want %v", got, want)
	}
	if got := p.idle(); got != 0 {
		t.Errorf("cores were idle for %v, want no time", got)
	}
	if got := (&Pacer{}).idle(); got != 0 {
		t.Errorf("where nobody tells cores were idle for %v", got)
	}
}

func TestPacerReadsItsThread(t *testing.T) {
	p := New()
	defer p.Close()
	if p == nil {
		t.Skip("this system does not tell how long threads wait")
	}
	if _, ok := readSpent(p.stat); !ok {
		t.Error("it can't read how long its thread has run")
	}
	if p.idle() <= 0 {
		t.Error("it can't read that cores have been idle since the system started")
	}
}

func TestPacerLooksAtItsChildrenToo(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o644)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	write := func(f *os.File, ran, waited time.Duration) {
		t.Helper()
		must(t, f.Truncate(0))
		_, err := f.WriteAt(fmt.Appendf(nil, "%d %d 7\n", ran.Nanoseconds(), waited.Nanoseconds()), 0)
		must(t, err)
	}
	p := &Pacer{stat: open("own")}
	write(p.stat, 0, 0)
	expect := func(want time.Duration) {
		t.Helper()
		if got := p.Look(); got != want {
			t.Errorf("it rests %v, want %v", got, want)
		}
	}
	for pid := range 2 { // one after the other
		p.Follow(1<<30 + pid) // none that there is
		p.child = open(fmt.Sprint("child", pid))
		write(p.child, 0, 0)
		expect(0)
		write(p.child, paceWindow, paceWindow)
		expect((paceShare - 2) * paceWindow)
		expect(0)
		p.Follow(0)
		expect(0)
	}
	write(p.stat, paceWindow, paceWindow)
	expect((paceShare - 2) * paceWindow)
}

func TestNobodyRestsWhoIsWoken(t *testing.T) {
	woken := make(chan struct{})
	close(woken)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	p := &Pacer{}
	p.Rest(t.Context(), time.Hour, woken) // or the test does not end
	p.Rest(ended, time.Hour, nil)
}
