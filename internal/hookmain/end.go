package hookmain

/*
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "begin.h"

// The last words: what to say if the process has to end now. Two, so that a
// signal never finds one half written.
static char words[2][1200];
static volatile sig_atomic_t current;
static volatile sig_atomic_t said;

static void set_last_words(const char *text, size_t len) {
	int next = !current;
	if (len > sizeof words[next] - 1)
		len = sizeof words[next] - 1;
	memcpy(words[next], text, len);
	words[next][len] = 0;
	current = next;
}

static void end(int sig) {
	static const char fault[] = "larder-hook: ended by a memory fault\n";
	const char *text = sig == SIGALRM ? words[current] : fault;
	// Nix may have stopped reading: a full pipe must not hold us.
	struct pollfd fd = {.fd = 2, .events = POLLOUT};
	if (!said && poll(&fd, 1, 0) == 1) {
		ssize_t ignored = write(2, text, strlen(text));
		(void)ignored;
	}
	_exit(0);
}

static void speak_now(void) { said = 1; }

static void end_at(long usec) {
	tell_chain(usec);
	struct sigaction sa;
	memset(&sa, 0, sizeof sa);
	sa.sa_handler = end;
	sa.sa_flags = SA_ONSTACK; // goroutines' stacks are small
	sigaction(SIGSEGV, &sa, 0);
	sigaction(SIGBUS, &sa, 0);
	sigaction(SIGFPE, &sa, 0);
	sigaction(SIGABRT, &sa, 0);
	sigaction(SIGALRM, &sa, 0);
	struct itimerval timer = {.it_value = {.tv_sec = usec / 1000000, .tv_usec = usec % 1000000}};
	setitimer(ITIMER_REAL, &timer, 0);
}
*/
import "C"

import (
	"time"
	"unsafe"
)

// endAfter makes the process end with 0 after d, and at any memory fault before.
//
// That is the kernel's timer and C's signal handler, which need nothing of the Go
// runtime: it may be waiting for a thread that hangs in SQLite or on a dead disk.
// And SQLite maps the queue's shared memory: on a full disk, or if somebody cuts
// the file short, touching it is a SIGBUS, and no recover catches that.
func endAfter(d time.Duration) { C.end_at(C.long(max(d.Microseconds(), 1))) }

// setLastWords sets the line to print if time is up.
func setLastWords(line string) {
	C.set_last_words((*C.char)(unsafe.Pointer(unsafe.StringData(line))), C.size_t(len(line)))
}

// speakNow keeps the last words from being said: there is another line to print.
func speakNow() { C.speak_now() }
