package main

/*
#ifdef __linux__
#include <malloc.h>

// Without this each of the runtime's threads maps an arena of 64 MiB for itself at
// its first malloc, and unmaps half of it again: a tenth of the hook's time.
static void __attribute__((constructor)) one_arena(void) {
#ifdef M_ARENA_MAX
	mallopt(M_ARENA_MAX, 1);
#endif
}
#endif
*/
import "C"
