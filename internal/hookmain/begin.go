package hookmain

// #include "begin.h"
import "C"

// Called tells whether the program was called as the hook: it is larder-hook, or
// has that name.
func Called() bool { return C.is_hook != 0 }
