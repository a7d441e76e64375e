package integration

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

// object parses one line of JSON and makes sure of its fields.
func object(t *testing.T, text string, fields ...string) map[string]any {
	t.Helper()
	if strings.Contains(text, "\n") {
		t.Errorf("more than one line: %q", text)
	}
	var o map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&o); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	slices.Sort(fields)
	if names := slices.Sorted(maps.Keys(o)); !slices.Equal(names, fields) {
		t.Errorf("fields are %q, want %q", names, fields)
	}
	return o
}

// Scripts read these: fields may come, and may not go or change.
func TestResultsInJSON(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0]).with(patient)
	l := &larder{machine: m, cache: tempDir(t) + "/cache", queue: rootsQueue}
	url := "file://" + l.cache

	init := object(t, l.run(t, "larder", "init", "--json", "--cache", l.cache), "queue", "cache", "hook", "substituter")
	if init["queue"] != l.queue || init["cache"] != url || init["substituter"] != url+"?trusted=true" {
		t.Errorf("init says %v", init)
	}
	l.conf = []string{"post-build-hook = " + init["hook"].(string)}
	l.configure(t, l.conf...)

	path := l.buildOne(t, "built")
	size := l.run(t, "nix-store", "--query", "--size", path)
	status := object(t, l.run(t, "larder", "status", "--json"),
		"queue", "cache", "mode", "rules", "worker_alive", "waiting", "claimed", "dead", "nar_bytes", "unseen", "roots", "weak_roots", "free_bytes", "jobs")
	want := map[string]any{
		"queue": l.queue, "cache": url, "worker_alive": false, "nar_bytes": json.Number(size),
		"mode": "both", "roots": json.Number("1"), "weak_roots": false,
		"waiting": json.Number("1"), "claimed": json.Number("0"), "dead": json.Number("0"),
	}
	for name, value := range want {
		if status[name] != value {
			t.Errorf("status: %s is %v, want %v", name, status[name], value)
		}
	}
	jobs, _ := status["jobs"].([]any)
	if len(jobs) != 1 {
		t.Fatalf("jobs are %v, want one", jobs)
	}
	job, err := json.Marshal(jobs[0])
	must(t, err)
	if o := object(t, string(job), "path", "drv", "state", "attempts", "added", "due", "rooted"); o["path"] != path || o["state"] != "waiting" {
		t.Errorf("job is %v", o)
	}

	mend := l.corrupt(t, path)
	stdout, stderr, exit := l.tryRun(t, "larder", "drain", "--json")
	if drained := object(t, strings.TrimSuffix(stdout, "\n"), "waiting", "dead", "report"); exit != 4 || drained["waiting"] != json.Number("0") || drained["dead"] != json.Number("1") {
		t.Errorf("exit %d, drain says %v, %s", exit, drained, stderr)
	}
	mend()
	l.run(t, "larder", "retry", path)
	if drained := object(t, l.run(t, "larder", "drain", "--json"), "waiting", "dead", "report"); drained["waiting"] != json.Number("0") || drained["dead"] != json.Number("0") {
		t.Errorf("drain says %v", drained)
	}

	other := l.buildOne(t, "other")
	pushed := object(t, l.run(t, "larder", "push", "--json", path, other), "cache", "paths", "copied", "replaced", "replaced_realisations", "signed", "listed", "nar_bytes", "file_bytes")
	if pushed["cache"] != url || pushed["paths"] != json.Number("2") || pushed["copied"] != json.Number("1") || pushed["nar_bytes"] != json.Number(size) {
		t.Errorf("push says %v", pushed)
	}
}

// Results go to stdout, and everything else does not.
func TestOnlyResultsAreOnStdout(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	d := l.startWorker(t)
	d.waitFor(t, "copied job")
	if stdout := d.stdout.String(); stdout != "" {
		t.Errorf("the daemon prints %q", stdout)
	}
	l.drain(t)
	for _, args := range [][]string{{"push", path}, {"drain"}, {"retry"}} {
		stdout, stderr, exit := l.tryRun(t, append([]string{"larder"}, args...)...)
		if exit != 0 || withoutProgress(stderr) != "" || strings.Count(stdout, "\n") != 1 {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, exit, stdout, stderr)
		}
	}
	for _, args := range [][]string{{"--help"}, {"push", "--help"}, {"--version"}, {}} {
		stdout, stderr, exit := l.tryRun(t, append([]string{"larder"}, args...)...)
		if exit != 0 || stderr != "" || !bytes.Contains([]byte(stdout), []byte("larder")) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, exit, stdout, stderr)
		}
	}
}
