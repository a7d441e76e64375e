// Package pace keeps a thread from taking a core that others want.
package pace

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// A Pacer tells a thread of the lowest priority when to rest.
//
// A priority counts only among the threads of one group. Linux makes a group of
// every session (sched_autogroup_enabled), and each of Nix's builders has a session;
// of every service of systemd, and nix-daemon is one; of every container. Between
// groups all are equal, whatever the priorities within: beside one builder a thread
// of the lowest priority gets half of a core. So it looks at how long it had to wait
// for a core. Where it did, somebody else wants that, and it leaves nearly all of it
// to him, until cores are idle again.
//
// Where the priority counts, it waits for longer than it would rest, and does not.
type Pacer struct {
	stat        *os.File // the thread's schedstat
	ran, waited time.Duration

	child    *os.File // that of the process which works for the thread, or nil
	childPid int
	children spent // what that one and those before it did
	former   spent // those before it

	cores *os.File // the system's /proc/stat; nil if it can't be read
	idled time.Duration
}

// A spent is what a thread did.
type spent struct{ ran, waited time.Duration }

const (
	// paceWindow is how long a thread works between two looks, if one piece of work is
	// not longer: some turns of the scheduler.
	paceWindow = 8 * time.Millisecond

	// paceShare is what a thread takes of a core that somebody else wants: one part of
	// so many. It is more than the lowest priority gets, so that work never stands.
	paceShare = 64

	// restStep is how long who rests does not see that cores are idle.
	restStep = 100 * time.Millisecond

	// longestRest bounds a rest where nobody tells of idle cores, or where others
	// always want them.
	longestRest = 5 * time.Second
)

// rest returns how long a thread should rest that has run and waited for a core for
// so long since it last looked.
func rest(ran, waited time.Duration) time.Duration {
	if waited < ran/4 {
		return 0 // what is the system's own, and nobody's work
	}
	return min(max(0, (paceShare-1)*ran-waited), longestRest)
}

// Look returns how long the thread should rest now. It is to be called often. A nil
// Pacer never rests.
func (p *Pacer) Look() time.Duration {
	if p == nil {
		return 0
	}
	own, ok := readSpent(p.stat)
	if !ok {
		return 0
	}
	if child, ok := readSpent(p.child); ok { // or it has just ended
		p.children = spent{p.former.ran + child.ran, p.former.waited + child.waited}
	}
	ran, waited := own.ran+p.children.ran, own.waited+p.children.waited
	if ran-p.ran < paceWindow {
		return 0
	}
	d := rest(ran-p.ran, waited-p.waited)
	p.ran, p.waited = ran, waited
	return d
}

// idle returns for how long cores have been idle since it was last called, all of them
// together.
func (p *Pacer) idle() time.Duration {
	numbers := readNumbers(p.cores)
	if len(numbers) < 5 {
		return 0
	}
	const tick = time.Second / 100 // USER_HZ, on every machine that Go knows
	before := p.idled
	p.idled = time.Duration(numbers[3]+numbers[4]) * tick // the second one waits for a disk
	return p.idled - before
}

// Follow makes the pacer take what a process of one thread does for the thread's own. Zero
// is none.
func (p *Pacer) Follow(pid int) {
	if p == nil || pid == p.childPid {
		return
	}
	if p.child != nil {
		p.child.Close()
		p.child, p.former = nil, p.children
	}
	p.childPid = pid
	if pid == 0 {
		return
	}
	if f, err := os.Open(fmt.Sprintf("/proc/%d/schedstat", pid)); err == nil { // (ignored) it may have ended
		p.child = f
	}
}

// Rest rests for a time, until cores are idle, something comes from wake, or ctx ends.
func (p *Pacer) Rest(ctx context.Context, left time.Duration, wake <-chan struct{}) {
	p.idle() // until now
	for ; left > 0; left -= restStep {
		step := min(left, restStep)
		timer := time.NewTimer(step)
		select {
		case <-timer.C:
		case <-wake:
			left = 0
		case <-ctx.Done():
			left = 0
		}
		timer.Stop()
		// One core that is idle for half of the time is enough for one thread.
		if p.idle() > step/2 {
			return
		}
	}
}

// readSpent reads a schedstat.
func readSpent(f *os.File) (s spent, ok bool) {
	numbers := readNumbers(f)
	if len(numbers) < 2 {
		return s, false
	}
	return spent{time.Duration(numbers[0]), time.Duration(numbers[1])}, true
}

// readNumbers returns the numbers in the first line of a file of /proc.
func readNumbers(f *os.File) (numbers []int64) {
	if f == nil {
		return nil
	}
	var buf [256]byte
	n, _ := f.ReadAt(buf[:], 0) // (ignored) it ends before the buffer does
	line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	for field := range bytes.FieldsSeq(line) {
		if n, err := strconv.ParseInt(string(field), 10, 64); err == nil { // the first may be a name
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// Close ends it.
func (p *Pacer) Close() {
	if p == nil {
		return
	}
	p.Follow(0)
	p.stat.Close()
	if p.cores != nil {
		p.cores.Close()
	}
}
