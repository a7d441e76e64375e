package nixclient

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A mount is a line of /proc/<pid>/mountinfo (proc(5)), as far as it says what is seen.
type mount struct {
	id, parent string
	device     string // major:minor
	root       string // which directory of that file system
	point      string // where it is mounted
	kind       string // such as ext4
}

// mounts returns what a process sees. Everybody may read that, of everybody.
func mounts(pid string) ([]mount, error) {
	text, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	return parseMounts(string(text)), err
}

func parseMounts(text string) (list []mount) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 5 {
			_, after, _ := strings.Cut(line, " - ") // behind fields of which there may be any number
			kind, _, _ := strings.Cut(after, " ")
			list = append(list, mount{f[0], f[1], f[2], unescape.Replace(f[3]), unescape.Replace(f[4]), kind})
		}
	}
	return list
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// covering returns the mount that a path is on, and where on its device. It goes from mount to
// mount, as the kernel does: one that is hidden by another is not met. (The first one may
// be its own parent.)
func covering(mounts []mount, path string) (on mount, file string) {
	at := slices.IndexFunc(mounts, func(m mount) bool { return m.point == "/" })
	if at < 0 {
		return mount{}, "" // in a chroot
	}
	for next := at; next >= 0; {
		at, next = next, -1
		for i, m := range mounts {
			if i != at && m.parent == mounts[at].id && below(path, m.point) && (next < 0 || len(m.point) < len(mounts[next].point)) {
				next = i
			}
		}
	}
	return mounts[at], filepath.Join(mounts[at].root, strings.TrimPrefix(path, mounts[at].point))
}

func below(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}

// Sees tells whether those who build see at a path what the user sees there. known is
// false where that can't be found out.
func (c *Client) Sees(path string) (sees, known bool) {
	switch {
	case c.Access != Daemon:
		return true, true
	case c.DaemonPID == 0: // nobody knows of any other file system
		return !c.Apart, !c.Apart
	case len(c.ours) == 0 || len(c.theirs) == 0:
		return false, false
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	ours, ourFile := covering(c.ours, path)
	theirs, theirFile := covering(c.theirs, path)
	if strings.HasPrefix(ours.kind, "fuse") {
		return false, false // it may let in nobody but who has mounted it, not even root
	}
	return ours.device == theirs.device && ourFile == theirFile, true
}
