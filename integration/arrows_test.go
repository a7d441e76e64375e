package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nix-larder/larder"

// arrows says which packages of this module each package may import. A package
// that is not here does not exist yet: whoever makes it draws its arrows first.
//
// They keep the parts replaceable, and the hook small: Nix waits for it.
var arrows = map[string][]string{
	"cmd/larder-hook":       {"internal/hookmain"},
	"internal/hookmain":     {"hook"},
	"cmd/larder":            {"..."}, // wires everything, and is the hook by that name
	"hook":                  {"queue", "internal/gcroot", "internal/nixstore", "internal/plainfile"},
	"watcher":               {"queue", "internal/nixstore", "internal/rules", "internal/gcroot", "internal/bell"},
	"internal/worker":       {"queue", "internal/gcroot", "internal/bell"},
	"cachewriter":           {"internal/nixstore", "internal/nar", "internal/bincache", "internal/compress", "internal/pace"},
	"internal/runner":       {"internal/nixclient", "internal/nixstore", "internal/rules"},
	"internal/nixclient":    {"internal/nixstore"},
	"internal/doctor":       {"queue", "internal/bincache", "internal/gcroot", "internal/nixclient", "internal/nixstore"},
	"queue":                 {"internal/plainfile"},
	"internal/nar":          nil,
	"internal/gcroot":       {"internal/plainfile"},
	"internal/rules":        {"internal/nixstore"},
	"internal/bell":         nil,
	"internal/cachegc":      {"internal/bincache"},
	"internal/cachecheck":   {"internal/bincache", "internal/cachegc", "internal/compress", "internal/nar"},
	"internal/drvdiff":      nil,
	"internal/nixstore":     {"internal/plainfile"},
	"internal/bincache":     nil,
	"internal/plainfile":    nil,
	"internal/nixtest":      nil, // for tests, as are the next three
	"internal/trouble":      nil,
	"internal/cachetest":    nil,
	"internal/hooktest":     {"queue", "internal/gcroot", "internal/trouble"},
	"integration":           nil,
	"integration/bench":     {"internal/cachetest"}, // which knows the format, and no code of ours
	"integration/oci":       nil,
	"integration/typecheck": nil,
	"internal/cachemerge":   {"internal/bincache"},
	"internal/compress":     nil,
	"internal/pace":         nil,
	"internal/recompress":   {"internal/bincache", "internal/compress", "internal/pace"},
	"internal/closurefile":  {"internal/bincache", "internal/compress", "internal/nar"},
}

// notInHook lists what larder-hook must not be made of, even indirectly.
var notInHook = []string{"github.com/urfave/cli", "github.com/fsnotify/fsnotify", "net/http"}

// A goPackage is what go list says about one.
type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestPackagesImportAlongTheArrows(t *testing.T) {
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		allowed, known := arrows[name]
		if !known {
			t.Errorf("%s has no arrows: decide what it may import, and say so in this test", name)
			continue
		}
		imports := p.Imports
		if strings.HasPrefix(name, "integration") {
			imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports) // it is nothing but tests
		}
		for _, path := range imports {
			other, ours := strings.CutPrefix(path, module+"/")
			if !ours || slices.Contains(allowed, other) {
				continue
			}
			if slices.Contains(allowed, "...") && other != "hook" {
				continue
			}
			t.Errorf("%s imports %s, may import %q", name, other, allowed)
		}
	}
}

func TestHookIsMadeOfLittle(t *testing.T) {
	for _, p := range goList(t, "-deps", "./cmd/larder-hook") {
		for _, heavy := range notInHook {
			if p.ImportPath == heavy || strings.HasPrefix(p.ImportPath, heavy+"/") {
				t.Errorf("larder-hook depends on %s", p.ImportPath)
			}
		}
	}
}

func goList(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	}
	must(t, err)
	var packages []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}
