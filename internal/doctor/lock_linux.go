package doctor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// lockHolder returns the process that holds a flock on a file, and whether there is
// one. Of a process that can't be seen from here nothing more is known.
func lockHolder(file string) (h holder, held bool) {
	info, err := os.Stat(file)
	if err != nil {
		return h, false
	}
	text, err := os.ReadFile("/proc/locks") // proc(5): number, kind, mode, access, process, device:inode, …
	if err != nil {
		return h, false
	}
	inode := ":" + strconv.FormatUint(info.Sys().(*syscall.Stat_t).Ino, 10)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		// The device is not always the one that stat tells of.
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], inode) {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		if err != nil || pid <= 0 {
			return h, true
		}
		if opened, known := hasOpen(pid, info); known && !opened {
			continue // an inode of that number elsewhere
		}
		return describe(pid), true
	}
	return h, false
}

// hasOpen tells whether a process has a file open, if we may know.
func hasOpen(pid int, file os.FileInfo) (opened, known bool) {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false, false
	}
	for _, fd := range fds {
		if info, err := os.Stat(dir + fd.Name()); err == nil && os.SameFile(info, file) {
			return true, true
		}
	}
	return false, true
}

func describe(pid int) holder {
	h := holder{pid: pid}
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return holder{} // it has just ended, or is hidden
	}
	h.uid = int(info.Sys().(*syscall.Stat_t).Uid)
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return holder{}
	}
	h.name = strings.TrimSpace(string(name))
	return h
}
