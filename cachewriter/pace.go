package cachewriter

import (
	"os"
	"time"
)

// A pacer tells a thread of the lowest priority when to rest.
//
// A priority counts only among the threads of one group. Linux makes a group of
// every session (sched_autogroup_enabled), and each of Nix's builders has a session;
// of every service of systemd, and nix-daemon is one; of every container. Between
// groups all are equal, whatever the priorities within: beside one builder a thread
// of the lowest priority gets half of a core. So it looks at how long it had to wait
// for a core. Where it did, somebody else wants that, and it leaves most of it to him.
//
// Where the priority counts, it waits for longer than it would rest, and does not.
type pacer struct {
	stat        *os.File // the thread's schedstat
	ran, waited time.Duration
}

const (
	// paceWindow is how long a thread works between two looks, if one piece of work is
	// not longer: some turns of the scheduler.
	paceWindow = 8 * time.Millisecond

	// paceShare is what a thread takes of a core that somebody else wants: one part of
	// so many. It is more than the lowest priority gets, so that work never stands.
	paceShare = 32

	// longestRest bounds how long a core may lie idle when others no longer want it.
	longestRest = 500 * time.Millisecond
)

// rest returns how long a thread should rest that has run and waited for a core for
// so long since it last looked.
func rest(ran, waited time.Duration) time.Duration {
	if waited < ran/4 {
		return 0 // what is the system's own, and nobody's work
	}
	return min(max(0, (paceShare-1)*ran-waited), longestRest)
}

// look returns how long the thread should rest now. It is to be called often.
func (p *pacer) look() time.Duration {
	if p == nil || p.stat == nil {
		return 0
	}
	ran, waited, ok := p.read()
	if !ok || ran-p.ran < paceWindow {
		return 0
	}
	d := rest(ran-p.ran, waited-p.waited)
	p.ran, p.waited = ran, waited
	return d
}

// read returns how long the thread has run, and has waited for a core.
func (p *pacer) read() (ran, waited time.Duration, ok bool) {
	var buf [64]byte
	n, _ := p.stat.ReadAt(buf[:], 0) // (ignored) it ends before the buffer does
	var numbers [2]time.Duration
	i := 0
	for _, c := range buf[:n] {
		switch {
		case c >= '0' && c <= '9':
			numbers[i] = 10*numbers[i] + time.Duration(c-'0')
		case i == 1:
			return numbers[0], numbers[1], true
		default:
			i++
		}
	}
	return 0, 0, false
}

func (p *pacer) close() {
	if p != nil && p.stat != nil {
		p.stat.Close()
	}
}
