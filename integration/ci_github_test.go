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

// A githubRunner is what runs the steps of a workflow: it sets the variables, reads
// what steps write to its files, and calls the action's scripts.
type githubRunner struct {
	recipeJob
	recipe  ciRecipe
	service string // the directory that is GitHub's cache
	secrets map[string]string
	with    map[string]string // inputs, beside those of the workflow

	steps      int
	env        map[string]string // what steps have set for those that follow
	path       []string
	state      map[string]string // from main to post
	transcript strings.Builder
}

type githubWorkflow struct {
	Permissions map[string]string
	Jobs        map[string]struct {
		Env   map[string]string
		Steps []githubStep
	}
}

type githubStep struct {
	Uses, Run string
	With      map[string]string
}

type githubAction struct {
	Inputs map[string]struct{ Default string }
	Runs   struct {
		Using, Main, Post string
		PostIf            string `yaml:"post-if"`
	}
}

// newGithubRunner makes a runner on a fresh machine, whose user is alice.
func newGithubRunner(t *testing.T, r ciRecipe, service string, conf ...string) *githubRunner {
	t.Helper()
	needTools(t, "node", "tar")
	m := newMachine(t, nixes[0], append(conf, "trusted-users = root alice")...)
	m.startDaemon(t)
	temp, files := alice.home+"/_work/_temp", alice.home+"/_work/_files"
	g := &githubRunner{
		recipe: r, service: service, env: make(map[string]string), state: make(map[string]string),
		secrets: make(map[string]string), with: map[string]string{"url": r.program(), "sha256": releasedHash(t, r)},
	}
	g.recipeJob = newRecipeJob(t, m.as(alice), alice.home+"/_work/project/project")
	for _, dir := range []string{temp, files} {
		must(t, os.MkdirAll(g.host(dir), 0o755))
		g.own(t, dir)
	}
	must(t, os.Chmod(service, 0o777))
	g.machine = g.machine.with("GITHUB_ACTIONS=true", "CI=true", "RUNNER_OS=Linux", "RUNNER_ARCH=X64", "RUNNER_TEMP="+temp,
		"GITHUB_WORKSPACE="+g.project, "FAKE_CACHE_SERVICE="+service)
	return g
}

func releasedHash(t *testing.T, r ciRecipe) string {
	t.Helper()
	return regexp.MustCompile(`LARDER_SHA256: ([0-9a-f]{64})\n`).FindStringSubmatch(r.read(t, "gitlab/gitlab-ci.yml"))[1]
}

// step runs a command as a step, and reads what it wrote to the runner's files.
func (g *githubRunner) step(t *testing.T, env []string, args ...string) (exit int) {
	t.Helper()
	g.steps++
	dir := alice.home + "/_work/_files/"
	sets := map[string]map[string]string{"GITHUB_ENV": g.env, "GITHUB_STATE": g.state, "GITHUB_OUTPUT": {}, "GITHUB_PATH": nil, "GITHUB_STEP_SUMMARY": nil}
	for name := range sets {
		must(t, os.WriteFile(g.host(dir+name), nil, 0o666))
		must(t, os.Chmod(g.host(dir+name), 0o666))
		env = append(env, name+"="+dir+name)
	}
	m := g.machine.with(environment(g.env)...).with("PATH=" + strings.Join(append(slices.Clone(g.path), "/usr/bin:/bin:/usr/sbin:/sbin"), ":")).with(env...)
	stdout, stderr, exit := m.tryRun(t, append([]string{"env", "-C", g.project}, args...)...)
	g.transcript.WriteString(stdout + stderr)
	for name, values := range sets {
		text, err := os.ReadFile(g.host(dir + name))
		must(t, err)
		g.transcript.Write(text)
		if name == "GITHUB_PATH" {
			g.path = append(strings.Fields(string(text)), g.path...)
		}
		if values != nil {
			maps.Copy(values, commandFile(t, string(text)))
		}
	}
	return exit
}

// commandFile reads the format of the runner's files.
func commandFile(t *testing.T, text string) map[string]string {
	t.Helper()
	values := make(map[string]string)
	for text != "" {
		head, rest, _ := strings.Cut(text, "\n")
		name, end, ok := strings.Cut(head, "<<")
		value, after, found := strings.Cut(rest, "\n"+end+"\n")
		if !ok || !found {
			t.Fatalf("the runner would not read %q", text)
		}
		values[name], text = value, after
	}
	return values
}

