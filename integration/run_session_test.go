package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// begins has a step of the job call larder start, and returns the machine as later steps
// see it. args are further ones for start.
func (j *ciJob) begins(t *testing.T, args ...string) (later *ciJob) {
	t.Helper()
	file := j.user.home + "/github-env"
	j.with("GITHUB_ENV="+file).run(t, append([]string{"larder", "start", "--cache", "cache"}, args...)...)
	later = new(ciJob)
	*later = *j
	later.machine = j.with(githubEnv(t, j.host(file))...)
	return later
}

// githubEnv reads a file as GitHub does.
func githubEnv(t *testing.T, file string) (env []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	for rest := string(text); rest != ""; {
		head, body, ok := strings.Cut(rest, "\n")
		name, end, multi := strings.Cut(head, "<<")
		value, after, closed := strings.Cut(body, "\n"+end+"\n")
		if !ok || !multi || !closed {
			t.Fatalf("GitHub does not understand %q", rest)
		}
		env, rest = append(env, name+"="+value), after
	}
	return env
}

// stops calls larder stop, which has to end with 0.
func (j *ciJob) stops(t *testing.T, args ...string) (o outcome) {
	t.Helper()
	p := j.start(t, append([]string{"larder", "stop", "--report", j.user.home + "/report.json"}, args...)...)
	if o = j.ends(t, p); o.exit != 0 {
		t.Fatalf("exit %d: %v", o.exit, p)
	}
	return o
}

// leftOnlyAHook fails the test if a session left more than a hook that does nothing.
func (j *ciJob) leftOnlyAHook(t *testing.T) {
	t.Helper()
	for _, trace := range j.traces(t) {
		name := filepath.Base(strings.Fields(trace)[0])
		if parent := filepath.Base(filepath.Dir(trace)); !j.role.hooks || parent != "runs" && name != "queue.db-ended" && !strings.HasPrefix(name, "larder-hook") {
			t.Errorf("left behind: %s", trace)
		}
	}
	j.nothingRunsOf(t, "larder")
}

func TestJobOfThreeSteps(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		p := provider{n, r}
		j := p.job(t, "")
		step := j.begins(t)
		step.run(t, buildProject()...)
		step.run(t, buildProject("--argstr", "leaf", "2")...)
		o := step.stops(t)
		if rep := o.report; rep.Built != 11 || rep.Added != len(j.cached(t)) || rep.LeftOver != 0 {
			t.Errorf("report is %+v", rep)
		}
		j.holdsAll(t)
		j.leftOnlyAHook(t)

		// A step that comes afterwards still has the environment.
		step.run(t, buildProject("--argstr", "leaf", "3")...)
		step.run(t, "larder", "stop")
		j.leftOnlyAHook(t)

		next := p.job(t, j.cache)
		later := next.begins(t)
		if built := buildings(stderrOf(t, later, buildProject()...)); r.reads && len(built) > 0 {
			t.Errorf("built %q", built)
		}
		if o := later.stops(t); o.report.Added != 0 {
			t.Errorf("report is %+v", o.report)
		}
	})
}

// stderrOf runs a command that has to end with 0 for its stderr.
func stderrOf(t *testing.T, j *ciJob, args ...string) string {
	t.Helper()
	p := j.start(t, args...)
	if _, _, exit := p.wait(t); exit != 0 {
		t.Fatalf("exit %d: %v", exit, p)
	}
	return p.stderr.String()
}

// Providers end what a step leaves behind.
func TestStopWorksWithoutTheWorker(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		j := provider{n, r}.job(t, "")
		step := j.begins(t)
		step.killWorker(t)
		step.run(t, buildProject()...)
		if o := step.stops(t); o.report.Built != 8 || o.report.LeftOver != 0 {
			t.Errorf("report is %+v: %s", o.report, o.stderr)
		}
		j.holdsAll(t)
		j.leftOnlyAHook(t)
	})
}

// killWorker kills the session's worker.
func (j *ciJob) killWorker(t *testing.T) {
	t.Helper()
	sessions := j.sessions(t)
	if len(sessions) != 1 {
		t.Fatalf("sessions are %q, want one", sessions)
	}
	text, err := os.ReadFile(filepath.Join(sessions[0], "session.json"))
	must(t, err)
	var state struct{ Worker int }
	must(t, json.Unmarshal(text, &state))
	j.asRoot().run(t, "sh", "-c", fmt.Sprintf("kill -9 %d", state.Worker))
}

// Shells come and go, and share what the first of them began.
func TestShellsShareASession(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	first := j.run(t, "larder", "start", "--join", "--cache", "cache")
	if again := j.run(t, "larder", "start", "--join", "--cache", "cache"); again != first {
		t.Errorf("the second shell is told %s, the first %s", again, first)
	}
	if other := j.run(t, "larder", "start", "--cache", "cache"); other == first {
		t.Error("who does not want to share, does")
	}
	if other := j.run(t, "larder", "start", "--join", "--cache", "other"); strings.Contains(first, other) {
		t.Error("another cache's is shared")
	}
	for range 3 {
		j.stops(t)
	}
}
