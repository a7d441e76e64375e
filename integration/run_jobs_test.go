package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The main story, as CI has it: each job is on a new machine.
func TestJobsBuildOnlyWhatNoJobHasBuilt(t *testing.T) {
	eachRole(t, func(t *testing.T, n nix, r role) {
		p := provider{n, r}
		all := []string{"app", "compiler", "docs", "download", "leaf", "lib", "part"}
		const outputs = 8

		first := p.job(t, "")
		one := first.runs(t, buildProject()...)
		one.hasBuilt(t, all...)
		first.holdsAll(t)
		if rep := one.report; rep.Built != outputs || rep.Hits != 0 || rep.Added != len(first.cached(t)) {
			t.Errorf("report of the first job is %+v", rep)
		}
		if len(one.report.Notes) != len(r.notes) {
			t.Errorf("notes are %q, want %q", one.report.Notes, r.notes)
		}
		for i, note := range one.report.Notes {
			if i < len(r.notes) && !strings.Contains(note, r.notes[i]) || !strings.Contains(one.stderr, "larder: "+note+"\n") {
				t.Errorf("note %d is %q, want %q: %s", i, note, r.notes[i], one.stderr)
			}
		}
		if told := strings.Contains(first.run(t, "larder", "run", "--quiet", "--cache", "cache", "--", "sh", "-c", "echo $NIX_CONFIG"), "post-build-hook"); told != r.hooks {
			t.Errorf("there is a hook: %t, want %t", told, r.hooks)
		}

		// Nothing has changed.
		second := p.job(t, first.cache)
		before := files(t, second.cache)
		two := second.runs(t, buildProject()...)
		if two.stdout != one.stdout {
			t.Errorf("the second job has made %s, the first %s", two.stdout, one.stdout)
		}
		if r.reads {
			two.hasBuilt(t)
			if rep := two.report; rep.Built != 0 || rep.Hits == 0 || !strings.Contains(two.stderr, "larder: nothing was built") {
				t.Errorf("report of the second job is %+v", rep)
			}
		} else {
			two.hasBuilt(t, all...)
		}
		if rep := two.report; rep.Added != 0 || rep.Downloaded != 0 {
			t.Errorf("report of the second job is %+v", rep)
		}
		unchanged(t, "cache after the second job", before, files(t, second.cache))

		// A leaf has changed.
		third := p.job(t, second.cache)
		three := third.runs(t, buildProject("--argstr", "leaf", "2")...)
		if r.reads {
			three.hasBuilt(t, "app", "leaf", "part")
			if rep := three.report; rep.Built != 3 || rep.Added != 3 {
				t.Errorf("report of the third job is %+v", rep)
			}
		}
		hasPaths(t, "cache after the third job", third.cached(t), first.cached(t))
		hasPaths(t, "cache after the third job", third.cached(t), third.wanted(t, third.validPaths(t)))
		third.whole(t)
		third.asRoot().collectGarbage(t)
		equalPaths(t, "store without roots", third.asRoot().validPaths(t), nil)
	})
}

// A provider kills what takes too long, and saves the directory as it is.
func TestJobProfitsFromOneThatWasKilled(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		p := provider{n, r}
		gate := newGate(t)
		args := buildProject("--argstr", "gate", string(gate))
		killed := p.job(t, "")
		run := killed.start(t, killed.around(args...)...)
		for _, name := range []string{"compiler", "docs", "download", "part"} {
			killed.untilCached(t, name)
		}
		must(t, syscall.Kill(-run.cmd.Process.Pid, syscall.SIGKILL))
		run.wait(t)
		killed.asRoot().tryRun(t, "sh", "-c", "kill -9 -1") // a machine that is gone; a nix-daemon would go on
		killed.whole(t)
		must(t, os.WriteFile(filepath.Join(killed.cache, ".larder", "tmp", "vm-1-X"), nil, 0o644)) // as it would have left it

		next := p.job(t, killed.cache)
		second := next.start(t, next.around(args...)...)
		gate.await(t)()
		o := next.ends(t, second)
		if o.exit != 0 {
			t.Fatalf("exit %d: %v", o.exit, second)
		}
		if r.reads {
			o.hasBuilt(t, "app")
		}
		hasPaths(t, "cache", next.cached(t), next.wanted(t, next.validPaths(t)))
		next.whole(t)
		next.leftNothing(t)
	})
}

// A job that is short of space collects garbage, and that is what it has just built.
func TestJobThatCollectsGarbageKeepsWhatItBuilt(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		if !r.hooks {
			t.Skip("without a hook it takes the fifth of a second until there are roots")
		}
		j := provider{n, r}.job(t, "")
		o := j.runs(t, "sh", "-euc", `nix-build --no-out-link `+projectGraph+`; nix-store --gc; nix-store --gc`)
		// The source of which no hook tells may be gone before it was looked at.
		if n := len(j.cached(t)); n < 8 || o.report.Built != 8 || o.report.Gone > 1 || o.report.LeftOver+len(o.report.Failed) > 0 {
			t.Errorf("%d entries, report %+v", n, o.report)
		}
		j.whole(t)
	})
}
