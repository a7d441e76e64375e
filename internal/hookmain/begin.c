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
}
