package bincache

import (
	"context"
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
		kind, rest, _ := strings.Cut(line, " ")
		method, url, ok := strings.Cut(rest, " ")
		if kind == "tried" && ok && checkURL(url) == nil { // or it is of other releases
			tried[url] = method
		}
	}
	return tried, nil
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
