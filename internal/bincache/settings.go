package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Settings are what a cache remembers for all who write to it. The package comment has
// the format. An empty value means that nobody has said.
type Settings struct {
	// Compression is how new NARs are compressed, such as "zstd:3".
	Compression string
}

const (
	settingsFile    = ".larder/settings"
	settingsVersion = 1
	settingsHeader  = "larder-settings "
	maxSettings     = 1 << 20
)

// Settings returns what the cache remembers. It is an error if a newer larder has
// written what this one would misunderstand.
func (c *Cache) Settings() (Settings, error) {
	s, _, err := c.readSettings()
	if err != nil {
		return Settings{}, fmt.Errorf("settings of cache: %w", err)
	}
	return s, nil
}

// Remember makes the cache remember other settings. Those that it remembers already
// change nothing in it.
func (c *Cache) Remember(ctx context.Context, s Settings) error {
	if err := c.remember(ctx, s); err != nil {
		return fmt.Errorf("write settings of cache: %w", err)
	}
	return nil
}

func (c *Cache) remember(ctx context.Context, s Settings) error {
	have, _, err := c.readSettings()
	if err != nil || have == s {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	have, others, err := c.readSettings()
	if err != nil || have == s {
		return err
	}
	return c.replaceText(settingsFile, []byte(s.format(others)))
}

// readSettings returns the settings, and the lines that say something else.
func (c *Cache) readSettings() (s Settings, others string, err error) {
	text, err := c.readFile(settingsFile, maxSettings)
	if errors.Is(err, fs.ErrNotExist) {
		return Settings{}, "", nil
	}
	var body string
	if err == nil {
		body, err = checkHeader(string(text), settingsHeader, settingsVersion)
	}
	if err != nil {
		return Settings{}, "", &FileError{settingsFile, err}
	}
	for line := range strings.Lines(body) {
		switch kind, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); kind {
		case "compression":
			s.Compression = value
		default:
			others += strings.TrimSuffix(line, "\n") + "\n" // of other releases
		}
	}
	return s, others, nil
}

func (s Settings) format(others string) string {
	text := fmt.Sprintf("%s%d\n", settingsHeader, settingsVersion)
	if s.Compression != "" {
		text += "compression " + s.Compression + "\n"
	}
	return text + others
}

// checkHeader returns what is behind the first line of a file of ours, which says what
// it is, and of which version.
func checkHeader(text, header string, known int) (body string, err error) {
	first, body, _ := strings.Cut(text, "\n")
	digits, ok := strings.CutPrefix(first, header)
	version, err := strconv.Atoi(digits)
	if !ok || err != nil || version < 1 {
		return "", fmt.Errorf("it does not begin with %q and a version", strings.TrimSpace(header))
	}
	if version > known {
		return "", fmt.Errorf("version %d is %w %d", version, errNewer, known)
	}
	return body, nil
}
