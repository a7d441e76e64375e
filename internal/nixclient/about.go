package nixclient

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/nix-larder/larder/internal/nixstore"
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

// Versions returns the version of the Nix in the PATH, and that of the daemon if there
// is one that tells: before 2.15 no client asks for it.
func Versions(ctx context.Context, dirs nixstore.Dirs) (client, daemon Version, err error) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		return client, daemon, ErrNoNix
	}
	out, err := exec.CommandContext(ctx, nix, "--version").Output()
	if err != nil {
		return client, daemon, fmt.Errorf("ask Nix for its version: %w", err)
	}
	line := strings.TrimSpace(string(out)) // nix (Nix) 2.8.0
	client = ParseVersion(line[strings.LastIndex(line, " ")+1:])
	if _, err := os.Stat(daemonSocket(dirs)); err != nil {
		return client, daemon, nil
	}
	out, err = run(ctx, nix, "store", "ping", "--json", "--store", "unix://"+daemonSocket(dirs))
	var info struct {
		Version string `json:"version"`
	}
	if err == nil && json.Unmarshal(out, &info) == nil {
		daemon = ParseVersion(info.Version)
	}
	return client, daemon, nil
}

// Number returns a setting that is a number, if Nix knows it.
func (c *Client) Number(name string) (n float64, ok bool) {
	n, ok = c.settings[name].Value.(float64)
	return n, ok
}