// action runs one of the action's scripts.
func (g *githubRunner) action(t *testing.T, step githubStep, a githubAction, script string) (exit int) {
	t.Helper()
	env := environment(map[string]string{})
	inputs := make(map[string]string)
	for name, input := range a.Inputs {
		inputs[name] = input.Default
	}
	maps.Copy(inputs, step.With)
	maps.Copy(inputs, g.with)
	for name, value := range inputs {
		if _, known := a.Inputs[name]; !known {
			t.Errorf("the action has no input %s", name)
		}
		env = append(env, "INPUT_"+strings.ToUpper(name)+"="+g.evaluate(t, value))
	}
	for name, value := range g.state {
		env = append(env, "STATE_"+name+"="+value)
	}
	return g.step(t, env, "node", filepath.Join(g.recipe.dir, "github", script))
}

// evaluate evaluates the expressions that the workflow has.
func (g *githubRunner) evaluate(t *testing.T, text string) string {
	t.Helper()
	return regexp.MustCompile(`\$\{\{ (\S+) \}\}`).ReplaceAllStringFunc(text, func(expression string) string {
		return g.secrets[strings.Fields(expression)[1]] // nothing, if there is none
	})
}

// job runs a workflow's only job, and then the post steps, as they are after a job that
// failed, too. It returns the first exit code that is not 0.
func (g *githubRunner) job(t *testing.T) (exit int) {
	t.Helper()
	var w githubWorkflow
	g.recipe.readYAML(t, "github/workflow.yml", &w)
	var a githubAction
	g.recipe.readYAML(t, "github/action.yml", &a)
	if a.Runs.Using != "node24" || a.Runs.PostIf != "always()" {
		t.Errorf("the action runs as %+v", a.Runs)
	}
	if !maps.Equal(w.Permissions, map[string]string{"contents": "read"}) {
		t.Errorf("the workflow has the permissions %v", w.Permissions)
	}
	var post []func() int
	g.machine = g.machine.with(environment(w.Jobs["build"].Env)...)
	for _, step := range w.Jobs["build"].Steps {
		code := 0
		switch name, _, _ := strings.Cut(step.Uses, "@"); name {
		case "actions/checkout", "cachix/install-nix-action": // there already
		case "nix-larder/larder":
			post = append(post, func() int { return g.action(t, step, a, a.Runs.Post) })
			code = g.action(t, step, a, a.Runs.Main)
		case "":
			script := filepath.Join(tempDir(t), "step.sh")
			must(t, os.WriteFile(script, []byte(step.Run), 0o644))
			code = g.step(t, nil, "bash", "-e", script)
		default:
			t.Errorf("nobody has tried %s", step.Uses)
		}
		if exit = code; exit != 0 {
			break
		}
	}
	for _, run := range post {
		if code := run(); exit == 0 {
			exit = code
		}
	}
	return exit
}

// succeeds runs the job, and expects its result.
func (g *githubRunner) succeeds(t *testing.T) {
	t.Helper()
	if exit := g.job(t); exit != 0 {
		t.Fatalf("exit %d, want 0:\n%s", exit, g.transcript.String())
	}
	g.isBuilt(t)
	g.nothingRunsOf(t, "larder")
}

// saved returns the keys of what is in GitHub's cache.
func (g *githubRunner) saved(t *testing.T) (keys []string) {
	t.Helper()
	entries, err := os.ReadDir(g.service)
	must(t, err)
	for _, entry := range entries {
		keys = append(keys, entry.Name())
	}
	return keys
}

func (g *githubRunner) says(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(g.transcript.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, g.transcript.String())
		}
	}
}

func TestGitHubBuildsOnceAndSavesOnce(t *testing.T) {
	t.Parallel()
	r, service := newRecipes(t), tempDir(t)
	first := newGithubRunner(t, r, service)
	first.succeeds(t)
	keys := first.saved(t)
	if len(keys) != 1 || !strings.HasPrefix(keys[0], "larder-Linux-X64-") {
		t.Fatalf("saved are %q, want one cache", keys)
	}

	second := newGithubRunner(t, r, service, buildsNothing)
	second.succeeds(t)
	second.says(t, "came from the cache", "nothing new: the cache is not saved again")
	if again := second.saved(t); !slices.Equal(again, keys) {
		t.Errorf("saved are %q, want %q", again, keys)
	}

	// Another job's cache is not this one's, whatever the names have in common.
	other := newGithubRunner(t, r, service)
	other.with["name"] = "matrix-1"
	other.succeeds(t)
	if len(other.saved(t)) != 2 || strings.Contains(other.transcript.String(), "came from the cache") {
		t.Errorf("saved are %q:\n%s", other.saved(t), other.transcript.String())
	}
}

