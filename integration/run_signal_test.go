package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// counter is a command that counts a signal in a file, until another one ends it.
func counter(signal string) []string {
	return []string{"sh", "-c", `
		: > signals
		trap 'echo got >> signals' ` + signal + `
		trap 'exit 7' USR1
		echo ready > begun
		while :; do sleep 0.01; done`}
}

// counted returns how many signals a counter has got, and waits for the first.
func (j *ciJob) counted(t *testing.T) (n int) {
	t.Helper()
	file := j.host(j.user.home + "/signals")
	eventually(t, "the signal", func() bool {
		text, err := os.ReadFile(file)
		must(t, err)
		n = strings.Count(string(text), "got\n")
		return n > 0
	})
	return n
}

// begun waits until a command has made a file of that name.
func (j *ciJob) begun(t *testing.T) {
	t.Helper()
	eventually(t, "the command to begin", func() bool {
		text, _ := os.ReadFile(j.host(j.user.home + "/begun"))
		return string(text) == "ready\n"
	})
}

func TestExitCodeIsTheCommands(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	j.run(t, "sh", "-c", "echo text > text; mkdir dir")
	for _, c := range []struct {
		exit int
		args []string
	}{
		{0, []string{"true"}},
		{7, []string{"sh", "-c", "exit 7"}},
		{3, []string{"sh", "-c", "exit 3"}},
		{127, []string{"nosuchcommand"}},
		{127, []string{"/nosuchcommand"}},
		{126, []string{"./text"}},
		{126, []string{"./dir"}},
		{128 + 15, []string{"sh", "-c", "kill -TERM $$"}},
		{128 + 9, []string{"sh", "-c", "kill -KILL $$"}},
		{128 + 2, []string{"sh", "-c", "kill -INT $$"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			for _, flags := range [][]string{nil, {"--strict"}, {"--read-only"}} {
				args := slices.Insert(j.around(c.args...), 2, flags...)
				_, stderr, exit := j.tryRun(t, args...)
				if exit != c.exit {
					t.Errorf("%q: exit %d, want %d: %s", flags, exit, c.exit, stderr)
				}
				if failed := strings.Contains(stderr, "larder: error"); failed != (c.exit == 126 || c.exit == 127) {
					t.Errorf("%q: stderr is %s", flags, stderr)
				}
				j.leftNothing(t)
			}
		})
	}
}

func TestRunGoesOnWhenNobodyReadsItsReport(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	// A pipe whose last reader is gone before larder begins.
	const unread = `mkfifo pipe; exec 3<>pipe; exec 4>pipe; exec 3<&-; "$@" 2>&4 4>&-`
	out, _, exit := j.tryRun(t, slices.Concat([]string{"sh", "-c", unread, "-"}, j.around("sh", "-c", `nix-build --no-out-link `+manyGraph+` --arg count 1 2>/dev/null; exit 7`))...)
	if exit != 7 {
		t.Errorf("exit %d, want the command's", exit)
	}
	j.leftNothing(t)
	if got := j.lines(t, "larder", "list", "--cache", "cache"); !slices.Contains(got, strings.TrimSpace(out)) {
		t.Errorf("in the cache is %q, and not %q", got, out)
	}
	j.run(t, "test", "-s", "report.json")
}

func TestCommandHasOurInputAndOutput(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	stdout, stderr, _ := j.tryRun(t, "sh", "-c", `echo question | "$@" | cat`, "-", "larder", "run", "--cache", "cache", "--",
		"sh", "-c", "cat; echo problem >&2")
	if stdout != "question\n" || !strings.HasPrefix(stderr, "problem\n") {
		t.Errorf("stdout is %q, stderr %q", stdout, stderr)
	}
}

func TestSignalsReachTheCommandOnce(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	for name, sig := range map[string]syscall.Signal{
		"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT, "USR2": syscall.SIGUSR2,
	} {
		t.Run(name, func(t *testing.T) {
			p := j.start(t, j.around(counter(name)...)...)
			j.begun(t)
			p.signal(t, sig)
			n := j.counted(t)
			p.signal(t, syscall.SIGUSR1)
			if _, stderr, exit := p.wait(t); exit != 7 || n != 1 {
				t.Errorf("exit %d, and the command has got %d signals: %s", exit, n, stderr)
			}
			j.leftNothing(t)
			j.run(t, "rm", "begun")
		})
	}
}

