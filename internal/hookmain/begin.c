// What the hook does before the Go runtime starts.

#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#ifdef __APPLE__
#include <crt_externs.h>
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#endif

#include "begin.h"

// Only larder-hook has this. Larder is the hook if it is called so.
extern const int larder_is_the_hook __attribute__((weak));

int is_hook;

static const char *argv0(void) {
#ifdef __APPLE__
	return (*_NSGetArgv())[0];
#else
	return program_invocation_name; // not every libc hands argv to constructors
#endif
}

#ifdef __linux__

static cpu_set_t cpus; // on which we may run
static int pinned;

// For the Go runtime a hook is not worth being awake. Each of these is a tenth of the
// hook's time, and nothing depends on them.
static void hush(void) {
	// It makes as many processors as there are CPUs for it, and a thread for each when
	// two goroutines could run.
	cpu_set_t here;
	int cpu = sched_getcpu();
	if (cpu >= 0 && cpu < CPU_SETSIZE && !sched_getaffinity(0, sizeof cpus, &cpus)) {
		CPU_ZERO(&here);
		CPU_SET(cpu, &here);
		pinned = !sched_setaffinity(0, sizeof here, &here);
	}
	// Its monitor sleeps for 20 microseconds at a time. The kernel may now wake it 100
	// milliseconds later than asked.
	prctl(PR_SET_TIMERSLACK, 100000000UL, 0, 0, 0);
}

void runtime_started(void) {
	if (pinned)
		sched_setaffinity(0, sizeof cpus, &cpus);
	prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0); // SQLite sleeps, too
}

#else

static void hush(void) {}
void runtime_started(void) {}

#endif

__attribute__((constructor)) static void begin(void) {
	const char *name = argv0();
	const char *slash = strrchr(name, '/');
	is_hook = &larder_is_the_hook || !strcmp(slash ? slash + 1 : name, "larder-hook");
	if (!is_hook)
		return;
#ifdef __GLIBC__
	// Without this each of the runtime's threads maps an arena of 64 MiB for itself
	// at its first malloc, and unmaps half of it again: a tenth of the hook's time.
	mallopt(M_ARENA_MAX, 1);
#endif
	chain(name);
	hush();
}
