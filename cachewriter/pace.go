package cachewriter

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// A pacer tells a thread of the lowest priority when to rest.
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
type pacer struct {
	stat        *os.File // the thread's schedstat
	ran, waited time.Duration

	cores *os.File // the system's /proc/stat; nil if it can't be read
	idled time.Duration
}

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

// look returns how long the thread should rest now. It is to be called often.
func (p *pacer) look() time.Duration {
	if p == nil {
		return 0
	}
	numbers := readNumbers(p.stat)
	if len(numbers) < 2 {
		return 0
	}
	ran, waited := time.Duration(numbers[0]), time.Duration(numbers[1])
	if ran-p.ran < paceWindow {
		return 0
	}
	d := rest(ran-p.ran, waited-p.waited)
	p.ran, p.waited = ran, waited
	return d
}

// idle returns for how long cores have been idle since it was last called, all of them
// together.
func (p *pacer) idle() time.Duration {
	numbers := readNumbers(p.cores)
	if len(numbers) < 5 {
		return 0
	}
	const tick = time.Second / 100 // USER_HZ, on every machine that Go knows
	before := p.idled
	p.idled = time.Duration(numbers[3]+numbers[4]) * tick // the second one waits for a disk
	return p.idled - before
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

func (p *pacer) close() {
	if p == nil {
		return
	}
	p.stat.Close()
	if p.cores != nil {
		p.cores.Close()
	}
}
