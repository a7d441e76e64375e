package bincache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// maxInfo is the largest nix-cache-info that is read. Nix writes one line, others three.
const maxInfo = 64 << 10

// readInfo reads nix-cache-info, as Nix does (BinaryCacheStore::init in
// src/libstore/binary-cache-store.cc).
func (c *Cache) readInfo() error {
	f, info, err := c.openRegular(infoFile)
	if errors.Is(err, fs.ErrNotExist) {
		return c.readInfoless()
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", infoFile, c.path, err)
	}
	defer f.Close()
	text, err := readAll(f, info, maxInfo)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", infoFile, c.path, err)
	}
	c.info, c.fileMode = info, fileMode(info)
	return c.parseInfo(text)
}

func (c *Cache) parseInfo(text []byte) error {
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(string(line), ":")
		value = strings.Trim(value, " \t\r\n")
		switch name {
		case "StoreDir":
			if c.storeDir == "" {
				c.storeDir = value
			}
			if value != c.storeDir {
				return fmt.Errorf("%s: %w: %s, want %s", c.path, ErrStoreDir, value, c.storeDir)
			}
		case "Priority":
			if !startsAsInt(value) {
				return fmt.Errorf("%s of %s: %q is no Priority that Nix could read", infoFile, c.path, value)
			}
		}
	}
	if c.storeDir == "" {
		c.storeDir = "/nix/store" // what Nix takes for a cache that does not say
	}
	return nil
}

// startsAsInt tells whether C++'s std::stoi, which looks at no more than it needs, makes
// an int of a text.
func startsAsInt(text string) bool {
	digits := strings.TrimLeft(text, "+-")
	if len(text)-len(digits) > 1 {
		return false
	}
	end := strings.IndexFunc(digits+" ", func(r rune) bool { return r < '0' || r > '9' })
	n, err := strconv.ParseInt(text[:len(text)-len(digits)+end], 10, 64)
	return err == nil && n >= math.MinInt32 && n <= math.MaxInt32
}

// readInfoless finds out whether a directory without nix-cache-info is a cache all the
// same, as for Nix, which makes that file if it is missing. It is if it has an entry.
func (c *Cache) readInfoless() error {
	hashes, err := c.Hashes()
	if err != nil {
		return err
	}
	for _, hash := range hashes {
		n, _, err := c.readNarInfo(hash + narInfoEnding)
		if err != nil || HashPart(n.StorePath) != hash {
			continue // (ignored) another one may do
		}
		dir := path.Dir(n.StorePath)
		if c.storeDir == "" {
			c.storeDir = dir
		}
		if dir != c.storeDir {
			return fmt.Errorf("%s: %w: %s, want %s", c.path, ErrStoreDir, dir, c.storeDir)
		}
		entry, err := c.root.Stat(hash + narInfoEnding)
		if err != nil {
			return err
		}
		c.info, err = c.root.Stat(".")
		c.fileMode = fileMode(entry)
		return err
	}
	return fmt.Errorf("%s has no %s: %w", c.path, infoFile, fs.ErrNotExist)
}

// HasInfo tells whether the cache had its nix-cache-info when it was opened.
func (c *Cache) HasInfo() bool { return !c.info.IsDir() }

// fileMode returns the mode of files that are made beside one. What was taken from a Nix
// store nobody may write to, but its owner can.
func fileMode(info fs.FileInfo) fs.FileMode { return info.Mode().Perm() | 0o600 }

// writeInfo writes nix-cache-info unless there is one.
//
// WantMassQuery lets clients ask for many paths at once. The priority is before
// cache.nixos.org's 40: this cache is nearer.
func (c *Cache) writeInfo(storeDir string) error {
	return c.writeOnce(infoFile, "StoreDir: "+storeDir+"\nWantMassQuery: 1\nPriority: 30\n")
}
