package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// projectGraph is what jobs build: see testdata/graphs.
const projectGraph = "/larder/graphs/project.nix"

// A role is how a job's user stands to Nix.
type role struct {
	name   string
	user   user
	daemon bool     // through a nix-daemon
	conf   []string // what the administrator wrote into nix.conf

	// reads and hooks say whether Nix takes the cache, and a hook, from the user.
	reads, hooks bool
	notes        []string // what larder has to say about it
}

var roles = []role{
	{name: "root", user: root, reads: true, hooks: true},
	{name: "trusted", user: alice, daemon: true, conf: []string{"trusted-users = root alice"}, reads: true, hooks: true},
	{name: "allowed", user: bob, daemon: true, conf: []string{"trusted-substituters = " + substituter("/home/bob/cache")}, reads: true,
		notes: []string{"nix-daemon does not trust you"}},
	{name: "stranger", user: bob, daemon: true,
		notes: []string{"nix-daemon does not trust you", "trusted-substituters = " + substituter("/home/bob/cache")}},
}

// substituter is how larder names a cache to Nix.
func substituter(cache string) string { return "file://" + cache + "?trusted=true" }

// eachRole runs a parallel subtest for every role on every version of Nix.
func eachRole(t *testing.T, test func(t *testing.T, n nix, r role)) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, r := range roles {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				test(t, n, r)
			})
		}
	})
}

// someRoles is eachRole with each role on one version only, unless LARDER_LONG is 1.
func someRoles(t *testing.T, test func(t *testing.T, n nix, r role)) {
	eachRole(t, func(t *testing.T, n nix, r role) {
		i := slices.IndexFunc(roles, func(other role) bool { return other.name == r.name })
		if os.Getenv("LARDER_LONG") != "1" && nixes[i%len(nixes)] != n {
			t.Skip("for LARDER_LONG")
		}
		test(t, n, r)
	})
}

// A provider gives each job an empty machine, on which a directory is what a job
// before it has saved.
type provider struct {
	nix  nix
	role role
}

// job makes a machine. saved is a directory of an earlier job, or "".
func (p provider) job(t *testing.T, saved string) *ciJob {
	t.Helper()
	m := newMachine(t, p.nix, p.role.conf...).with(patient)
	if p.role.daemon {
		m.startDaemon(t)
	}
	j := &ciJob{role: p.role, larder: larder{
		// Nix has to find out that there is a daemon, as it does for most people.
		machine: m.as(p.role.user).with("NIX_REMOTE="),
		cache:   m.host(filepath.Join(p.role.user.home, "cache")),
	}}
	if saved != "" {
		owner := p.role.user
		if owner == root {
			owner = alice // as whom a tar made elsewhere is unpacked by root
		}
		restore(t, saved, j.cache, owner)
	}
	return j
}

// restore copies a saved directory as providers do: files only, so that empty
// directories are gone; with another owner, and the time of now.
func restore(t *testing.T, saved, dir string, owner user) {
	t.Helper()
	err := filepath.WalkDir(saved, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no file", path)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, saved))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, text, 0o644)
	})
	must(t, err)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.uid), int(owner.gid))
	}))
}

// A ciJob is a machine on which larder run is called. Its larder has no queue that
// would be there before and afterwards.
type ciJob struct {
	larder
	role role
}

// A runReport is what a test wants to know of what larder run --report writes.
type runReport struct {
	Cache        string   `json:"cache"`
	Queued       int      `json:"queued"`
	Done         int      `json:"done"`
	Gone         int      `json:"gone"`
	Failed       []any    `json:"failed"`
	LeftOver     int      `json:"left_over"`
	Added        int      `json:"added"`
	NarBytes     int64    `json:"nar_bytes"`
	FileBytes    int64    `json:"file_bytes"`
	Built        int      `json:"built"`
	Downloaded   int      `json:"downloaded"`
	AlreadyThere int      `json:"already_there"`
	LeftOut      []any    `json:"left_out"`
	Hits         int      `json:"hits"`
	HitNarBytes  int64    `json:"hit_nar_bytes"`
	ExitCode     *int     `json:"exit_code"`
	Notes        []string `json:"notes"`
}

// An outcome is what became of a larder run.
type outcome struct {
	exit           int
	stdout, stderr string
	report         runReport
	built          []string // names of derivations that Nix has built
}

