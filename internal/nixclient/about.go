package nixclient

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// System returns what Nix says without the user's own files and environment: the
// settings that a daemon has. The error wraps [ErrNoNix] if there is no Nix.
func System(ctx context.Context) (*Client, error) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		return nil, ErrNoNix
	}
	var c Client
	// The last one counts. A list of files that is empty is none at all to newer
	// versions, which then read the user's.
	c.settings, err = showConfig(ctx, nix, "NIX_CONFIG=", "NIX_USER_CONF_FILES=/dev/null")
	if err != nil {
		return nil, fmt.Errorf("ask Nix for the system's settings: %w", err)
	}
	return &c, nil
}

// A Version is one of Nix's, such as 2.8.0. The zero Version is one that is not known.
type Version struct {
	Text         string
	Major, Minor int
}

func (v Version) String() string { return v.Text }

// Known tells whether it is known at all.
func (v Version) Known() bool { return v.Major > 0 }

// Before tells whether it is known to be before another one.
func (v Version) Before(major, minor int) bool {
	return v.Known() && (v.Major < major || v.Major == major && v.Minor < minor)
}

// ParseVersion reads what a Nix says of itself. Of what it can't read it keeps the text.
func ParseVersion(text string) Version {
	v := Version{Text: text}
	major, rest, _ := strings.Cut(text, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	if n, err := strconv.Atoi(major); err == nil {
		if m, err := strconv.Atoi(rest[:end]); err == nil {
			v.Major, v.Minor = n, m
		}
	}
	return v
}

// InPath returns the version of the Nix in the PATH. The error wraps [ErrNoNix] if there is none.
func InPath(ctx context.Context) (Version, error) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		return Version{}, ErrNoNix
	}
	out, err := exec.CommandContext(ctx, nix, "--version").Output()
	if err != nil {
		return Version{}, fmt.Errorf("ask Nix for its version: %w", err)
	}
	line := strings.TrimSpace(string(out)) // nix (Nix) 2.8.0
	return ParseVersion(line[strings.LastIndex(line, " ")+1:]), nil
}

// Number returns a setting that is a number, if Nix knows it.
func (c *Client) Number(name string) (n float64, ok bool) {
	n, ok = c.settings[name].Value.(float64)
	return n, ok
}
