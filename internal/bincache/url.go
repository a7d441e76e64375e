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
	if !ok && strings.HasPrefix(arg, "file:") {
		return "", fmt.Errorf("cache %q has no //, want file:///directory", arg)
	}
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
//
// Only what has to be is escaped (RFC 3986, pchar): Nix 2.26 reads that, and refuses
// anything else, but Nix 2.8 looks for a directory with the escapes in its name. It
// can't use a cache that needs them.
func URL(dir string) string {
	var b strings.Builder
	b.WriteString("file://")
	for _, c := range []byte(dir) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("/-._~!$&'()*+,;=:@", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// SubstituterURL returns what goes into Nix's substituters for a cache without
// signatures. Nix compares it letter by letter with what a user may use.
func SubstituterURL(dir string) string { return URL(dir) + "?trusted=true" }
