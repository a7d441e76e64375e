package integration

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// warnings returns what larder warns of.
func warnings(stderr string) (lines []string) {
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "larder: warning: ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// A command has nothing to do with what is wrong with a cache.
func TestCommandRunsWhateverTheCacheIs(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	notCaches(t, m)
	command := []string{"--", "sh", "-c", "echo ran; exit 7"}
	for name, bad := range badCaches {
		t.Run(name, func(t *testing.T) {
			j := &ciJob{larder: larder{machine: m.as(bad.who).with("NIX_REMOTE=")}}
			before := files(t, m.host("/srv"))
			run := append([]string{"larder", "run", "--cache", bad.cache}, command...)
			stdout, stderr, exit := j.tryRun(t, run...)
			if bad.exit == 2 { // the command line is wrong
				if exit != 2 || stdout != "" {
					t.Errorf("exit %d, stdout %q: %s", exit, stdout, stderr)
				}
				return
			}
			if exit != 7 || stdout != "ran\n" {
				t.Errorf("exit %d, stdout %q: %s", exit, stdout, stderr)
			}
			if w := warnings(stderr); len(w) != 1 || !strings.Contains(w[0], bad.problem) {
				t.Errorf("warnings are %q, want one of %q: %s", w, bad.problem, stderr)
			}
			strict := slices.Insert(run, 2, "--strict")
			if stdout, stderr, exit := j.tryRun(t, strict...); exit != 1 || stdout != "" || !strings.Contains(stderr, bad.problem) {
				t.Errorf("strict: exit %d, stdout %q: %s", exit, stdout, stderr)
			}
			if exit := exitOf(j.tryRun(t, "sh", "-c", `LARDER_CACHE=`+bad.cache+` larder run sh -c 'exit 7'`)); exit != 7 {
				t.Errorf("by the variable: exit %d", exit)
			}
			unchanged(t, "the place", before, files(t, m.host("/srv")))
		})
	}
}

func exitOf(_, _ string, exit int) int { return exit }

func TestWrongCommandLinesOfRunRunNothing(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	for args, problem := range map[string]string{
		"run --cache cache":                                "no command is named",
		"run -- touch ran":                                 "no cache is named",
		"run --cache cache --nonsense -- touch ran":        "-nonsense",
		"run --cache cache --deadline soon -- touch ran":   "soon",
		"run --cache cache --compression x -- touch ran":   `"x"`,
		"run --cache cache --workers -3 -- touch ran":      "--workers is -3",
		"run --cache cache --keep everything -- touch ran": "everything",
		"run --cache s3://cache -- touch ran":              "not on this machine",
	} {
		t.Run(args, func(t *testing.T) {
			_, stderr, exit := j.tryRun(t, append([]string{"larder"}, strings.Fields(args)...)...)
			if exit != 2 || !strings.Contains(stderr, problem) || !strings.Contains(stderr, "larder: hint: ") {
				t.Errorf("exit %d: %s", exit, stderr)
			}
			if left := j.run(t, "ls"); left != "" {
				t.Errorf("there is %s", left)
			}
			j.leftNothing(t)
		})
	}
}

// smallDisk mounts a disk of 4 MiB where the cache will be.
func (j *ciJob) smallDisk(t *testing.T) {
	t.Helper()
	must(t, j.inside(func() error {
		if err := os.MkdirAll("/srv", 0o755); err != nil {
			return err
		}
		return unix.Mount("tmpfs", "/srv", "tmpfs", 0, "size=4m")
	}))
}

// Nobody waits ten minutes for space that nobody makes.
func TestFullDiskIsToldOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before string // the command, or in it
		flags  []string
		exit   int
	}{
		"full before":         {"fill", nil, 0},
		"full meanwhile":      {"", nil, 0},
		"full for the strict": {"", []string{"--strict"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := provider{nixes[0], roles[0]}.job(t, "")
			j.smallDisk(t)
			if c.before != "" {
				j.run(t, "larder", "run", "--cache", "/srv/cache", "--", "true")
				j.fill(t)
			}
			command := "test -e /srv/filler || dd if=/dev/zero of=/srv/filler bs=4k 2>/dev/null; nix-build --no-out-link --expr '" + incompressible("big") + "'"
			args := slices.Insert(j.around("sh", "-c", command), 2, c.flags...)
			args[slices.Index(args, "/root/cache")] = "/srv/cache"
			p := j.start(t, args...)
			o := j.ends(t, p)
			if o.exit != c.exit || o.report.LeftOver+len(o.report.Failed) != 1 || len(warnings(o.stderr)) == 0 || !strings.Contains(o.stderr, "no space left on device") {
				t.Errorf("exit %d, report %+v: %v", o.exit, o.report, p)
			}
			j.leftNothing(t)
		})
	}
}

