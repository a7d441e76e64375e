package queue

import (
	"errors"
	"path/filepath"
)

// DefaultFile returns the queue of a user who names none.
func DefaultFile(uid int, getenv func(string) string) (string, error) {
	if uid == 0 {
		return "/var/lib/larder/queue.db", nil
	}
	// The XDG specification says to ignore a relative path.
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "larder", "queue.db"), nil
	}
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", errors.New("no default queue: HOME is not set")
	}
	return filepath.Join(home, ".local", "state", "larder", "queue.db"), nil
}
