package integration

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
)

type gitlabJob struct {
	Extends      string
	Variables    map[string]string
	Cache        gitlabCache
	BeforeScript []string `yaml:"before_script"`
	Script       []string
	AfterScript  []string `yaml:"after_script"`
}

type gitlabCache struct {
	Key, Policy, When string
	Paths             []string
}

// A containerOfItsOwn is a process namespace: when the script ends, so does all that
// it has started.
const containerOfItsOwn = "unshare --pid --fork --kill-child --mount-proc "

// GitLab's job runs in a shell, and after_script in another, here after everything
// was killed; what is saved is a zip archive of what is below the project.
func TestGitLabBuildsOnce(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	var jobs map[string]gitlabJob
	r.readYAML(t, "gitlab/gitlab-ci.yml", &jobs)
	template, build := jobs[".larder"], jobs["build"]
	if build.Extends != ".larder" {
		t.Fatalf("the job extends %q", build.Extends)
	}
	if template.Cache.When != "always" || template.Cache.Policy != "$LARDER_POLICY" || template.Variables["LARDER_POLICY"] != "pull-push" {
		t.Errorf("the cache is %+v, with %v", template.Cache, template.Variables)
	}
	if d, err := time.ParseDuration(template.Variables["LARDER_DEADLINE"]); err != nil || d >= 5*time.Minute {
		t.Errorf("after_script has 5 minutes, and larder %v (%v)", d, err)
	}
	for _, dir := range template.Cache.Paths {
		if !filepath.IsLocal(dir) {
			t.Errorf("%s is not below the project, and would not be saved", dir)
		}
	}

	const project = "/root/builds/group/project"
	cache := path.Join(project, template.Cache.Paths[0])
	given := map[string]string{"CI_PROJECT_DIR": project, "CI_JOB_NAME_SLUG": "build", "GITLAB_CI": "true", "CI": "true"}
	variables := make(map[string]string)
	for name, value := range template.Variables {
		variables[name] = expand(value, given)
	}
	if variables["LARDER_CACHE"] != cache {
		t.Errorf("larder's cache is %s, and GitLab saves %s", variables["LARDER_CACHE"], cache)
	}
	variables["LARDER_URL"] = r.program()

	run := func(m *machine) recipeJob {
		j := newRecipeJob(t, m.with(environment(given, variables)...), project)
		return j
	}
	first := run(newMachine(t, nixes[0]))
	script := strings.Join(append(template.BeforeScript, build.Script...), "\n")
	first.script(t, containerOfItsOwn+"bash -eo pipefail", script)
	first.isBuilt(t)
	first.nothingRuns(t)
	first.script(t, containerOfItsOwn+"bash -eo pipefail", strings.Join(template.AfterScript, "\n"))
	checkWhole(t, first.host(cache))

	second := run(newMachine(t, nixes[0], buildsNothing))
	restore(t, first.host(cache), second.host(cache), root)
	second.script(t, containerOfItsOwn+"bash -eo pipefail", script)
	second.isBuilt(t)
	report := second.script(t, "bash -eo pipefail", strings.Join(template.AfterScript, "\n"))
	if !strings.Contains(report, "came from the cache") || !strings.Contains(report, "nothing was built") {
		t.Errorf("the second job reports:\n%s", report)
	}
	// A job that was cancelled before larder started, and after_script twice.
	second.script(t, "bash -eo pipefail", strings.Join(template.AfterScript, "\n"))
}

// A program that is not the one that was released is not executed.
func TestRecipesRefuseAnotherProgram(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	m := newMachine(t, nixes[0]).with("LARDER_URL="+r.release+"/tampered", "LARDER_SHA256="+releasedHash(t, r), "LARDER_CACHE=/root/cache", "WORKSPACE_TMP=/root/tmp")
	j := newRecipeJob(t, m, "/root/project")
	scripts := r.scripts(t)
	delete(scripts, "docker") // BuildKit compares
	scripts["shell"] = filepath.Join(r.dir, "shell/with-larder") + " true"
	for name, script := range scripts {
		if out, exit := j.tryScript(t, "bash -e", script); exit == 0 {
			t.Errorf("%s: exit 0, want another:\n%s", name, out)
		}
	}
	if _, _, exit := j.tryRun(t, "test", "-e", "/root/executed"); exit == 0 {
		t.Error("it was executed")
	}
}