func TestRunWithoutNixRunsTheCommand(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "").with("PATH=/larder/bin")
	stdout, stderr, exit := j.tryRun(t, "/larder/bin/larder", "run", "--cache", "cache", "--", "/bin/sh", "-c", "echo ran; exit 7")
	if exit != 7 || stdout != "ran\n" || len(warnings(stderr)) != 1 || !strings.Contains(stderr, "PATH") {
		t.Errorf("exit %d, stdout %q: %s", exit, stdout, stderr)
	}
}

// A service, or a container, may have next to no environment.
func TestRunWithoutAHome(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, r := range roles[:2] {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				j := provider{n, r}.job(t, "")
				home := j.user.home
				stdout, stderr, exit := j.tryRun(t, append([]string{"env", "-i", "PATH=" + machinePATH, "TMPDIR=/var/tmp"},
					j.around("env", "HOME="+home, "nix-build", "--no-out-link", "--expr", oneExpr("built"))...)...)
				if exit != 0 || len(warnings(stderr)) != 0 {
					t.Errorf("exit %d: %s", exit, stderr)
				}
				equalPaths(t, "cache", j.cached(t), []string{strings.TrimSpace(stdout)})
				j.leftNothing(t)
			})
		}
	})
}

func TestCorruptPathFailsTheStrictOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags []string
		exit  int
	}{"lenient": {nil, 0}, "strict": {[]string{"--strict"}, 4}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := provider{nixes[0], roles[0]}.job(t, "")
			bad := j.buildOne(t, "bad")
			j.corrupt(t, bad)
			// A path that is there already comes in with what needs it.
			user := `import /larder/graphs/derive.nix "user" { } "echo ${` + oneExpr("bad") + `} > $out"`
			p := j.start(t, slices.Insert(j.around("nix-build", "--no-out-link", "--expr", "[("+user+") ("+oneExpr("good")+")]"), 2, c.flags...)...)
			o := j.ends(t, p)
			if o.exit != c.exit || len(o.report.Failed) != 1 || o.report.Added != 1 || o.report.Built != 2 || len(warnings(o.stderr)) != 1 {
				t.Errorf("exit %d, report %+v: %v", o.exit, o.report, p)
			}
			if cached := j.cached(t); len(cached) != 1 || !strings.HasSuffix(cached[0], "-good") {
				t.Errorf("the cache has %q", cached)
			}
			j.whole(t)
			j.leftNothing(t)
		})
	}
}

func TestReadOnlyRunWritesNothing(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		p := provider{n, r}
		first := p.job(t, "")
		first.runs(t, buildProject()...)
		j := p.job(t, first.cache)
		before := files(t, j.cache)
		args := slices.Insert(j.around(buildProject("--argstr", "leaf", "2")...), 2, "--read-only")
		_, stderr, exit := j.tryRun(t, args...)
		if exit != 0 || len(warnings(stderr)) != 0 {
			t.Errorf("exit %d: %s", exit, stderr)
		}
		if r.reads {
			outcome{built: buildings(stderr)}.hasBuilt(t, "app", "leaf", "part")
		}
		unchanged(t, "cache", before, files(t, j.cache))
		j.leftNothing(t)
	})
}

func TestReadOnlyRunMakesNoCache(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	stdout, stderr, exit := j.tryRun(t, slices.Insert(j.around("echo", "ran"), 2, "--read-only")...)
	if exit != 0 || stdout != "ran\n" {
		t.Errorf("exit %d, stdout %q: %s", exit, stdout, stderr)
	}
	if _, err := os.Stat(j.cache); err == nil {
		t.Error("there is a cache")
	}
}
