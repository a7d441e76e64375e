package integration

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A workflow is what is looked at of a file in .github/workflows.
type workflow struct {
	On          any
	Permissions map[string]string
	Defaults    struct{ Run struct{ Shell string } }
	Jobs        map[string]struct {
		RunsOn    string `yaml:"runs-on"`
		Container struct{ Image string }
		Steps     []struct{ Uses, Run string }
	}
}

func TestWorkflowsDependOnNothingThatChanges(t *testing.T) {
	pinned := regexp.MustCompile(`(?m)^ *- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for name, text := range workflows(t) {
		w := parseWorkflow(t, name, text)
		if w.On == nil || len(w.Jobs) == 0 || w.Permissions["contents"] != "read" || len(w.Permissions) != 1 {
			t.Errorf("%s runs on %v, has %d jobs, and they all may %v; want that they read", name, w.On, len(w.Jobs), w.Permissions)
		}
		uses := 0
		for job, j := range w.Jobs {
			for _, where := range []string{strings.ReplaceAll(j.RunsOn, "-", ":"), j.Container.Image} {
				if _, tag, _ := strings.Cut(where, ":"); where != "" && !regexp.MustCompile(`^\d+\.\d+`).MatchString(tag) {
					t.Errorf("%s: %s runs on %s, want a version of it", name, job, where)
				}
			}
			for _, step := range j.Steps {
				if step.Uses != "" {
					uses++
				}
			}
		}
		if n := len(pinned.FindAll(text, -1)); n != uses || uses == 0 {
			t.Errorf("%s: %d of %d actions are pinned by a commit, with the version as a comment", name, n, uses)
		}
	}
}

func TestWorkflowsScriptsAreSound(t *testing.T) {
	for name, text := range workflows(t) {
		w := parseWorkflow(t, name, text)
		if w.Defaults.Run.Shell != "bash" {
			t.Errorf("%s: the shell is %q, which does not stop at errors in pipes; want bash", name, w.Defaults.Run.Shell)
		}
		scripts := 0
		for job, j := range w.Jobs {
			for _, step := range j.Steps {
				if step.Run == "" {
					continue
				}
				scripts++
				// It is put into the script as it is, whatever is in it.
				if strings.Contains(step.Run, "${{") {
					t.Errorf("%s: %s has an expression in a script, want it in env: %s", name, job, step.Run)
				}
				checkScript(t, name+", "+job, "#!/bin/bash\nset -eo pipefail\n"+step.Run)
			}
		}
		if scripts == 0 {
			t.Errorf("%s has no scripts", name)
		}
	}
}

func TestScriptsAreSound(t *testing.T) {
	scripts := 0
	must(t, fs.WalkDir(os.DirFS(".."), ".", func(name string, d fs.DirEntry, err error) error {
		if d.IsDir() && (name == ".git" || name == "bin" || name == "dist") {
			return fs.SkipDir
		}
		if err != nil || !d.Type().IsRegular() || strings.Contains(d.Name(), ".") {
			return err
		}
		text, err := os.ReadFile(filepath.Join("..", name))
		if err == nil && (bytes.HasPrefix(text, []byte("#!/bin/bash\n")) || bytes.HasPrefix(text, []byte("#!/bin/sh\n"))) {
			scripts++
			checkScript(t, name, string(text))
		}
		return err
	}))
	if scripts < 7 {
		t.Errorf("found %d scripts", scripts)
	}
}

// workflows returns the texts of all workflows, by file name.
func workflows(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../.github/workflows/*.yml")
	must(t, err)
	texts := make(map[string][]byte)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		texts[filepath.Base(file)] = text
	}
	if texts["ci.yml"] == nil || texts["release.yml"] == nil {
		t.Fatalf("there is no ci.yml or no release.yml among %q", files)
	}
	return texts
}

func parseWorkflow(t *testing.T, name string, text []byte) (w workflow) {
	t.Helper()
	if err := yaml.Unmarshal(text, &w); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return w
}

// checkScript has its shell, bash if none is named, parse a script, and shellcheck judge
// it if there is one.
func checkScript(t *testing.T, name, text string) {
	t.Helper()
	shell := "bash"
	if strings.HasPrefix(text, "#!/bin/sh\n") {
		shell = "sh"
	}
	for _, check := range [][]string{{shell, "-n"}, {"shellcheck", "--shell=" + shell, "-"}} {
		if _, err := exec.LookPath(check[0]); err != nil {
			t.Logf("%s was not checked: %v", name, err)
			continue
		}
		cmd := exec.Command(check[0], check[1:]...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v\n%s", name, check[0], err, out)
		}
	}
}
