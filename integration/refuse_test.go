package integration

import (
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A refusal is how larder says no: one line with the problem, and one with what
// to type next.
type refusal struct {
	exit          int
	problem, hint string // what has to be in the two lines
}

// of runs a command that has to be refused.
func (r refusal) of(t *testing.T, m *machine, args ...string) {
	t.Helper()
	stdout, stderr, exit := m.tryRun(t, args...)
	command := strings.Join(args, " ")
	if exit != r.exit {
		t.Errorf("%s: exit %d, want %d; stderr:\n%s", command, exit, r.exit, stderr)
	}
	if stdout != "" {
		t.Errorf("%s: stdout is %q, want nothing", command, stdout)
	}
	lines := strings.Split(strings.TrimSuffix(withoutProgress(stderr), "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "larder: error: ") || !strings.HasPrefix(lines[1], "larder: hint: ") {
		t.Errorf("%s: stderr is not an error and a hint:\n%s", command, stderr)
		return
	}
	if !strings.Contains(lines[0], r.problem) {
		t.Errorf("%s: error is %q, want %q in it", command, lines[0], r.problem)
	}
	if !strings.Contains(lines[1], r.hint) {
		t.Errorf("%s: hint is %q, want %q in it", command, lines[1], r.hint)
	}
}

var progressLine = regexp.MustCompile(`(?m)^larder: \d+( of \d+)? paths(, .*)?\n`)

// withoutProgress leaves out what is said where a command takes some seconds.
func withoutProgress(stderr string) string { return progressLine.ReplaceAllString(stderr, "") }

// changesNothing runs what is refused, and compares what is on the disk.
func (r refusal) changesNothing(t *testing.T, m *machine, args ...string) {
	t.Helper()
	dirs := []string{
		m.host("/root"), m.host("/home"), m.host("/etc"), m.host("/srv"),
		m.host("/var/lib"), m.host("/nix/var/nix/gcroots"),
	}
	before := files(t, dirs...)
	r.of(t, m, args...)
	unchanged(t, strings.Join(args, " "), before, files(t, dirs...))
}

// badCaches are what can't be a cache. The machine of notCaches has them.
var badCaches = map[string]struct {
	cache string
	who   user
	refusal
}{
	"a file":               {"/srv/file", root, refusal{1, "not a directory", "directory"}},
	"below a file":         {"/srv/file/cache", root, refusal{1, "not a directory", "directory"}},
	"a foreign directory":  {"/srv/foreign", root, refusal{1, "not a binary cache, and has homework in it", "empty directory"}},
	"of another store":     {"file:///srv/other", root, refusal{1, "another store directory: /gnu/store, want /nix/store", "use a cache of its own"}},
	"in the cloud":         {"s3://bucket", root, refusal{2, `"s3://bucket" is not on this machine`, "file:///"}},
	"a relative URL":       {"file://cache", root, refusal{2, `"file://cache" has a relative path`, "file:///"}},
	"half a URL":           {"file:/srv/cache", root, refusal{2, "has no //", "file:///"}},
	"escaped badly":        {"file:///srv/%zz", root, refusal{2, "%zz", "file:///"}},
	"somebody else's":      {"/srv/rooted", alice, refusal{1, "permission denied", "owner"}},
	"at a forbidden place": {"/srv/new", alice, refusal{1, "permission denied", "owner"}},
	"on a read-only disk":  {"/srv/frozen", root, refusal{1, "read-only file system", ""}},
}

// notCaches makes what badCaches names.
func notCaches(t *testing.T, m *machine) {
	t.Helper()
	m.run(t, "sh", "-euc", `
		mkdir /srv /srv/foreign /srv/other /srv/frozen
		echo text > /srv/file
		echo essay > /srv/foreign/homework
		echo 'StoreDir: /gnu/store' > /srv/other/nix-cache-info`)
	m.run(t, "larder", "init", "--queue", "/root/queue.db", "--cache", "/srv/rooted")
	must(t, m.inside(func() error {
		return unix.Mount("tmpfs", "/srv/frozen", "tmpfs", 0, "")
	}))
	m.run(t, "larder", "init", "--queue", "/root/other.db", "--cache", "/srv/frozen")
	must(t, m.inside(func() error {
		return unix.Mount("", "/srv/frozen", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}))
}

func TestPushRefusesWhatIsNoCache(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	notCaches(t, m)
	path := m.buildOne(t, "built")
	for name, bad := range badCaches {
		t.Run(name, func(t *testing.T) {
			m := m.as(bad.who).with("NIX_REMOTE=")
			bad.changesNothing(t, m, "larder", "push", "--cache", bad.cache, path)
			bad.changesNothing(t, m.with("LARDER_CACHE="+bad.cache), "larder", "push", path)
		})
	}
}

func TestInitRefusesWhatIsNoCache(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	notCaches(t, m)
	m.startDaemon(t)
	for name, bad := range badCaches {
		t.Run(name, func(t *testing.T) {
			m := m.as(bad.who)
			queue := m.user.home + "/" + name + "/queue.db"
			bad.changesNothing(t, m, "larder", "init", "--cache", bad.cache, "--queue", queue)
			// So there is no queue that remembers the bad one.
			m.run(t, "larder", "init", "--cache", m.user.home+"/"+name+"/cache", "--queue", queue)
		})
	}
}

// A word that is mistyped is told before anything is made.
func TestWrongCommandLinesChangeNothing(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	for _, wrong := range []struct {
		args          string
		problem, hint string
	}{
		{"pusch", `"pusch" is not a command`, "larder --help"},
		{"--nonsense", "-nonsense", "larder --help"},
		{"push --nonsense " + path, "-nonsense", "larder push --help"},
		{"push --workers many " + path, "many", "larder push --help"},
		{"push --workers -1 " + path, "--workers is -1", "--workers 2"},
		{"push", "no path is named", "larder push"},
		{"push " + path + " --workers -1", "--workers is -1", "--workers 2"},
		{"push --compression lzma " + path, "lzma", "--compression zstd:3"},
		{"push --compression zstd:99 " + path, "99", "--compression zstd:3"},
		{"drain " + path, "unexpected argument", "larder drain --help"},
		{"drain --timeout soon", "soon", "larder drain --help"},
		{"daemon --poll never", "never", "larder daemon --help"},
		{"status now", `unexpected argument "now"`, "larder status --help"},
		{"retry " + path + " --nonsense", "-nonsense", "larder retry --help"},
		{"uninstall everything", `unexpected argument "everything"`, "larder uninstall --help"},
		{"init --queue /root/q/queue.db", "no cache is named", "--cache file:///"},
		{"init --queue /root/q/queue.db --cache /root/c --compression lzma", "lzma", "--compression zstd:3"},
		{"init --queue /root/q/queue.db --cache /root/c --mode 0999", `--mode is "0999"`, "--mode 0664"},
		{"init --queue /root/q/queue.db --cache /root/c --mode 0444", `--mode is "0444"`, "--mode 0664"},
		{"init --queue /root/q/queue.db --cache /root/c extra", `unexpected argument "extra"`, "larder init --help"},
	} {
		t.Run(wrong.args, func(t *testing.T) {
			before := files(t, l.cache)
			r := refusal{2, wrong.problem, wrong.hint}
			r.changesNothing(t, l.machine, append([]string{"larder"}, strings.Fields(wrong.args)...)...)
			unchanged(t, "cache", before, files(t, l.cache))
		})
	}
}

func TestInitRefusesWhatItCannotLayDown(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	for what, args := range map[string][]string{
		"a hook that is not there":    {"--hook", "/nowhere/larder-hook"},
		"a hook that is no program":   {"--hook", "/etc/passwd"},
		"a group that nobody is in":   {"--group", "nobodys"},
		"a queue below a file":        {"--queue", "/etc/passwd/queue.db"},
		"a queue that is a directory": {"--queue", "/etc"},
	} {
		t.Run(what, func(t *testing.T) {
			refusal{exit: 1}.changesNothing(t, m, append([]string{"larder", "init", "--cache", "/root/cache"}, args...)...)
		})
	}
}

func TestPushRefusesWhatIsNotInTheStore(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		good := l.buildOne(t, "good")
		const never = "/nix/store/00000000000000000000000000000000-never"
		l.run(t, "sh", "-c", "ln -s "+never+" never; ln -s /etc/passwd passwd; ln -s loop loop")
		for what, wrong := range map[string]struct {
			path string
			refusal
		}{
			"a path that was never built": {never, refusal{1, never + ": path is not in the local store", "nix-store --realise"}},
			"a link to one":               {"./never", refusal{1, "never", ""}},
			"a file outside the store":    {"/etc/passwd", refusal{1, `"/etc/passwd" is not a store path`, "/nix/store/<hash>-<name>"}},
			"a link to one of those":      {"passwd", refusal{1, `"passwd" is not a store path`, "/nix/store/<hash>-<name>"}},
			"a name that is no path":      {"/nix/store/built", refusal{1, `"/nix/store/built" is not a store path`, "/nix/store/<hash>-<name>"}},
			"the store":                   {"/nix/store", refusal{1, `"/nix/store" is not a store path`, "/nix/store/<hash>-<name>"}},
			"nothing":                     {"./result", refusal{1, "no such file", "/nix/store/<hash>-<name>"}},
			"a link to itself":            {"loop", refusal{1, "loop", "/nix/store/<hash>-<name>"}},
		} {
			t.Run(what, func(t *testing.T) {
				before := files(t, l.cache)
				wrong.changesNothing(t, l.machine, "larder", "push", good, wrong.path)
				unchanged(t, "cache", before, files(t, l.cache))
			})
		}
	})
}
