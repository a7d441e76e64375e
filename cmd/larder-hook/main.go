// Larder-hook is for Nix's post-build-hook: it puts what was just built into the
// queue, and a worker copies it to the cache. Package hookmain says how it is
// called.
package main

import "github.com/nix-larder/larder/internal/hookmain"

// It is the hook by whatever name: a link may be called otherwise.

// const int larder_is_the_hook = 1;
import "C"

func main() { hookmain.Main() }
