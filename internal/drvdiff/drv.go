package drvdiff

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/derivation"
	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// A drv is a derivation as its file says.
type drv struct {
	path string
	*derivation.Derivation
}

// unescape undoes what go-nix leaves as it is in arguments.
var unescape = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r", `\t`, "\t", `\"`, `"`)

func (f *finder) read(path string) (*drv, error) {
	if name, ok := strings.CutPrefix(path, f.storeDir+"/"); !ok || strings.Contains(name, "/") {
		return nil, fmt.Errorf("read derivation: %q is not right below %s", path, f.storeDir)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	defer file.Close()
	d, err := derivation.ReadDerivation(file)
	if d == nil {
		return nil, fmt.Errorf("read derivation %s: %w", path, err)
	}
	// Beside a derivation the error is of no interest: go-nix knows no other store
	// than /nix/store, and no outputs that are named by their contents. But it takes
	// one that is cut off.
	if len(d.Outputs) == 0 || d.Env == nil {
		return nil, fmt.Errorf("read derivation %s: it is not a whole derivation", path)
	}
	for i, arg := range d.Arguments {
		d.Arguments[i] = unescape.Replace(arg)
	}
	return &drv{path, d}, nil
}

// fixed tells whether the derivation says what will come out of it.
func (d *drv) fixed() bool {
	for _, out := range d.Outputs {
		if out.Hash != "" && out.Path != "" {
			return true
		}
	}
	return false
}

// sameOutputs tells whether two derivations are the same for Nix, or at least for
// those that use them. Paths that depend on the outputs' contents are not known.
func sameOutputs(x, y *drv) bool {
	return maps.EqualFunc(x.Outputs, y.Outputs, func(a, b *derivation.Output) bool {
		return a.Path == b.Path && a.Path != ""
	})
}

// mention returns what stands for an output in a derivation that uses it.
func (d *drv) mention(output string) string {
	if path := d.Outputs[output].Path; path != "" {
		return path
	}
	// The path is not known before the build, which replaces this (libstore's
	// downstreamPlaceholder).
	hash, _, _ := strings.Cut(filepath.Base(d.path), "-")
	sum := sha256.Sum256([]byte("nix-upstream-output:" + hash + ":" + outputName(nameOf(d.path), output)))
	return "/" + nixbase32.EncodeToString(sum[:])
}

// mentions returns what stands for its outputs.
func (d *drv) mentions() (list []string) {
	for _, output := range slices.Sorted(maps.Keys(d.Outputs)) {
		list = append(list, d.mention(output))
	}
	return list
}

// nameOf returns the name of a store path, or of a derivation: what follows the
// hash, without .drv.
func nameOf(path string) string {
	_, name, _ := strings.Cut(filepath.Base(path), "-")
	return strings.TrimSuffix(name, ".drv")
}

// outputName is the name of an output's path.
func outputName(drvName, output string) string {
	if output == "out" {
		return drvName
	}
	return drvName + "-" + output
}
