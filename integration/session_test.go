package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// shellStep returns what runs a script in a shell after larder start.
func shellStep(script string) []string {
	return []string{"sh", "-euc", `eval "$(larder start --cache cache)"` + "\n" + script}
}

// buildStep is a line of a script that builds something.
func buildStep(name string) string {
	return "nix-build --no-out-link --expr '" + oneExpr(name) + "'\n"
}

// onlySession returns the directory of the only session that has not ended.
func (j *ciJob) onlySession(t *testing.T) string {
	t.Helper()
	queues, err := filepath.Glob(j.host("/var/lib/larder/runs/*/queue.db"))
	must(t, err)
	if len(queues) != 1 {
		t.Fatalf("sessions are %q, want one", queues)
	}
	return filepath.Dir(queues[0])
}

// workerOf returns the process ID of a session's worker, as the machine knows it.
func workerOf(t *testing.T, session string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(session, "session.json"))
	must(t, err)
	var state struct{ Worker int }
	must(t, json.Unmarshal(text, &state))
	if state.Worker <= 0 {
		t.Fatalf("there is no worker in %s", text)
	}
	return state.Worker
}

func TestTwoStopsAtOnceEndASessionOnce(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	p := j.start(t, shellStep(buildStep("built")+"larder stop & first=$!\nlarder stop & second=$!\nwait $first; wait $second")...)
	_, stderr, exit := p.wait(t)
	if exit != 0 || strings.Count(stderr, "1 built") != 1 || strings.Count(stderr, "nothing to stop") != 1 {
		t.Errorf("exit %d: %s", exit, stderr)
	}
	j.holdsAll(t)
}

// Number 0 is everybody in our process group, and others have the number of a worker that
// has ended.
func TestStopSignalsNobodyButItsWorker(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"0", "$victim"} {
		t.Run(victim, func(t *testing.T) {
			j := provider{nixes[0], roles[0]}.job(t, "")
			p := j.start(t, shellStep(`
				worker=$(sed 's/.*"worker":\([0-9]*\).*/\1/' $LARDER_SESSION/session.json)
				sleep 1000 & victim=$!
				sed "s/\"worker\":$worker/\"worker\":`+victim+`/" $LARDER_SESSION/session.json > new; mv new $LARDER_SESSION/session.json
				: > changed
				larder stop --deadline 1s && exit 8
				kill -9 $worker
				larder stop
				kill $victim`)...)
			if _, stderr, exit := p.wait(t); exit != 0 {
				t.Errorf("exit %d: %s", exit, stderr)
			}
			if _, err := os.Stat(j.host("/root/changed")); err != nil {
				t.Error(err)
			}
		})
	}
}

// Shells, and later steps of a job, keep what start told them. Nix fails builds whose hook
// is gone.
func TestBuildsSucceedWithoutTheLarderThatWasStarted(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		j := provider{n, roles[0]}.job(t, "")
		j.run(t, "sh", "-euc", "mkdir bin; cp /larder/bin/* bin; PATH=~/bin:$PATH\n"+strings.Join([]string{
			`eval "$(larder start --cache cache)"`,
			"mv bin elsewhere",
			buildStep("meanwhile"),
			"PATH=~/elsewhere:$PATH larder stop",
			"rm -r elsewhere",
			buildStep("afterwards"),
		}, "\n"))
		if cached := j.cached(t); len(cached) != 1 || !strings.HasSuffix(cached[0], "-meanwhile") {
			t.Errorf("cache has %q", cached)
		}
	})
}

// A shell that starts and stops again and again would have Nix call them all, and fail
// once the first of them is removed for its age. Nor is anything wrong with such a shell.
func TestHooksOfEndedSessionsAreNotCalled(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	out := j.run(t, shellStep(`
		larder stop
		eval "$(larder start --cache cache)"
		test ! -e $LARDER_SESSION/larder-hook.next
		larder stop
		larder doctor --cache cache >&2
		rm -r $LARDER_SESSION
		larder run --cache cache -- `+buildStep("built"))...)
	equalPaths(t, "cache", j.cached(t), []string{strings.TrimSpace(out)})
}

