// Typecheck finds what does not compile for a system that there is no C compiler
// for: go build and go vet need one as soon as a package uses cgo.
//
//	typecheck GOOS/GOARCH PACKAGE…
//
// It checks the packages and their tests, and what others declare that they import,
// from the source files that a build on that system would take. What it can't see:
// whether C code compiles, whether what Go calls in C is there and of that type,
// whether it can be linked, and whether any of it works.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	tags := flag.String("tags", "", "build tags, as of go build")
	flag.Parse()
	goos, goarch, ok := strings.Cut(flag.Arg(0), "/")
	if !ok || flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "usage: typecheck [-tags TAGS] GOOS/GOARCH PACKAGE…")
		os.Exit(2)
	}
	problems, err := check(goos, goarch, *tags, flag.Args()[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "typecheck:", err)
		os.Exit(1)
	}
	for _, problem := range problems {
		fmt.Fprintf(os.Stderr, "%s/%s: %v\n", goos, goarch, problem)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

// A listing is what go list says about a package. One that tests are compiled into is
// listed once more, with its tests.
type listing struct {
	ImportPath        string
	Dir               string
	GoFiles, CgoFiles []string
	ImportMap         map[string]string // where an import is another path than the source says
	DepOnly           bool              // nobody asked for it, but something imports it
}

// check returns what is wrong with the packages that the patterns name.
func check(goos, goarch, tags string, patterns []string) ([]error, error) {
	packages, err := list(goos, goarch, tags, patterns)
	if err != nil {
		return nil, err
	}
	c := checker{
		fset:  token.NewFileSet(),
		sizes: types.SizesFor("gc", goarch),
		done:  map[string]*types.Package{"unsafe": types.Unsafe},
	}
	for _, p := range packages { // those that are imported come first
		if err := c.check(p); err != nil {
			return nil, err
		}
	}
	return c.problems, nil
}

// list returns the packages with all that they import, in the order of imports.
func list(goos, goarch, tags string, patterns []string) ([]listing, error) {
	cmd := exec.Command("go", append([]string{"list", "-deps", "-test", "-tags", tags,
		"-json=ImportPath,Dir,GoFiles,CgoFiles,ImportMap,DepOnly"}, patterns...)...)
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=1")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("go list: %w\n%s", err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []listing
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listing
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		// The main package of a test is made by go test, and not there yet.
		if p.ImportPath != "unsafe" && !strings.HasSuffix(p.ImportPath, ".test") {
			packages = append(packages, p)
		}
	}
}

type checker struct {
	fset     *token.FileSet
	sizes    types.Sizes
	done     map[string]*types.Package
	problems []error
}

func (c *checker) check(p listing) error {
	var files []*ast.File
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		file, err := parser.ParseFile(c.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	config := types.Config{
		Importer:         importer(func(path string) (*types.Package, error) { return c.find(p, path) }),
		Sizes:            c.sizes,
		FakeImportC:      true,      // whatever is said of C is believed
		IgnoreFuncBodies: p.DepOnly, // others look after it
		Error: func(err error) { // of a package with tests each comes twice
			if !slices.ContainsFunc(c.problems, func(known error) bool { return known.Error() == err.Error() }) {
				c.problems = append(c.problems, err)
			}
		},
	}
	path, _, _ := strings.Cut(p.ImportPath, " ") // go list says which test it is for
	c.done[p.ImportPath], _ = config.Check(path, c.fset, files, nil)
	return nil
}

func (c *checker) find(by listing, path string) (*types.Package, error) {
	if other, ok := by.ImportMap[path]; ok {
		path = other
	}
	if p, ok := c.done[path]; ok {
		return p, nil
	}
	return nil, errors.New("go list did not name it")
}

type importer func(path string) (*types.Package, error)

func (f importer) Import(path string) (*types.Package, error) { return f(path) }
