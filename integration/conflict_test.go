package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A build that is not reproducible.
const randomExpr = `import /larder/graphs/derive.nix "random" { } "head -c 16 /dev/urandom > $out"`

// The first build stays until somebody wants the second one.
func TestAnotherBuildIsToldOfListedAndSwappedIn(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		l := &larder{machine: m, cache: filepath.Join(tempDir(t), "cache")}
		expr := `let random = ` + randomExpr + `; in import /larder/graphs/derive.nix "top" { } "echo ${random} > $out"`
		report := filepath.Join(tempDir(t), "report.json")
		build := func() (path, hash string, conflicts []string, stderr string) {
			t.Helper()
			top, stderr, exit := m.tryRun(t, "larder", "run", "--cache", l.cache, "--report", report, "--signing-key-file", "secret", "--",
				"nix-build", "--no-out-link", "--option", "substituters", "", "--expr", expr)
			if exit != 0 {
				t.Fatalf("exit %d: %s", exit, stderr)
			}
			var r struct {
				Conflicts []struct {
					Path  string `json:"path"`
					Cache string `json:"cache_nar_hash"`
					Store string `json:"store_nar_hash"`
				} `json:"conflicts"`
			}
			must(t, json.Unmarshal([]byte(readFile(t, report)), &r))
			path = m.query(t, "--references", strings.TrimSpace(top))[0]
			hash = m.query(t, "--hash", path)[0]
			for _, c := range r.Conflicts {
				if c.Path != path || c.Store != hash || c.Cache == hash {
					t.Errorf("the report has %+v", c)
				}
				conflicts = append(conflicts, c.Path)
			}
			return path, hash, conflicts, stderr
		}
		m.run(t, "nix-store", "--generate-binary-cache-key", "ci-1", "secret", "public")
		path, first, conflicts, _ := build()
		equalPaths(t, "conflicts of the first run", conflicts, nil)
		list := []string{"larder", "list", "--cache", l.cache, "--conflicts"}
		equalPaths(t, "conflicts", m.lines(t, list...), nil)
		was := narInfoText(t, l.cache, path)

		m.collectGarbage(t)
		again, second, conflicts, stderr := build()
		if again != path || second == first {
			t.Fatalf("%s of %s, then %s of %s", path, first, again, second)
		}
		if !slices.Equal(conflicts, []string{path}) || strings.Count(stderr, "larder list --conflicts") != 1 {
			t.Errorf("the report has %q, %s", conflicts, stderr)
		}
		if now := narInfoText(t, l.cache, path); now != was {
			t.Errorf("the entry is now\n%s, was\n%s", now, was)
		}
		if got := m.lines(t, list...); !slices.Equal(got, []string{path}) {
			t.Errorf("listed are %q, want %s", got, path)
		}
		o := object(t, m.run(t, append(list, "--json")...), "path", "cache", "store")
		if cache, store := o["cache"].(map[string]any), o["store"].(map[string]any); cache["nar_hash"] != first || store["nar_hash"] != second || len(cache["signatures"].([]any)) != 1 {
			t.Errorf("listed is %v", o)
		}
		if long := m.run(t, append(list, "--long")...); !strings.Contains(long, first) || !strings.Contains(long, second) {
			t.Errorf("listed is %s", long)
		}

		// What is pushed is kept out without the flag.
		l.push(t, path)
		if now := narInfoText(t, l.cache, path); now != was {
			t.Errorf("the entry is now\n%s, was\n%s", now, was)
		}
		push := strings.Join(list, " ") + " | larder push --cache " + l.cache + " --replace --signing-key-file secret --json --stdin"
		if r := object(t, m.run(t, "sh", "-euc", push), "cache", "paths", "copied", "replaced", "replaced_realisations", "signed", "listed", "nar_bytes", "file_bytes"); r["copied"] != json.Number("1") || r["replaced"] != json.Number("1") {
			t.Errorf("push says %v", r)
		}
		equalPaths(t, "conflicts", m.lines(t, list...), nil)
		checkWhole(t, l.cache)
		l.verify(t)
		key := strings.TrimSpace(m.run(t, "cat", "public"))
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				fresh := newMachine(t, n, "require-sigs = true", "trusted-public-keys = "+key, "substituters = file://"+l.cache)
				fresh.run(t, "nix-store", "--realise", "--max-jobs", "0", path)
				if got := fresh.query(t, "--hash", path)[0]; got != second {
					t.Errorf("hash is %s, want %s", got, second)
				}
			})
		}
		// Whoever has read the old narinfo finds its NAR.
		for line := range strings.Lines(was) {
			if url, ok := strings.CutPrefix(line, "URL: "); ok {
				if _, err := os.Stat(filepath.Join(l.cache, strings.TrimSpace(url))); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
