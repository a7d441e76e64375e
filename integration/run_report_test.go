package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// size returns how large the NARs of paths are, all together.
func (m *machine) size(t *testing.T, paths ...string) (sum int64) {
	t.Helper()
	for _, line := range m.lines(t, append([]string{"nix-store", "--query", "--size"}, paths...)...) {
		size, err := strconv.ParseInt(line, 10, 64)
		must(t, err)
		sum += size
	}
	return sum
}

// What larder says of a run is what anybody can find in the cache and in the store.
func TestReportIsTrue(t *testing.T) {
	someRoles(t, func(t *testing.T, n nix, r role) {
		upstream, downloaded := builtElsewhere(t, n, "--expr", oneExpr("upstream"))
		fromUpstream := r
		fromUpstream.conf = append(r.conf[:len(r.conf):len(r.conf)], "substituters = file://"+upstream+"?trusted=1")
		j := provider{n, fromUpstream}.job(t, "")
		command := []string{"nix-build", "--no-out-link", "--expr", fmt.Sprintf(`
			let upstream = %s; derive = import /larder/graphs/derive.nix; in [
				(derive "top" { } "echo ${upstream} > $out")
				(derive "a-secret" { } "echo secret > $out")
			]`, oneExpr("upstream"))}
		summary := j.user.home + "/summary.md"
		j.machine = j.with("GITHUB_STEP_SUMMARY="+summary, "GITHUB_ACTIONS=true")
		p := j.start(t, append([]string{"larder", "run", "--exclude", "*-secret"}, j.around(command...)[2:]...)...)
		o := j.ends(t, p)
		o.hasBuilt(t, "a-secret", "top")
		cached := j.cached(t)
		var fileBytes int64
		for _, entry := range entries(t, j.cache) {
			fileBytes += entry.size
		}
		rep := o.report
		if rep.Built != 2 || rep.Downloaded != len(downloaded) || rep.Hits != 0 || rep.AlreadyThere != 0 || len(rep.LeftOut) != 1 || rep.Failed == nil || *rep.ExitCode != 0 {
			t.Errorf("report is %+v", rep)
		}
		if rep.Added != len(cached) || rep.Added != 2 || rep.FileBytes != fileBytes || rep.NarBytes != j.asRoot().size(t, cached...) {
			t.Errorf("report is %+v, and the cache has %q of %d bytes", rep, cached, fileBytes)
		}
		if strings.Contains(o.stderr, "::warning") {
			t.Errorf("GitHub is warned of what is good: %s", o.stderr)
		}
		if text := readFile(t, j.host(summary)); !strings.Contains(text, "| built | 2 | |") && !strings.Contains(text, "| built | 2 |  |") || !strings.Contains(text, "secret") {
			t.Errorf("the summary is %s", text)
		}

		// What was downloaded comes from the cache now, which is the only place.
		next := provider{n, r}.job(t, j.cache)
		o = next.runs(t, command...)
		rep = o.report
		if !r.reads {
			if rep.Built != 3 || rep.Hits != 0 || rep.AlreadyThere != 2 || rep.Added != 1 {
				t.Errorf("report is %+v", rep)
			}
			return
		}
		o.hasBuilt(t, "a-secret")
		if rep.Built != 1 || rep.Downloaded != 0 || rep.Hits != 2 || rep.HitNarBytes != next.asRoot().size(t, cached...) || rep.Added != 1 {
			t.Errorf("report is %+v: %s", rep, o.stderr)
		}
	})
}

func TestGitHubIsWarnedOfWhatIsNotKept(t *testing.T) {
	t.Parallel()
	j := provider{nixes[0], roles[0]}.job(t, "")
	bad := j.buildOne(t, "bad")
	j.corrupt(t, bad)
	summary := j.user.home + "/summary.md"
	must(t, os.WriteFile(j.host(summary), []byte("# what another step said\n"), 0o644))
	user := `import /larder/graphs/derive.nix "user" { } "echo ${` + oneExpr("bad") + `} > $out"`
	p := j.with("GITHUB_STEP_SUMMARY="+summary, "GITHUB_ACTIONS=true").start(t, j.around("nix-build", "--no-out-link", "--expr", user)...)
	o := j.ends(t, p)
	if o.exit != 0 || strings.Count(o.stderr, "::warning title=larder::") != 1 || len(warnings(o.stderr)) != 0 {
		t.Errorf("exit %d: %s", o.exit, o.stderr)
	}
	if text := readFile(t, j.host(summary)); !strings.HasPrefix(text, "# what another step said\n") || !strings.Contains(text, "corrupt") {
		t.Errorf("the summary is %s", text)
	}
}
