package nixclient

import (
	"os"
	"path/filepath"
	"strings"
)

// A mount is a line of /proc/<pid>/mountinfo (proc(5)), as far as it says what is seen.
type mount struct {
	device string // major:minor
	root   string // which directory of that file system
	point  string // where it is mounted
}

// mounts returns what a process sees. Everybody may read that, of everybody.
func mounts(pid string) ([]mount, error) {
	text, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []mount
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 5 {
			list = append(list, mount{f[2], unescape.Replace(f[3]), unescape.Replace(f[4])})
		}
	}
	return list, nil
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// covering returns the mount that a path is in, and where in its file system.
func covering(mounts []mount, path string) (device, file string) {
	var best mount
	for _, m := range mounts { // of several at one point the last one is on top
		if len(m.point) >= len(best.point) && below(path, m.point) {
			best = m
		}
	}
	return best.device, filepath.Join(best.root, strings.TrimPrefix(path, best.point))
}

func below(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}

// Sees tells whether those who build see at a path what the user sees there. known is
// false where that can't be found out.
func (c *Client) Sees(path string) (sees, known bool) {
	if c.Access != Daemon {
		return true, true
	}
	if len(c.ours) == 0 || len(c.theirs) == 0 {
		return false, false
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	ourDevice, ourFile := covering(c.ours, path)
	theirDevice, theirFile := covering(c.theirs, path)
	return ourDevice == theirDevice && ourFile == theirFile, true
}
