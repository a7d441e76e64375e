// What is done before the Go runtime starts: little for larder, and more for the hook.

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
#include <sys/resource.h>
#endif

#include "begin.h"

// Only larder-hook has this. Larder is the hook if it is called so.
extern const int larder_is_the_hook __attribute__((weak));

int is_hook;

// SQLite's, which is linked to all that this package is. See sqlite3.h.
extern int sqlite3_config(int, ...) __attribute__((weak));
enum { SQLITE_CONFIG_PAGECACHE = 7, SQLITE_CONFIG_MEMSTATUS = 9, SQLITE_CONFIG_LOOKASIDE = 13 };

// For each of its two connections SQLite fetches memory for many pages and small things,
// and touches all of it: a sixth of the pages that the kernel has to find for the hook, which
// needs hardly any. Nor does it need to be counted.
static void lean_sqlite(void) {
	if (!sqlite3_config)
		return;
	sqlite3_config(SQLITE_CONFIG_PAGECACHE, (void *)0, 0, 0);
	sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 1200, 12);
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

static const char *argv0(void) {
#ifdef __APPLE__
	return (*_NSGetArgv())[0];
#else
	return program_invocation_name; // not every libc hands argv to constructors
#endif
}

#ifdef __linux__

static cpu_set_t cpus;      // on which we may run
static struct rlimit files; // that we may have open
static int one_cpu, no_files, late; // what was changed
static int slack;                   // in nanoseconds

// The Go runtime starts for a program that lives long. Each of these saves a tenth of
// the hook's time, and what the runtime then does without it does without elsewhere, too.
static void hush(void) {
	// It makes as many processors as there are CPUs for it, and a thread for each when
	// two goroutines could run.
	cpu_set_t here;
	int cpu = sched_getcpu();
	if (cpu >= 0 && cpu < CPU_SETSIZE && !sched_getaffinity(0, sizeof cpus, &cpus)) {
		CPU_ZERO(&here);
		CPU_SET(cpu, &here);
		one_cpu = !sched_setaffinity(0, sizeof here, &here);
	}
	// Its monitor sleeps for 20 microseconds at a time. The kernel may now wake it 100
	// milliseconds later than asked.
	slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
	late = slack > 0 && !prctl(PR_SET_TIMERSLACK, 100000000UL, 0, 0, 0);
#ifdef KNOWN_RUNTIME
	// It looks for its cgroup in the list of all mounts, and C's library for the end of
	// the stack in that of all memory. Now they find that they can open no file. (But
	// where standard input, output or error is closed the runtime can open /dev/null, and
	// has to.)
	if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur > 3) {
		struct rlimit three = {.rlim_cur = 3, .rlim_max = files.rlim_max};
		no_files = !setrlimit(RLIMIT_NOFILE, &three);
	}
#endif
}

void runtime_started(void) {
	if (one_cpu)
		sched_setaffinity(0, sizeof cpus, &cpus);
	if (late)
		prctl(PR_SET_TIMERSLACK, (unsigned long)slack, 0, 0, 0); // SQLite sleeps, too
	if (no_files)
		setrlimit(RLIMIT_NOFILE, &files);
}

#else

static void hush(void) {}
void runtime_started(void) {}

#endif

__attribute__((constructor)) static void begin(void) {
	const char *name = argv0();
	const char *slash = strrchr(name, '/');
	is_hook = &larder_is_the_hook || !strcmp(slash ? slash + 1 : name, "larder-hook");
#ifdef __GLIBC__
	// Without this each of the runtime's threads maps an arena of 64 MiB for itself
	// at its first malloc, and unmaps half of it again: a tenth of the hook's time. Larder's
	// threads, too, hardly ever need C's memory at the same time.
	mallopt(M_ARENA_MAX, 1);
#endif
	if (!is_hook)
		return;
	lean_sqlite();
	chain(name);
	// A test of the program goes on for long, and starts others.
	const char *dot = strrchr(name, '.');
	if (!dot || strcmp(dot, ".test"))
		hush();
}
