package integration

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The script is for every CI that is not here, and for none.
func TestShellScriptBuildsOnce(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	script := filepath.Join(r.dir, "shell/with-larder")
	first := newRecipeJob(t, newMachine(t, nixes[0]).with("LARDER_CACHE=/root/cache", "LARDER_URL="+r.program()), "/root/project")
	first.script(t, "sh -e", script+" nix-build")
	first.isBuilt(t)
	first.nothingRuns(t)
	// The program is there now, and the command's exit code is the script's.
	offline := recipeJob{first.with("LARDER_URL=http://localhost:1/"), first.project}
	if out, exit := offline.tryScript(t, "sh -e", script+" sh -c 'exit 7'"); exit != 7 {
		t.Errorf("exit %d, want 7:\n%s", exit, out)
	}

	second := newRecipeJob(t, newMachine(t, nixes[0], buildsNothing).with("LARDER_CACHE=/root/cache", "LARDER_URL="+r.program()), "/root/project")
	restore(t, first.host("/root/cache"), second.host("/root/cache"), root)
	second.script(t, "sh -e", script+" nix-build")
	second.isBuilt(t)
}

// shSteps returns the scripts of a Jenkinsfile's sh steps.
func shSteps(t *testing.T, jenkinsfile string) []string {
	t.Helper()
	var steps []string
	for _, match := range regexp.MustCompile(`(?s)\bsh '''(.*?)'''`).FindAllStringSubmatch(jenkinsfile, -1) {
		// Groovy has its own escapes even here.
		if strings.Contains(match[1], `\`) {
			t.Errorf("Groovy would read the backslashes in %s", match[1])
		}
		steps = append(steps, match[1])
	}
	// In double quotes Groovy puts variables in, and with them what a branch is called.
	if calls := regexp.MustCompile(`\bsh *[('"]`).FindAllString(jenkinsfile, -1); len(calls) != len(steps) {
		t.Errorf("%d of %d sh steps are in three single quotes", len(steps), len(calls))
	}
	return steps
}

// A runner whom Nix trusts builds on an agent, and a fork's pull request uses that and
// adds nothing.
func TestJenkinsBuildsOnce(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	jenkinsfile := r.read(t, "jenkins/Jenkinsfile")
	variables := make(map[string]string)
	for _, match := range regexp.MustCompile(`(?m)^ +([A-Z_0-9]+) = '(.*)'$`).FindAllStringSubmatch(jenkinsfile, -1) {
		variables[match[1]] = match[2]
	}
	cache, steps := variables["LARDER_CACHE"], shSteps(t, jenkinsfile)
	variables["LARDER_URL"] = r.program()
	agent := func(env []string) recipeJob {
		m := newMachine(t, nixes[0], "trusted-users = root alice")
		m.startDaemon(t)
		workspace := alice.home + "/workspace/project_main"
		j := newRecipeJob(t, m.as(alice).with(environment(variables)...).with(env...).with("WORKSPACE="+workspace, "WORKSPACE_TMP="+workspace+"@tmp"), workspace)
		must(t, os.MkdirAll(j.host(cache), 0o755))
		must(t, os.Chown(j.host(cache), int(alice.uid), int(alice.gid)))
		return j
	}
	first := agent(nil)
	for _, step := range steps {
		first.script(t, "sh -xe", step)
	}
	first.isBuilt(t)
	checkWhole(t, first.host(cache))

	fork := agent([]string{"CHANGE_FORK=somebody"})
	restore(t, first.host(cache), fork.host(cache), alice)
	fork.addsNothing(t, cache, "sh -xe", steps...)
}

// instructions returns a Dockerfile's lines, continued ones joined.
func instructions(dockerfile string) []string {
	text := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(dockerfile, "")
	text = strings.ReplaceAll(text, "\\\n", "")
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
}

// Every instruction of the stage that builds is done as BuildKit would do it, in a
// machine that is the image.
func TestDockerfileBuildsOnce(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	build := func(m *machine) (mounts map[string]string) {
		t.Helper()
		j, args := newRecipeJob(t, m, "/src"), make(map[string]string)
		mounts = make(map[string]string)
		for _, line := range instructions(r.read(t, "docker/Dockerfile")) {
			instruction, rest, _ := strings.Cut(line, " ")
			switch instruction {
			case "FROM", "WORKDIR", "COPY":
			case "ARG":
				name, value, _ := strings.Cut(rest, "=")
				args[name] = value
			case "ADD":
				args["LARDER_URL"] = r.program()
				f := strings.Fields(expand(rest, args))
				hash, file := strings.TrimPrefix(f[0], "--checksum=sha256:"), f[3]
				must(t, os.MkdirAll(filepath.Dir(j.host(file)), 0o755))
				j.script(t, "sh -e", "curl --silent --output "+file+" "+f[2]+"\necho "+hash+"  "+file+" | sha256sum -c -\nchmod "+strings.TrimPrefix(f[1], "--chmod=")+" "+file)
			case "RUN":
				for strings.HasPrefix(rest, "--mount=") {
					var mount string
					mount, rest, _ = strings.Cut(rest, " ")
					for field := range strings.SplitSeq(mount, ",") {
						if target, ok := strings.CutPrefix(field, "target="); ok {
							mounts[target] = mount
							must(t, os.MkdirAll(j.host(target), 0o755))
						}
					}
					rest = strings.TrimSpace(rest)
				}
				j.script(t, "sh", rest)
			default:
				t.Errorf("nobody has tried %s", instruction)
			}
		}
		return mounts
	}
	first := newMachine(t, nixes[0])
	mounts := build(first)
	if len(mounts) != 1 {
		t.Fatalf("mounts are %q, want one", mounts)
	}
	second := newMachine(t, nixes[0], buildsNothing)
	for target, mount := range mounts {
		if !strings.HasPrefix(mount, "--mount=type=cache,") {
			t.Errorf("%s is not a cache mount", mount)
		}
		must(t, os.MkdirAll(filepath.Dir(second.host(target)), 0o755))
		must(t, os.CopyFS(second.host(target), os.DirFS(first.host(target))))
	}
	build(second)
	// The second stage has the product, with all that it needs.
	for _, m := range []*machine{first, second} {
		m.run(t, "chroot", "/opt/root", product(t, m))
	}
}

// product makes the image's contents runnable, and returns what to run: the graph has
// scripts, for which there is a shell on every machine but in no product.
func product(t *testing.T, m *machine) string {
	t.Helper()
	m.run(t, "sh", "-euc", "mkdir -p /opt/root/bin; cd /opt/root; for lib in $(ldd /bin/sh | grep -o '/[^ ]*'); do mkdir -p .$(dirname $lib); cp $lib .$lib; done; cp /bin/sh bin/sh")
	return "/product/" + m.run(t, "sh", "-c", "basename $(ls -d /opt/root/nix/store/*-tool)") + "/bin/tool"
}

// shBlocks returns the shell blocks of a Markdown text.
func shBlocks(text string) []string {
	var blocks []string
	for _, match := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// What the page says is done as it says, by root; then alice, whom nobody trusts, runs
// a job that knows nothing of larder, and another host has what it built.
func TestOwnRunnerKeepsWhatJobsBuild(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	blocks := shBlocks(r.read(t, "self-hosted/README.md"))
	if len(blocks) != 3 {
		t.Fatalf("there are %d blocks of shell, want 3", len(blocks))
	}
	const path = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	m := newMachine(t, nixes[0]).with(path, "LARDER_URL="+r.program())
	local, called := tempDir(t), filepath.Join(tempDir(t), "called")
	writeScript(t, filepath.Join(local, "systemctl"), `echo "$@" >> `+called)
	m.run(t, "mount", "--bind", local, "/usr/local/bin")
	must(t, os.MkdirAll(m.host("/etc/systemd/system"), 0o755))
	must(t, os.MkdirAll(m.host("/var/cache"), 0o755))
	admin := newRecipeJob(t, m, "/root/setup")
	must(t, os.CopyFS(m.host("/root/setup/"), os.DirFS(filepath.Join(r.dir, "self-hosted"))))
	nixDaemon := m.startDaemon(t)

	for _, block := range blocks {
		admin.script(t, "sh -e", block)
	}
	text, err := os.ReadFile(called)
	must(t, err)
	if want := "restart nix-daemon\ndaemon-reload\nenable --now larder\n"; string(text) != want {
		t.Errorf("systemctl was told %q, want %q", text, want)
	}
	m.restartDaemon(t, nixDaemon)
	unit, err := os.ReadFile(m.host("/etc/systemd/system/larder.service"))
	must(t, err)
	start := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindStringSubmatch(string(unit))[1]
	worker := m.start(t, strings.Fields(start)...)
	worker.waitFor(t, "msg=ready")

	job := newRecipeJob(t, m.as(alice), alice.home+"/project")
	job.script(t, "sh -e", "nix-build")
	outs := m.query(t, "--requisites", m.run(t, "readlink", alice.home+"/project/result"))
	cache := m.host("/var/cache/nix-larder")
	eventually(t, "the worker", func() bool {
		cached := slices.Sorted(maps.Keys(entries(t, cache)))
		return !slices.ContainsFunc(outs, func(path string) bool { return !slices.Contains(cached, path) })
	})

	key, err := os.ReadFile(m.host("/etc/nix/larder.key.pub"))
	must(t, err)
	other := newMachine(t, nixes[1], buildsNothing, "extra-substituters = file://"+cache, "extra-trusted-public-keys = "+string(key))
	other.run(t, append([]string{"nix-store", "--realise"}, outs...)...)
	if conf, err := os.ReadFile(m.host("/etc/nix/nix.conf")); err != nil || strings.Contains(string(conf), "trusted=true") {
		t.Errorf("the runner trusts the directory, though there are signatures (%v):\n%s", err, conf)
	}
}

// scripts returns all shell of the recipes that is not in files of its own.
func (r ciRecipe) scripts(t *testing.T) map[string]string {
	t.Helper()
	var gitlab map[string]gitlabJob
	r.readYAML(t, "gitlab/gitlab-ci.yml", &gitlab)
	var buildkite buildkitePipeline
	r.readYAML(t, "buildkite/pipeline.yml", &buildkite)
	var woodpecker woodpeckerWorkflow
	r.readYAML(t, "woodpecker/woodpecker.yaml", &woodpecker)
	scripts := map[string]string{
		"gitlab":     strings.Join(slices.Concat(gitlab[".larder"].BeforeScript, gitlab["build"].Script, gitlab[".larder"].AfterScript), "\n"),
		"buildkite":  interpolated(t, buildkite.Steps[0].Command),
		"woodpecker": strings.Join(woodpecker.Steps[0].Commands, "\n"),
		"jenkins":    strings.Join(shSteps(t, r.read(t, "jenkins/Jenkinsfile")), "\n"),
		"runner":     strings.Join(shBlocks(r.read(t, "self-hosted/README.md")), "\n"),
	}
	for _, line := range instructions(r.read(t, "docker/Dockerfile")) {
		if run, ok := strings.CutPrefix(line, "RUN "); ok {
			scripts["docker"] += regexp.MustCompile(`^(--mount=\S+\s+)+`).ReplaceAllString(run, "") + "\n"
		}
	}
	return scripts
}

func TestRecipesScriptsAreSound(t *testing.T) {
	t.Parallel()
	for name, text := range newRecipes(t).scripts(t) {
		checkScript(t, name, "#!/bin/sh\n"+text)
	}
}