// around returns a larder run around a command.
func (j *ciJob) around(args ...string) []string {
	home := j.user.home
	return append([]string{"larder", "run", "--cache", home + "/cache", "--report", home + "/report.json", "--"}, args...)
}

// buildProject returns what builds the project, with further options.
func buildProject(args ...string) []string {
	return append([]string{"nix-build", "--no-out-link", projectGraph}, args...)
}

// runs runs a command by larder run, which has to end with 0 and to leave nothing.
func (j *ciJob) runs(t *testing.T, args ...string) outcome {
	t.Helper()
	p := j.start(t, j.around(args...)...)
	o := j.ends(t, p)
	if o.exit != 0 {
		t.Fatalf("exit %d: %v", o.exit, p)
	}
	j.leftNothing(t)
	return o
}

// ends waits for a larder run.
func (j *ciJob) ends(t *testing.T, p *process) (o outcome) {
	t.Helper()
	o.stdout, o.stderr, o.exit = p.wait(t)
	text, err := os.ReadFile(j.host(j.user.home + "/report.json"))
	must(t, err)
	must(t, json.Unmarshal(text, &o.report))
	o.built = buildings(o.stderr)
	return o
}

// buildings returns the names of the derivations that Nix says it builds, sorted.
func buildings(stderr string) (names []string) {
	for line := range strings.Lines(stderr) {
		if drv, ok := strings.CutPrefix(line, "building '"); ok {
			drv, _, _ = strings.Cut(drv, ".drv'")
			names = append(names, drv[strings.Index(drv, "-")+1:])
		}
	}
	slices.Sort(names)
	return names
}

// leftNothing fails the test if runs have left something behind, wherever.
func (j *ciJob) leftNothing(t *testing.T) {
	t.Helper()
	if left := j.traces(t); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// traces returns what runs have left behind. What only root may remove does not count,
// and is removed by Nix, or by the next worker of root's: links to nowhere, and a
// directory without roots that root's hook made.
func (j *ciJob) traces(t *testing.T) (left []string) {
	t.Helper()
	must(t, filepath.WalkDir(j.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".larder" || slices.Contains([]string{j.host("/nix/store"), j.host("/larder")}, path)) {
			return fs.SkipDir
		}
		target, _ := os.Readlink(path) // of what is none it is ""
		switch name := strings.TrimPrefix(path, j.dir); {
		case !strings.Contains(name+target, "larder"),
			d.IsDir() && slices.Contains([]string{"larder", "hooks", "runs", fmt.Sprintf("larder-%d", j.user.uid)}, d.Name()):
			return nil
		case strings.HasPrefix(name, "/nix/") && j.user != root:
			if _, err := os.Stat(j.host(target)); d.IsDir() || d.Name() == "queue" || target != "" && err != nil {
				return nil
			}
		}
		left = append(left, strings.TrimSpace(path+" "+target))
		return nil
	}))
	tmp, err := filepath.Glob(filepath.Join(j.cache, ".larder", "tmp", "[^.]*"))
	must(t, err)
	return append(left, tmp...)
}

// untilCached waits until the cache has a path of that name.
func (j *ciJob) untilCached(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" in the cache", func() bool {
		return slices.ContainsFunc(j.cached(t), func(path string) bool { return strings.HasSuffix(path, "-"+name) })
	})
}

// holdsAll makes sure that the cache has what came into the machine's store, and is
// good.
func (j *ciJob) holdsAll(t *testing.T) {
	t.Helper()
	equalPaths(t, "cache", j.cached(t), j.wanted(t, j.validPaths(t)))
	j.whole(t)
}

// whole makes sure that what is in the cache is complete and good.
func (j *ciJob) whole(t *testing.T) {
	t.Helper()
	checkWhole(t, j.cache)
	j.asRoot().run(t, "nix", "store", "verify", "--store", "file://"+j.user.home+"/cache", "--all", "--no-trust")
}

// hasBuilt fails the test if a run has built something else than these.
func (o outcome) hasBuilt(t *testing.T, names ...string) {
	t.Helper()
	if !slices.Equal(o.built, names) {
		t.Errorf("built %q, want %q: %s", o.built, names, o.stderr)
	}
}
