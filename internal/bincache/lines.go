package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// A lineFile is a file of ours that lines are added to, one for each thing that is to be
// remembered. A line that was cut off because its writer was killed is left out.
type lineFile struct {
	name    string
	header  string // what the first line begins with, before the version
	version int
	max     int64 // bytes that are read
}

// lines returns the lines of the file, as far as they are whole. There need not be one.
func (c *Cache) lines(f lineFile) (body []string, err error) {
	text, err := c.readFile(f.name, f.max)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
		return nil, nil
	}
	var rest string
	if err == nil {
		rest, err = checkHeader(string(text), f.header, f.version)
	}
	if err != nil {
		return nil, &FileError{f.name, err}
	}
	for line := range strings.Lines(rest) {
		if line, whole := strings.CutSuffix(line, "\n"); whole {
			body = append(body, line)
		}
	}
	return body, nil
}

// appendLines adds lines to the file, durably. The cache's lock is held.
func (c *Cache) appendLines(to lineFile, lines string) error {
	if lines == "" {
		return nil
	}
	if err := c.writeOnce(to.name, fmt.Sprintf("%s%d\n", to.header, to.version)); err != nil {
		return err
	}
	f, err := c.root.OpenFile(to.name, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	first := make([]byte, 64)
	n, _ := f.ReadAt(first, 0) // (ignored) it may be shorter
	if _, err := checkHeader(string(first[:n]), to.header, to.version); err != nil {
		return fmt.Errorf("%s: %w", to.name, err)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// Whoever was killed here has left half a line.
	if last := make([]byte, 1); info.Size() > 0 {
		if _, err := f.ReadAt(last, info.Size()-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			lines = "\n" + lines
		}
	}
	if _, err := f.WriteString(lines); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return c.SyncDir(path.Dir(to.name))
}

// rewriteLines writes the file anew, durably. The cache's lock is held.
func (c *Cache) rewriteLines(to lineFile, lines string) error {
	return c.replaceText(to.name, fmt.Appendf(nil, "%s%d\n%s", to.header, to.version, lines))
}

// replaceText puts a small file in place of what is there, durably.
func (c *Cache) replaceText(name string, text []byte) error {
	if err := c.putText(text, name); err != nil {
		return err
	}
	return c.SyncDir(path.Dir(name))
}