// A fork has no secrets. It uses what main has signed, and saves nothing; and what its
// cache has without a signature it builds.
func TestGitHubForksUseOnlyWhatIsSigned(t *testing.T) {
	t.Parallel()
	r, service := newRecipes(t), tempDir(t)
	main := newGithubRunner(t, r, service)
	main.run(t, "nix-store", "--generate-binary-cache-key", "ci-1", "key", "key.pub")
	secret, public := main.run(t, "cat", "key"), main.run(t, "cat", "key.pub")
	main.secrets = map[string]string{"secrets.LARDER_SIGNING_KEY": secret, "vars.LARDER_TRUSTED_PUBLIC_KEY": public}
	main.succeeds(t)
	keys := main.saved(t)
	// The runner blackens what it is told of, and the key is nowhere else.
	half := strings.TrimPrefix(secret, "ci-1:")
	main.says(t, "::add-mask::"+secret+"\n", "::add-mask::"+half+"\n")
	if rest := regexp.MustCompile(`(?m)^::add-mask::.*$`).ReplaceAllString(main.transcript.String(), ""); strings.Contains(rest, half) {
		t.Errorf("the secret key is told:\n%s", rest)
	}

	fork := newGithubRunner(t, r, service, buildsNothing)
	fork.secrets = map[string]string{"vars.LARDER_TRUSTED_PUBLIC_KEY": public}
	fork.succeeds(t)
	adding := newGithubRunner(t, r, service)
	adding.secrets = fork.secrets
	writeProject(t, adding.recipeJob, `import /larder/graphs/standard.nix { salt = "another"; }`)
	adding.succeeds(t)
	if again := fork.saved(t); !slices.Equal(again, keys) {
		t.Errorf("saved are %q, want %q", again, keys)
	}

	// Somebody else's cache, without signatures.
	forged := tempDir(t)
	newGithubRunner(t, r, forged).succeeds(t)
	careful := newGithubRunner(t, r, forged)
	careful.secrets = fork.secrets
	careful.succeeds(t)
	careful.says(t, "building '/nix/store/")
}

// What a job has built until it failed is there for the next one.
func TestGitHubSavesWhatAFailedJobHasBuilt(t *testing.T) {
	t.Parallel()
	r, service := newRecipes(t), tempDir(t)
	failing := newGithubRunner(t, r, service)
	writeProject(t, failing.recipeJob, `import /larder/graphs/derive.nix "failing" { built = import /larder/graphs/standard.nix { }; } "exit 1"`)
	if exit := failing.job(t); exit == 0 {
		t.Fatalf("exit 0, want another:\n%s", failing.transcript.String())
	}
	newGithubRunner(t, r, service, buildsNothing).succeeds(t)
}

// Whatever is wrong with the cache is a warning; another program than the one that was
// released ends the job.
func TestGitHubJobsSufferOnlyFromAnotherProgram(t *testing.T) {
	t.Parallel()
	r := newRecipes(t)
	for name, test := range map[string]struct {
		with map[string]string
		exit int
		says string
	}{
		"no release":      {map[string]string{"url": r.release + "/missing"}, 0, "::warning title=larder::download " + r.release + "/missing: 404 Not Found"},
		"strict":          {map[string]string{"url": r.release + "/missing", "strict": "true"}, 1, "::error title=larder::download"},
		"another program": {map[string]string{"url": r.release + "/tampered"}, 1, "::error title=larder::download " + r.release + "/tampered: SHA-256 is "},
		"no service":      {map[string]string{"flags": "--exclude=nothing"}, 0, "no cache service"},
		"wrong name":      {map[string]string{"name": "a.b"}, 1, "only letters, digits, - and _ are allowed"},
		"wrong flag":      {map[string]string{"flags": "--no-such-flag"}, 1, "::error title=larder::larder start: exit 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGithubRunner(t, r, tempDir(t))
			maps.Copy(g.with, test.with)
			if name == "no service" {
				g.machine = g.machine.with("FAKE_CACHE_SERVICE=")
			}
			if exit := g.job(t); exit != test.exit {
				t.Errorf("exit %d, want %d:\n%s", exit, test.exit, g.transcript.String())
			}
			g.says(t, test.says)
			if test.exit == 0 {
				g.isBuilt(t)
			}
		})
	}
}
