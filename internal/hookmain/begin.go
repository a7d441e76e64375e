package hookmain

// #include "begin.h"
import "C"

import "runtime"

// Called tells whether the program was called as the hook: it is larder-hook, or
// has that name.
func Called() bool { return C.is_hook != 0 }

// What was done to have the Go runtime start faster ends here, on the thread on which the
// program began, and on which main then stays: the runtime's others are not as free.
func init() {
	if Called() {
		runtime.LockOSThread()
		C.runtime_started()
	}
}
