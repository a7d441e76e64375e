// is_hook is whether the program was called as the hook.
extern int is_hook;

// chain returns if there is no next hook to call. If there is one, it returns in a
// child process, and calls that hook when the child has ended, or hangs.
void chain(const char *name);

// tell_chain says for how long the child may take from now on.
void tell_chain(long usec);

// runtime_started makes the calling thread as free as Nix made it: while the Go runtime
// started it had one CPU, as the runtime's own threads still have, and no files.
void runtime_started(void);