// nix.conf has comments, and takes any space for one blank.
func TestHomeMayHaveAnyName(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		for _, name := range []string{"job #3", "two  blanks", "a [*] pattern", "new\nline"} {
			r := roles[1]
			j := provider{n, r}.job(t, "")
			home := filepath.Join(r.user.home, name)
			must(t, os.Mkdir(j.host(home), 0o755))
			must(t, os.Chown(j.host(home), int(r.user.uid), int(r.user.gid)))
			_, stderr, exit := j.with("HOME="+home, "TMPDIR=/var/tmp").tryRun(t, j.around("nix-build", "--no-out-link", "--expr", oneExpr("built"))...)
			if exit != 0 || len(warnings(stderr)) != 0 {
				t.Errorf("home %q: exit %d: %s", home, exit, stderr)
			}
			if cached := j.cached(t); len(cached) != 1 {
				t.Errorf("home %q: cache has %q", home, cached)
			}
			j.leftNothing(t)
		}
	})
}

// A machine may have several caches, and only the next run of the same one can do what
// was left.
func TestRunOfAnotherCacheLeavesAKilledOneAlone(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	path := strings.TrimSpace(j.run(t, shellStep(`
		kill -9 $(sed 's/.*"worker":\([0-9]*\).*/\1/' $LARDER_SESSION/session.json)
		`+buildStep("built")+`rm $LARDER_SESSION/session.json`)...)) // as if it were a run's
	lock := filepath.Join(j.onlySession(t), "queue.db-lock")
	before := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(lock, before, before))

	j.run(t, "larder", "run", "--cache", "other", "--", "true")
	equalPaths(t, "cache", j.cached(t), nil)
	j.run(t, "larder", "run", "--cache", "cache", "--", "true")
	equalPaths(t, "cache", j.cached(t), []string{path})
	j.leftNothing(t)
}

func TestCommandIgnoresWhatWeWereToldToIgnore(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	out := j.run(t, "sh", "-c", `trap "" HUP INT; exec "$@"`, "-", "larder", "run", "--cache", "cache", "--", "sh", "-c", "kill -HUP $PPID; kill -INT $PPID; kill -HUP $$; kill -INT $$; echo here")
	if out != "here" {
		t.Errorf("it said %q", out)
	}
}

// The worker outlives the step that has the key as its variable, and other programs of a
// job are the same user's.
func TestEnvironmentOfAWorkerHasNoKey(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	secret, _ := j.newKey(t, "ci-1")
	text, err := os.ReadFile(secret)
	must(t, err)
	_, data, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	path := strings.TrimSpace(j.with("LARDER_SIGNING_KEY="+string(text)).run(t, shellStep(buildStep("built"))...))
	j.untilCached(t, "built")
	j.signedBy(t, []string{path}, "ci-1")

	worker := workerOf(t, j.onlySession(t))
	environ := j.run(t, "cat", fmt.Sprintf("/proc/%d/environ", worker))
	if !strings.Contains(environ, "BUILD_ID=dontKillMe") || strings.Contains(environ, data) {
		t.Errorf("environment of the worker is %q", environ)
	}
	if file := containing(t, j.host("/var/lib/larder"), data); file != "" {
		t.Errorf("the key is in %s", file)
	}
	j.run(t, "kill", fmt.Sprint(worker))
	eventually(t, "the worker's end", func() bool {
		return !slices.ContainsFunc(j.processes(), func(line string) bool { return strings.Contains(line, "session-worker") })
	})
}

// Jobs are not thrown away because somebody forgot the key.
func TestStopWithoutTheKeyLeavesTheJobsToOneThatHasIt(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	secret, _ := j.newKey(t, "ci-1")
	path := strings.TrimSpace(j.run(t, "sh", "-euc", `
		eval "$(LARDER_SIGNING_KEY=$(cat `+secret+`) larder start --cache cache)"
		kill -9 $(sed 's/.*"worker":\([0-9]*\).*/\1/' $LARDER_SESSION/session.json)
		`+buildStep("built")+`
		larder stop
		LARDER_SIGNING_KEY=$(cat `+secret+`) larder stop`))
	equalPaths(t, "cache", j.cached(t), []string{path})
	j.signedBy(t, []string{path}, "ci-1")
}

func TestStopCopiesIntoTheCacheOfTheSession(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	path := strings.TrimSpace(j.run(t, shellStep(`
		kill -9 $(sed 's/.*"worker":\([0-9]*\).*/\1/' $LARDER_SESSION/session.json)
		`+buildStep("built")+`LARDER_CACHE=~/other larder stop`)...))
	equalPaths(t, "cache", j.cached(t), []string{path})
}
