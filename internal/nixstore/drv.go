package nixstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nix-larder/larder/internal/plainfile"
)

// DrvOutputs returns the paths of all outputs that a derivation's file names. It
// is for those in a hurry: it needs no database, reads the beginning of one file,
// and takes the derivation's word.
//
// The error says that the file does not tell: it is not there, as for builds on
// behalf of other machines, or the paths depend on the outputs' contents.
func (d Dirs) DrvOutputs(drv string) ([]string, error) {
	f, err := plainfile.Open(drv, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	defer f.Close()
	// Outputs come first. Nix has no derivation with so many that they need more.
	head := make([]byte, 64<<10)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read derivation: %w", err)
	}
	paths, err := parseOutputs(string(head[:n]))
	if err != nil {
		return nil, fmt.Errorf("read derivation %s: %w", drv, err)
	}
	for _, path := range paths {
		if err := CheckPath(d.Store, path); err != nil {
			return nil, fmt.Errorf("read derivation %s: %w", drv, err)
		}
	}
	return paths, nil
}

// parseOutputs reads the beginning of a derivation: an ATerm that starts with
// Derive([("out","/nix/store/…","",""),…],… (libstore's derivations.cc). None of
// the strings that are of interest has anything to escape in it.
func parseOutputs(text string) (paths []string, err error) {
	rest, ok := strings.CutPrefix(text, "Derive([")
	if !ok {
		return nil, errors.New("not a derivation of a known form")
	}
	for {
		output, after, ok := strings.Cut(rest, ")")
		fields := strings.Split(strings.TrimPrefix(output, "("), ",")
		if !ok || len(fields) != 4 {
			return nil, errors.New("its outputs are not of a known form")
		}
		path := strings.Trim(fields[1], `"`)
		if path == "" {
			return nil, errors.New("its outputs are named by their contents")
		}
		paths = append(paths, path)
		if rest, ok = strings.CutPrefix(after, ","); !ok {
			return paths, nil
		}
	}
}
