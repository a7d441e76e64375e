// is_hook is whether the program was called as the hook.
extern int is_hook;
