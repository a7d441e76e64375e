package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A ciRecipe is a recipe of ci, as its users get it, and what stands in for its
// provider: of everything that is done, only the provider itself is not real.
type ciRecipe struct {
	dir     string // of all recipes
	release string // URL of the release's files
}

// newRecipes makes the recipes of a release that has the binaries under test.
func newRecipes(t *testing.T) ciRecipe {
	t.Helper()
	needBinaries(t)
	program, err := os.ReadFile(filepath.Join(binDir, "larder"))
	must(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/larder-linux-amd64", func(w http.ResponseWriter, r *http.Request) { w.Write(program) })
	mux.HandleFunc("/tampered", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "#!/bin/sh\ntouch /root/executed\n") })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	recipe := ciRecipe{dir: filepath.Join(tempDir(t), "ci"), release: server.URL}
	sums := filepath.Join(tempDir(t), "SHA256SUMS")
	hash := sha256.Sum256(program)
	must(t, os.WriteFile(sums, fmt.Appendf(nil, "%x  larder-linux-amd64\n%064x  larder-linux-arm64\n", hash, 1), 0o644))
	// So that go test knows of them, too.
	must(t, fs.WalkDir(os.DirFS("ci"), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			_, err = os.ReadFile(filepath.Join("ci", path))
		}
		return err
	}))
	if out, err := exec.Command("ci/release", "v1.2.3", sums, recipe.dir).CombinedOutput(); err != nil {
		t.Fatalf("release: %v\n%s", err, out)
	}
	// The release bundles GitHub's client of its cache here. Runners share the directory.
	service, err := os.ReadFile("testdata/ci/cache.js")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(recipe.dir, "github/cache.js"), service, 0o644))
	return recipe
}

// program is where the recipes are told to download larder from.
func (r ciRecipe) program() string { return r.release + "/larder-linux-amd64" }

func (r ciRecipe) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	must(t, err)
	return string(text)
}

func (r ciRecipe) readYAML(t *testing.T, name string, v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(r.read(t, name)), v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// needTools skips the test if the host lacks a program, or fails it if
// LARDER_REQUIRE_NIX is 1.
func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := lookPath(name); err != nil {
			giveUp(t)("%v (make ci-tools installs it)", err)
		}
	}
}

// A recipeJob is one job on a machine that has nothing but Nix.
type recipeJob struct {
	*machine
	project string // its directory, in the machine
}

// newRecipeJob makes a job on a machine, with a project to build.
func newRecipeJob(t *testing.T, m *machine, project string) recipeJob {
	t.Helper()
	j := recipeJob{machine: m, project: project}
	must(t, os.MkdirAll(j.host(project), 0o755))
	j.own(t, project)
	writeProject(t, j, "import /larder/graphs/standard.nix { }")
	return j
}

// writeProject writes what the project builds.
func writeProject(t *testing.T, j recipeJob, expr string) {
	t.Helper()
	must(t, os.WriteFile(j.host(j.project+"/default.nix"), []byte(expr+"\n"), 0o644))
}

// own gives the job's user a directory below its home.
func (j recipeJob) own(t *testing.T, dir string) {
	t.Helper()
	for ; dir != j.user.home && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chown(j.host(dir), int(j.user.uid), int(j.user.gid)))
	}
}

// buildsNothing is a setting of Nix with which what is not substituted is not there.
const buildsNothing = "max-jobs = 0"

// addsNothing has the job build something new besides, and fails the test if that is
// then in the cache, or if what the cache has is not used.
func (j recipeJob) addsNothing(t *testing.T, cache, shell string, scripts ...string) {
	t.Helper()
	writeProject(t, j, `map (salt: import /larder/graphs/standard.nix { inherit salt; }) [ "" "another" ]`)
	before := files(t, j.host(cache))
	var output string
	for _, script := range scripts {
		output += j.script(t, shell, script)
	}
	for _, want := range []string{"building '/nix/store/", "from 'file://" + cache} {
		if !strings.Contains(output, want) {
			t.Errorf("the job does not say %q:\n%s", want, output)
		}
	}
	unchanged(t, "cache", before, files(t, j.host(cache)))
}

// tryScript runs a script in the project, by a command such as "bash -e".
func (j recipeJob) tryScript(t *testing.T, shell, text string) (output string, exit int) {
	t.Helper()
	file := filepath.Join(tempDir(t), "script")
	must(t, os.WriteFile(file, []byte(text+"\n"), 0o644))
	args := append([]string{"env", "-C", j.project}, strings.Fields(shell)...)
	stdout, stderr, exit := j.tryRun(t, append(args, file)...)
	return stdout + stderr, exit
}

func (j recipeJob) script(t *testing.T, shell, text string) string {
	t.Helper()
	output, exit := j.tryScript(t, shell, text)
	if exit != 0 {
		t.Fatalf("exit %d, want 0:\n%s\n%s", exit, text, output)
	}
	return output
}

// isBuilt fails the test if the project's result is not there.
func (j recipeJob) isBuilt(t *testing.T) {
	t.Helper()
	j.run(t, "test", "-d", filepath.Join(j.project, "result")+"/")
}

// nothingRuns fails the test if the job has left a process.
func (j recipeJob) nothingRuns(t *testing.T) {
	t.Helper()
	j.nothingRunsOf(t, "")
}

// expand replaces $NAME and ${NAME}, as providers do with variables in variables.
func expand(text string, variables map[string]string) string {
	return os.Expand(text, func(name string) string { return variables[name] })
}

// environment returns variables for a machine.
func environment(variables ...map[string]string) []string {
	var env []string
	for _, vs := range variables {
		for name, value := range vs {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Somebody who copies a recipe finds it in the table.
func TestEveryRecipeIsInTheTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("ci/README.md")
	must(t, err)
	linked := make(map[string]bool)
	for _, link := range regexp.MustCompile(`\]\(([^:)#]+)\)`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join("ci", link[1])); err != nil {
			t.Errorf("README.md: %v", err)
		}
		linked[strings.Split(link[1], "/")[0]] = true
	}
	entries, err := os.ReadDir("ci")
	must(t, err)
	for _, entry := range entries {
		if entry.IsDir() && !linked[entry.Name()] {
			t.Errorf("README.md has no link to %s", entry.Name())
		}
	}
}