type buildkitePipeline struct {
	Steps []struct {
		Cache struct {
			Name, Size string
			Paths      []string
		}
		Env     map[string]string
		Command string
	}
}

// interpolated does what uploading a pipeline does to it.
func interpolated(t *testing.T, command string) string {
	t.Helper()
	if single := regexp.MustCompile(`(^|[^$])\$([^$]|$)`).FindString(command); single != "" {
		t.Errorf("%q would be replaced when the pipeline is uploaded", single)
	}
	return strings.ReplaceAll(command, "$$", "$")
}

func TestBuildkiteBuildsOnce(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	var pipeline buildkitePipeline
	r.readYAML(t, "buildkite/pipeline.yml", &pipeline)
	step := pipeline.Steps[0]
	if len(step.Cache.Paths) != 1 || step.Cache.Paths[0] != step.Env["LARDER_CACHE"] || !filepath.IsLocal(step.Cache.Paths[0]) {
		t.Errorf("the volume has %q, and larder's cache is %s", step.Cache.Paths, step.Env["LARDER_CACHE"])
	}
	volume, err := humanize.ParseBytes(step.Cache.Size)
	must(t, err)
	if limit, err := humanize.ParseBytes(step.Env["LARDER_MAX_SIZE"]); err != nil || limit >= volume {
		t.Errorf("the volume has %s, and the cache may take %d (%v)", step.Cache.Size, limit, err)
	}
	const project = "/root/builds/agent-1/org/project"
	cache := path.Join(project, step.Cache.Paths[0])
	env := append(environment(map[string]string{"BUILDKITE": "true", "CI": "true"}, step.Env), "LARDER_URL="+r.program())
	command := interpolated(t, step.Command)

	first := newRecipeJob(t, newMachine(t, nixes[0]).with(env...), project)
	first.script(t, "bash -e", command)
	first.isBuilt(t)
	first.nothingRuns(t)

	second := newRecipeJob(t, newMachine(t, nixes[0], buildsNothing).with(env...), project)
	restore(t, first.host(cache), second.host(cache), root)
	second.script(t, "bash -e", command)
	second.isBuilt(t)
}

type woodpeckerWorkflow struct {
	Steps []struct {
		Name, Image string
		Environment map[string]string
		Volumes     []string
		Commands    []string
	}
}

// A pull request uses what main has built, and adds nothing.
func TestWoodpeckerBuildsOnce(t *testing.T) {
	t.Parallel()
	needTools(t, "curl")
	r := newRecipes(t)
	var workflow woodpeckerWorkflow
	r.readYAML(t, "woodpecker/woodpecker.yaml", &workflow)
	step := workflow.Steps[0]
	cache := step.Environment["LARDER_CACHE"]
	if len(step.Volumes) != 1 || !strings.HasSuffix(step.Volumes[0], ":"+cache) {
		t.Errorf("volumes are %q, and larder's cache is %s", step.Volumes, cache)
	}
	commands := strings.Join(step.Commands, "\n")
	if strings.Contains(commands, "${") {
		t.Errorf("Woodpecker would replace what is in braces:\n%s", commands)
	}
	env := append(environment(map[string]string{"CI": "woodpecker"}, step.Environment), "LARDER_URL="+r.program())

	first := newRecipeJob(t, newMachine(t, nixes[0]).with(env...).with("CI_PIPELINE_EVENT=push"), "/root/woodpecker/src")
	first.script(t, "sh -e", commands)
	first.isBuilt(t)
	first.nothingRuns(t)

	second := newRecipeJob(t, newMachine(t, nixes[0], buildsNothing).with(env...).with("CI_PIPELINE_EVENT=push"), "/root/woodpecker/src")
	restore(t, first.host(cache), second.host(cache), root)
	second.script(t, "sh -e", commands)
	second.isBuilt(t)

	pull := newRecipeJob(t, newMachine(t, nixes[0]).with(env...).with("CI_PIPELINE_EVENT=pull_request"), "/root/woodpecker/src")
	restore(t, first.host(cache), pull.host(cache), root)
	pull.addsNothing(t, cache, "sh -e", commands)
}