// What is typed goes to all that is in the foreground.
func TestKeysReachTheCommandOnce(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	for name, key := range map[string]string{"INT": "\x03", "QUIT": "\x1c"} {
		t.Run(name, func(t *testing.T) {
			term := j.startOnTerminal(t, j.around(counter(name)...)...)
			j.begun(t)
			// Signals that come together are one. So larder hears of it when the command
			// has dealt with it already.
			term.signal(t, syscall.SIGSTOP)
			term.types(t, key)
			j.counted(t)
			term.signal(t, syscall.SIGCONT)
			term.signal(t, syscall.SIGUSR1)
			if _, _, exit := term.wait(t); exit != 7 {
				t.Errorf("exit %d, want 7", exit)
			}
			if n := j.counted(t); n != 1 {
				t.Errorf("the command has got %d signals", n)
			}
			j.leftNothing(t)
			j.run(t, "rm", "begun")
		})
	}
}

// A shell that controls jobs stops and continues all of a job.
func TestRunStopsAndContinuesWithItsCommand(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	term := j.startOnTerminal(t, "bash", "--norc", "--noprofile", "-i")
	term.types(t, "larder run --cache cache -- sh -c 'echo rea''dy; read line; echo got $line; exit 7'\n")
	term.shows(t, "ready")
	term.types(t, "\x1a") // ^Z
	term.shows(t, "Stopped")
	term.types(t, "echo still'' here; fg\n")
	term.shows(t, "still here")
	term.types(t, "it\n")
	term.shows(t, "got it")
	term.types(t, "echo exit'' $?\n")
	term.shows(t, "exit 7")
	term.types(t, "exit\n")
	term.wait(t)
	j.leftNothing(t)
}

// A command that nobody wants any more is not begun.
func TestInterruptBeforeTheCommandIsHeard(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	for name, flags := range map[string][]string{"lenient": nil, "strict": {"--strict"}} {
		t.Run(name, func(t *testing.T) {
			gate := newGate(t)
			slow := filepath.Join(string(gate)+".bin", "nix")
			must(t, os.Mkdir(filepath.Dir(slow), 0o755))
			writeScript(t, slow, "read line < "+string(gate)+"; exit 1")
			p := j.with("PATH="+filepath.Dir(slow)+":"+machinePATH).start(t, slices.Insert(j.around("sh", "-c", ": > ~/begun"), 2, flags...)...)
			gate.await(t)
			p.signal(t, syscall.SIGTERM)
			if _, stderr, exit := p.wait(t); exit != 128+15 || stderr != "" {
				t.Errorf("exit %d, stderr %s", exit, stderr)
			}
			if _, err := os.Stat(j.host("/root/begun")); err == nil {
				t.Error("the command has begun")
			}
			j.leftNothing(t)
		})
	}
}

// What was built is not lost because somebody has had enough.
func TestInterruptedRunKeepsWhatWasFinished(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		j := provider{n, r}.job(t, "")
		gate := newGate(t)
		term := j.startOnTerminal(t, j.around(buildProject("--argstr", "gate", string(gate))...)...)
		j.untilCached(t, "part")
		term.types(t, "\x03")
		o := j.ends(t, term.process)
		if o.exit == 0 || o.report.ExitCode == nil || *o.report.ExitCode != o.exit {
			t.Errorf("exit %d, report %+v", o.exit, o.report)
		}
		j.leftNothing(t)
		j.whole(t)
	})
}

// Nobody sees any more what is said.
func TestRunEndsWithItsTerminal(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	term := j.startOnTerminal(t, j.around(buildProject("--argstr", "gate", string(newGate(t)))...)...)
	j.untilCached(t, "part")
	must(t, term.master.Close())
	if o := j.ends(t, term.process); o.exit == 0 || o.report.LeftOver != 0 || len(j.cached(t)) != o.report.Added {
		t.Errorf("exit %d, report %+v", o.exit, o.report)
	}
	j.leftNothing(t)
	j.whole(t)
}

// bigJob is a run whose command has built something that takes long to copy, and waits.
func bigJob(t *testing.T, flags ...string) (j *ciJob, p *process) {
	t.Helper()
	j = provider{nixes[0], roles[0]}.job(t, "")
	const expr = `import /larder/graphs/derive.nix "big" { } "head -c 256M /dev/urandom > $out"`
	command := []string{"sh", "-c", "nix-build --no-out-link --expr '" + expr + "'; exec sleep 1000"}
	p = j.start(t, slices.Insert(j.around(command...), 2, flags...)...)
	eventually(t, "the copy to begin", func() bool {
		unfinished, err := filepath.Glob(filepath.Join(j.cache, ".larder", "tmp", "[^.]*"))
		must(t, err)
		return len(unfinished) > 0 && strings.Contains(p.stdout.String(), "-big\n")
	})
	return j, p
}

func TestInterruptFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := provider{nixes[0], roles[0]}.job(t, "")
			j.runs(t, "true") // makes the cache
			release := j.stick(t)
			p := j.start(t, j.around("sh", "-c", "nix-build --no-out-link --option substituters '' --expr '"+oneExpr("sticky")+"'; exec sleep 1000")...)
			eventually(t, "the job to be in hand", func() bool {
				nars, err := filepath.Glob(filepath.Join(j.cache, "nar", "*.nar*"))
				must(t, err)
				return len(nars) > 0 && strings.Contains(p.stdout.String(), "-sticky\n")
			})
			p.signal(t, sig)
			eventually(t, "the command to end", func() bool { return len(childrenOf(t, p)) == 0 })
			release() // from here on it has most of five seconds, and takes a moment
			if o := j.ends(t, p); o.exit != 128+int(sig) || o.report.LeftOver != 0 || o.report.Done != 1 {
				t.Errorf("exit %d, report %+v: %v", o.exit, o.report, p)
			}
			j.leftNothing(t)
			j.holdsAll(t)
		})
	}
}

// Somebody who asks twice has no time at all, and a provider has ten seconds.
func TestInterruptedRunEndsSoon(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"twice": true, "once": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !again && os.Getenv("LARDER_LONG") != "1" {
				t.Skip("takes five seconds of a processor")
			}
			limit := 8 * time.Second
			if again {
				limit = 5 * time.Second // who has not heard the second one takes them all
			}
			for range 3 { // a busy machine may be late, but not each time
				if interrupted(t, again) < limit {
					return
				}
			}
			t.Errorf("takes more than %v", limit)
		})
	}
}

// interrupted interrupts a run that has much in hand, once or again, and returns how
// long it takes to end.
func interrupted(t *testing.T, again bool) (took time.Duration) {
	t.Helper()
	j, p := bigJob(t, "--compression", "zstd:13", "--workers", "1") // for long
	p.signal(t, syscall.SIGINT)
	begin := time.Now()
	if again {
		eventually(t, "the command to end", func() bool { return len(childrenOf(t, p)) == 0 })
		p.signal(t, syscall.SIGINT)
	}
	o := j.ends(t, p)
	took = time.Since(begin)
	t.Logf("took %v", took)
	if o.exit != 130 || o.report.LeftOver != 1 || len(j.cached(t)) != 0 {
		t.Errorf("exit %d, report %+v: %v", o.exit, o.report, p)
	}
	j.leftNothing(t)
	return took
}

// draining is a run whose cache lets nothing in, and whose command is about to end.
func draining(t *testing.T, r role, flags ...string) (j *ciJob, p *process) {
	t.Helper()
	j = provider{nixes[0], r}.job(t, "")
	gate := newGate(t)
	command := "nix-store --add report.json; read line < " + string(gate) + "; nix-build --no-out-link --expr '" + oneExpr("built") + "'; echo ready > begun"
	j.run(t, "sh", "-c", "echo > report.json")
	p = j.start(t, slices.Insert(j.around("sh", "-c", command), 2, flags...)...)
	j.untilCached(t, "report.json") // then all is in full swing
	j.holdUp(t)
	gate.await(t)()
	j.begun(t)
	return j, p
}

func TestSignalEndsTheDrain(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, p := draining(t, roles[1])
			eventually(t, "the command to end", func() bool { return len(childrenOf(t, p)) == 0 })
			p.signal(t, sig)
			o := j.ends(t, p)
			if o.exit != 0 || o.report.LeftOver != 1 || !strings.Contains(o.stderr, "warning") {
				t.Errorf("exit %d, report %+v: %v", o.exit, o.report, p)
			}
			j.leftNothing(t)
		})
	}
}

// childrenOf returns the processes that a process has started.
func childrenOf(t *testing.T, p *process) []string {
	t.Helper()
	pid := p.cmd.Process.Pid
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(t, err)
	var all []string
	for _, file := range tasks {
		text, _ := os.ReadFile(file) // (ignored) the thread has ended
		for _, child := range strings.Fields(string(text)) {
			if _, err := strconv.Atoi(child); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

func TestDeadlineEndsTheDrain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		role  role // with a hook, and without one
		flags []string
		exit  int
	}{
		"lenient": {roles[1], []string{"--deadline", "1ms"}, 0},
		"strict":  {roles[3], []string{"--deadline", "1ms", "--strict"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, p := draining(t, c.role, c.flags...)
			o := j.ends(t, p)
			if o.exit != c.exit || o.report.LeftOver != 1 || o.report.Built != 1 || !strings.Contains(o.stderr, "larder: warning: 1 path left over, and not in the cache") {
				t.Errorf("exit %d, report %+v: %v", o.exit, o.report, p)
			}
			j.leftNothing(t)
		})
	}
}
