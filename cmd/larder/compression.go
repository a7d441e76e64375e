package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/queue"
)

func compressionFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "compression", EnvVars: []string{"LARDER_COMPRESSION"},
		Usage:       "`METHOD`: zstd, zstd:1 to zstd:22, xz, xz:0 to xz:9, or none. A cache that is made remembers it",
		DefaultText: "what the queue or else the cache remembers, else zstd:3",
	}
}

const hintCompression = "for example --compression zstd:3"

// givenCompression returns the compression of the command line or of the queue's
// settings, or the zero value if neither says.
func givenCompression(c *cli.Context, s queue.Settings) (compress.Method, error) {
	text := c.String("compression")
	if text == "" {
		text = s.Compression
	}
	if text == "" {
		return compress.Method{}, nil
	}
	return parseCompression(text)
}

func parseCompression(text string) (compress.Method, error) {
	m, err := compress.Parse(text)
	if err != nil {
		return m, usageError(err.Error(), hintCompression)
	}
	return m, nil
}

// settingOf returns how a setting is written, "" if nobody has said.
func settingOf(m compress.Method) string {
	if m == (compress.Method{}) {
		return ""
	}
	return m.String()
}

// checkCompression returns an error if nothing can be compressed so on this machine.
func checkCompression(m compress.Method) error {
	err := m.Check()
	if errors.Is(err, compress.ErrNoProgram) {
		err = withHint(fmt.Errorf("compression %s: %w", m, err), "install xz (Debian's package xz-utils), or take --compression zstd:19")
	}
	return err
}

// makeNamed returns how a cache is made that is not there: nil, unless the command line
// names it.
func makeNamed(c *cli.Context, given compress.Method) *bincache.Options {
	if c.String("cache") == "" {
		return nil
	}
	return &bincache.Options{Settings: bincache.Settings{Compression: settingOf(given)}}
}

// hintSettings says what to do about settings of a cache that can't be read.
func hintSettings(err error) error {
	if isNewer(err) {
		return withHint(err, "a newer larder has written it: install that one")
	}
	return withHint(err, "it is text: write it anew, or remove it")
}

// isNewer tells whether an error says that a newer larder has written a file of a cache.
func isNewer(err error) bool {
	var damage *bincache.FileError
	return errors.As(err, &damage) && damage.Newer()
}

// chooseCompression returns how new NARs of a cache are compressed: as given, or else as
// the cache remembers.
func chooseCompression(given compress.Method, cache *bincache.Cache, log *slog.Logger) (compress.Method, error) {
	s, err := cache.Settings()
	if err != nil && (given == (compress.Method{}) || isNewer(err)) {
		return given, hintSettings(err)
	}
	m, err := compress.Parse(s.Compression)
	switch {
	case given == (compress.Method{}) && err != nil:
		return m, withHint(fmt.Errorf("the cache remembers another compression than larder has: %w", err), "a newer larder may have it; --compression zstd:3 does without, this time")
	case given == (compress.Method{}):
		return m, checkCompression(m)
	case s.Compression != "" && (err != nil || m != given) && log != nil:
		log.Warn("what is new is compressed otherwise than the cache remembers: larder init --compression, or larder recompress --remember, changes that for good",
			"compression", given, "remembered", s.Compression)
	}
	return given, checkCompression(given)
}
