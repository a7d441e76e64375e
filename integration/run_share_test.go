package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Two jobs on two machines have one directory mounted.
func TestTwoJobsShareADirectory(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		shared := filepath.Join(tempDir(t), "cache")
		var runs []*process
		var jobs []*ciJob
		for _, leaf := range []string{"1", "2"} {
			j := provider{n, roles[0]}.job(t, "")
			j.cache = shared
			args := j.around(buildProject("--argstr", "leaf", leaf)...)
			args[slices.Index(args, "/root/cache")] = shared
			jobs, runs = append(jobs, j), append(runs, j.start(t, args...))
		}
		var all []string
		for i, j := range jobs {
			if o := j.ends(t, runs[i]); o.exit != 0 || len(warnings(o.stderr)) != 0 || o.report.LeftOver+len(o.report.Failed) != 0 {
				t.Errorf("exit %d, report %+v: %v", o.exit, o.report, runs[i])
			}
			all = append(all, j.wanted(t, j.validPaths(t))...)
		}
		for _, j := range jobs { // before the other one has ended, there are its unfinished files
			j.leftNothing(t)
		}
		slices.Sort(all)
		equalPaths(t, "cache", jobs[0].cached(t), slices.Compact(all))
		checkWhole(t, shared)
		jobs[0].verify(t)
	})
}

// What a run of the same user was killed over is not lost on a machine that lives on.
func TestNextRunFinishesWhatAKilledOneBegan(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		j := provider{n, r}.job(t, "")
		before, after := newGate(t), newGate(t)
		command := "nix-store --add text; read line < " + string(before) + "; nix-build --no-out-link --expr '" + oneExpr("built") + "'; read line < " + string(after)
		j.run(t, "sh", "-c", "echo text > text")
		p := j.start(t, j.around("sh", "-c", command)...)
		j.untilCached(t, "text")
		p.kill(t)
		before.await(t)() // its command lives on
		after.await(t)()
		eventually(t, "the command to end", func() bool {
			return !slices.ContainsFunc(j.processes(), func(line string) bool { return strings.Contains(line, "read line") })
		})

		// It might be alive, had it not been quiet for long.
		sessions := j.sessions(t)
		if len(sessions) != 1 {
			t.Fatalf("sessions are %q, want one", sessions)
		}
		ago := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(filepath.Join(sessions[0], "queue.db-lock"), ago, ago))
		j.runs(t, "true")
		j.holdsAll(t)
	})
}

// sessions returns the directories of runs, of whoever's.
func (j *ciJob) sessions(t *testing.T) (dirs []string) {
	t.Helper()
	for _, pattern := range []string{"/home/*/.local/state/larder/runs/*", "/var/lib/larder/runs/*"} {
		found, err := filepath.Glob(j.host(pattern))
		must(t, err)
		dirs = append(dirs, found...)
	}
	return dirs
}
