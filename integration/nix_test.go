package integration

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Expressions to build, in every machine.
const (
	standardGraph = "/larder/graphs/standard.nix" // see testdata/graphs
	manyGraph     = "/larder/graphs/many.nix"     // --arg count N --arg chained true
)

// instantiate returns the derivations of an expression. args are as for
// nix-instantiate: a file, options.
func (m *machine) instantiate(t *testing.T, args ...string) []string {
	t.Helper()
	return m.lines(t, append([]string{"nix-instantiate"}, args...)...)
}

// build builds an expression and returns the outputs it names, in order. args
// are as for nix-build: a file, options. Nothing keeps the result from
// [machine.collectGarbage].
func (m *machine) build(t *testing.T, args ...string) []string {
	t.Helper()
	return m.lines(t, append([]string{"nix-build", "--no-out-link"}, args...)...)
}

// derivations returns all that building an expression takes, sorted.
func (m *machine) derivations(t *testing.T, args ...string) []string {
	t.Helper()
	requisites := m.query(t, "--requisites", m.instantiate(t, args...)...)
	return slices.DeleteFunc(requisites, func(path string) bool { return !strings.HasSuffix(path, ".drv") })
}

// query returns the sorted result of nix-store --query, without duplicates.
func (m *machine) query(t *testing.T, query string, paths ...string) []string {
	t.Helper()
	result := m.lines(t, append([]string{"nix-store", "--query", query}, paths...)...)
	slices.Sort(result)
	return slices.Compact(result)
}

// outputs returns every output of the derivations, sorted: also those that
// nobody wants.
func (m *machine) outputs(t *testing.T, drvs ...string) []string {
	t.Helper()
	return m.query(t, "--outputs", drvs...)
}

// validPaths returns what is in the store, sorted.
func (m *machine) validPaths(t *testing.T) []string {
	t.Helper()
	paths := m.lines(t, "nix", "path-info", "--all")
	slices.Sort(paths)
	return paths
}

// collectGarbage deletes everything from the store that no root keeps.
func (m *machine) collectGarbage(t *testing.T) {
	t.Helper()
	m.run(t, "nix-store", "--gc")
}

// substitute fetches store paths, with what they reference, from a cache
// directory and from nowhere else. It needs no signatures.
func (m *machine) substitute(t *testing.T, cache string, paths ...string) {
	t.Helper()
	m.run(t, append([]string{
		"nix-store", "--realise", "--max-jobs", "0", "--option", "substituters", "file://" + cache + "?trusted=1",
	}, paths...)...)
}

// A gate is a pipe that a build reads a line from, and so waits until a test lets
// it go on.
type gate string

func newGate(t *testing.T) gate {
	t.Helper()
	pipe := filepath.Join(tempDir(t), "gate")
	must(t, syscall.Mkfifo(pipe, 0o666))
	must(t, os.Chmod(pipe, 0o666))
	return gate(pipe)
}

// reached tells whether a build waits. open lets it go on.
func (g gate) reached(t *testing.T) (open func(), reached bool) {
	t.Helper()
	f, err := os.OpenFile(string(g), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENXIO) {
		return nil, false
	}
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return func() {
		t.Helper()
		_, err := f.WriteString("go on\n")
		must(t, errors.Join(err, f.Close()))
	}, true
}

// await waits until somebody waits at the gate.
func (g gate) await(t *testing.T) (open func()) {
	t.Helper()
	eventually(t, "somebody at the gate", func() (reached bool) {
		open, reached = g.reached(t)
		return reached
	})
	return open
}

// A hookCall is what Nix told a hook.
type hookCall struct {
	uid  string   // of whom it ran as
	drv  string   // DRV_PATH
	outs []string // OUT_PATHS
}

// recordingHook makes a post-build-hook that only takes notes. calls returns
// them, in order.
func recordingHook(t *testing.T) (path string, calls func() []hookCall) {
	t.Helper()
	dir := tempDir(t)
	hook, notes := filepath.Join(dir, "hook"), filepath.Join(dir, "notes")
	writeScript(t, hook, `printf '%s|%s|%s\n' "$(id -u)" "$DRV_PATH" "$OUT_PATHS" >> `+notes+`; exit 0`)
	return hook, func() (calls []hookCall) {
		t.Helper()
		content, err := os.ReadFile(notes)
		must(t, err)
		for line := range strings.Lines(string(content)) {
			f := strings.Split(strings.TrimSpace(line), "|")
			calls = append(calls, hookCall{uid: f[0], drv: f[1], outs: strings.Fields(f[2])})
		}
		return calls
	}
}

// writeScript writes an executable shell script.
func writeScript(t *testing.T, path, body string) {
	t.Helper()
	// A process forked by another test while the file is open for writing would
	// hold it open, and the script could not be executed: ETXTBSY.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
}
