// Package nixclient finds out how Nix serves the user: where builds happen, what the
// settings are, and what of them the user may change.
//
// Nix itself is asked, by its own programs, since it alone knows what its files, its
// environment and its defaults come to. What no program tells is found out as Nix
// does it (src/libstore/store-api.cc, openFromNonUri; daemon.cc).
package nixclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/nixstore"
)

// ErrNoNix says that there is no Nix in the PATH.
var ErrNoNix = errors.New("no nix in the PATH")

// An Access is how the user's commands reach the store.
type Access string

const (
	// Local is without a daemon: builds, and their hook, run as the user.
	Local Access = "local"
	// Daemon is through a nix-daemon on this machine, as which builds run.
	Daemon Access = "daemon"
	// Elsewhere is a store that is not this machine's /nix/store, or is but can't be
	// told to be.
	Elsewhere Access = "elsewhere"
)

// A Client is what Nix says to one user in one environment.
type Client struct {
	Access Access

	// Store is the setting that chooses the store, such as "auto" or "daemon".
	Store string

	// Trusted tells whether the user may change settings of the daemon. Without one,
	// everybody may.
	Trusted bool

	// Apart tells whether the daemon is in another container, where it can't be seen.
	Apart bool

	// DaemonPID is the process that listens for the daemon's clients, or 0 if there is
	// none, or none that can be seen.
	DaemonPID int

	// DaemonVersion is the daemon's version, such as "2.26.3", or "".
	DaemonVersion string

	ours, theirs []mount // what we and the daemon see, if that is known
	settings     map[string]setting
}

// A setting is one of Nix's, in show-config's form.
type setting struct {
	Value any `json:"value"`
}

// New returns a Client with the settings that are given: strings, truths, float64s, or
// lists of strings. It is for tests.
func New(settings map[string]any) *Client {
	c := &Client{Access: Local, Trusted: true, settings: make(map[string]setting)}
	for name, value := range settings {
		if list, ok := value.([]string); ok {
			anys := make([]any, len(list))
			for i, v := range list {
				anys[i] = v
			}
			value = anys
		}
		c.settings[name] = setting{value}
	}
	c.Store = c.String("store")
	return c
}

// Ask asks Nix. The error wraps [ErrNoNix] if there is none.
func Ask(ctx context.Context, dirs nixstore.Dirs) (*Client, error) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		return nil, ErrNoNix
	}
	var c Client
	if c.settings, err = showConfig(ctx, nix); err != nil {
		return nil, fmt.Errorf("ask Nix for its settings: %w", err)
	}
	c.Store = c.String("store")
	socket := daemonSocket(c.Store, dirs)
	c.Access = accessOf(c.Store, socket, dirs)
	c.Trusted = true
	if c.Access != Daemon {
		return &c, nil
	}
	c.Trusted = trusted(c.Strings("trusted-users"))
	if g, err := greet(socket); err == nil { // (ignored) Nix will say what is wrong with it
		c.Apart, c.DaemonPID, c.DaemonVersion = g.apart, g.pid, g.version
		if g.trusted != nil {
			c.Trusted = *g.trusted // its own word
		}
	}
	if c.DaemonPID != 0 {
		c.theirs, _ = mounts(strconv.Itoa(c.DaemonPID)) // (ignored) then it is not known
		c.ours, _ = mounts("self")
	}
	return &c, nil
}

// String returns a setting, or "" if Nix does not know it.
func (c *Client) String(name string) string {
	text, _ := c.settings[name].Value.(string)
	return text
}

// Strings returns a setting that is a list.
func (c *Client) Strings(name string) []string {
	list, _ := c.settings[name].Value.([]any)
	var values []string
	for _, v := range list {
		if text, ok := v.(string); ok {
			values = append(values, text)
		}
	}
	return values
}

// Bool returns a setting that is true or false.
func (c *Client) Bool(name string) bool {
	on, _ := c.settings[name].Value.(bool)
	return on
}

// Knows tells whether this Nix has a setting.
func (c *Client) Knows(name string) bool {
	_, ok := c.settings[name]
	return ok
}

// MaySubstitute tells whether the user's commands may use a substituter, letter by
// letter as it stands there.
func (c *Client) MaySubstitute(url string) bool {
	return c.Trusted || slices.Contains(c.Strings("trusted-substituters"), url) || slices.Contains(c.Strings("substituters"), url)
}

// showConfig returns the settings that Nix has with further variables.
func showConfig(ctx context.Context, nix string, env ...string) (map[string]setting, error) {
	// Since 2.17 it is called "config show", and this name still works.
	out, err := run(ctx, env, nix, "show-config", "--json")
	if err != nil {
		if newer, newErr := run(ctx, env, nix, "config", "show", "--json"); newErr == nil {
			out, err = newer, nil
		}
	}
	if err != nil {
		return nil, err
	}
	var settings map[string]setting
	return settings, json.Unmarshal(out, &settings)
}

// run runs one of Nix's commands, with further variables, for its output.
func run(ctx context.Context, env []string, nix string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, nix, append([]string{"--extra-experimental-features", "nix-command"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("nix %s: %w: %s", args[0], err, lastLine(stderr.String()))
	}
	return out, nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndex(text, "\n")+1:]
}

// daemonSocket returns where a daemon would listen.
func daemonSocket(store string, dirs nixstore.Dirs) string {
	if path, ok := strings.CutPrefix(store, "unix://"); ok && path != "" {
		path, _, _ = strings.Cut(path, "?")
		return path
	}
	if socket := os.Getenv("NIX_DAEMON_SOCKET_PATH"); socket != "" {
		return socket
	}
	return filepath.Join(dirs.State, "daemon-socket", "socket")
}

// accessOf follows Nix's openFromNonUri.
func accessOf(store, socket string, dirs nixstore.Dirs) Access {
	switch {
	case store == "" || store == "auto":
		if unix.Access(dirs.State, unix.R_OK|unix.W_OK) == nil {
			return Local
		}
		if _, err := os.Stat(socket); err == nil {
			return Daemon
		}
		if _, err := os.Stat(dirs.State); err != nil && os.Geteuid() != 0 {
			return Elsewhere // Nix makes a store in the user's home
		}
		return Local
	case store == "local":
		return Local
	case store == "daemon", strings.HasPrefix(store, "unix://"):
		return Daemon
	}
	return Elsewhere
}

// trusted follows what a daemon does with trusted-users.
func trusted(names []string) bool {
	if os.Geteuid() == 0 || slices.Contains(names, "*") {
		return true
	}
	me, err := user.Current()
	if err != nil {
		return false
	}
	if slices.Contains(names, me.Username) {
		return true
	}
	groups, _ := me.GroupIds() // (ignored) those that it did find count
	for _, gid := range groups {
		if g, err := user.LookupGroupId(gid); err == nil && slices.Contains(names, "@"+g.Name) {
			return true
		}
	}
	return false
}
