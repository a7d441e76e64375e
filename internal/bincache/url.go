package bincache

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// ParseURL returns the directory of the cache that a person names: file:///cache,
// or just a directory.
func ParseURL(arg string) (dir string, err error) {
	if arg == "" {
		return "", errors.New("cache is empty, want a directory or file:///directory")
	}
	scheme, rest, ok := strings.Cut(arg, "://")
	if !ok {
		return filepath.Abs(arg)
	}
	if scheme != "file" {
		return "", fmt.Errorf("cache %q is not on this machine, want a directory or file:///directory", arg)
	}
	// Nix's parameters, such as ?trusted=true, are for those who read.
	rest, _, _ = strings.Cut(rest, "?")
	dir, err = url.PathUnescape(rest)
	if err != nil {
		return "", fmt.Errorf("cache %q: %w", arg, err)
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("cache %q has a relative path, want file:///directory", arg)
	}
	return filepath.Clean(dir), nil
}

// URL returns the one form in which larder writes the URL of a cache. (A bare
// directory means something else to Nix: a store with /nix/store inside.)
func URL(dir string) string {
	return (&url.URL{Scheme: "file", Path: dir}).String()
}

// SubstituterURL returns what goes into Nix's substituters for a cache without
// signatures. Nix compares it letter by letter with what a user may use.
func SubstituterURL(dir string) string { return URL(dir) + "?trusted=true" }
