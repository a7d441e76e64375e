package bincache

import (
	"context"
	"path"
	"strings"
)

// recompressedFile remembers which NARs were compressed once more, and with what. The
// package comment has the format.
var recompressedFile = lineFile{name: ".larder/recompressed", header: "larder-recompressed ", version: 1, max: 256 << 20}

// Tried tells with what NARs need not be compressed once more, by their URLs: they were, or
// would not get smaller.
func (c *Cache) Tried() (map[string]string, error) {
	lines, err := c.lines(recompressedFile)
	if err != nil {
		return nil, err
	}
	tried := make(map[string]string)
	for _, line := range lines {
		if method, url, ok := parseTried(line); ok {
			tried[url] = method
		}
	}
	return tried, nil
}

func parseTried(line string) (method, url string, ok bool) {
	kind, rest, _ := strings.Cut(line, " ")
	method, url, ok = strings.Cut(rest, " ")
	return method, url, kind == "tried" && ok && checkURL(url) == nil // or it is of other releases
}

// forgetAtLeast is how many lines ForgetTried finds worth to write all of them anew.
const forgetAtLeast = 1000

// ForgetTried forgets NARs that are not there any more, if they are many, and more than those
// that are.
func (c *Cache) ForgetTried(ctx context.Context) error {
	if keep, forget, err := c.triedAndThere(); err != nil || !isWorthIt(keep, forget) {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	keep, forget, err := c.triedAndThere() // whoever adds lines has the lock, and NARs that are there
	if err != nil || !isWorthIt(keep, forget) {
		return err
	}
	return c.rewriteLines(recompressedFile, strings.Join(append(keep, ""), "\n"))
}

func isWorthIt(keep []string, forget int) bool { return forget >= forgetAtLeast && forget > len(keep) }

// triedAndThere returns the lines that stay, and how many others there are.
func (c *Cache) triedAndThere() (keep []string, forget int, err error) {
	lines, err := c.lines(recompressedFile)
	if err != nil || len(lines) < forgetAtLeast {
		return lines, 0, err
	}
	names, err := c.readDir("nar")
	if err != nil {
		return nil, 0, err
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there["nar/"+name] = true
	}
	for _, line := range lines {
		if _, url, ok := parseTried(line); !ok || there[path.Clean(url)] || path.Dir(path.Clean(url)) != "nar" && c.Has(url) {
			keep = append(keep, line)
		}
	}
	return keep, len(lines) - len(keep), nil
}

func triedLine(method, url string) string { return "tried " + method + " " + url + "\n" }

// KeepNars remembers of NARs, by their URLs, that they would not get smaller by a method.
func (c *Cache) KeepNars(ctx context.Context, urls []string, method string) error {
	if len(urls) == 0 {
		return nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var lines strings.Builder
	for _, url := range urls {
		lines.WriteString(triedLine(method, url))
	}
	return c.appendLines(recompressedFile, lines.String())
}
