package hookmain

// #include "begin.h"
import "C"

import "runtime"

// Called tells whether the program was called as the hook: it is larder-hook, or
// has that name.
func Called() bool { return C.is_hook != 0 }

// runtimeStarted ends what was done to have the Go runtime start faster. From here on
// the goroutine has its thread for itself: others are not as free.
func runtimeStarted() {
	runtime.LockOSThread()
	C.runtime_started()
}
