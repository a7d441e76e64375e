package nixstore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	hashLen    = 32  // base-32 digits of 160 bits
	maxNameLen = 211 // libstore/path.hh
	base32     = "0123456789abcdfghijklmnpqrsvwxyz"
)

// CheckPath returns nil if path has the form of a store path below the store
// directory, such as /nix/store/<hash>-<name>. It does not look whether there is
// one.
func CheckPath(storeDir, path string) error {
	name, ok := strings.CutPrefix(path, storeDir+"/")
	if !ok {
		return fmt.Errorf("%q is not below %s", path, storeDir)
	}
	return checkName(name)
}

func checkName(name string) error {
	if len(name) < hashLen+2 || name[hashLen] != '-' {
		return fmt.Errorf("%q is not <hash>-<name>", name)
	}
	if len(name) > hashLen+1+maxNameLen {
		return fmt.Errorf("%q is longer than a store path can be", name)
	}
	for _, c := range []byte(name[:hashLen]) {
		if strings.IndexByte(base32, c) < 0 {
			return fmt.Errorf("%q does not begin with a hash", name)
		}
	}
	for _, c := range []byte(name[hashLen+1:]) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("+-._?=", c) >= 0:
		default:
			return fmt.Errorf("%q has a character that store paths can't have", name)
		}
	}
	return nil
}

// ParsePath returns the store path that a person means: a store path, something
// inside one, or a symbolic link to either, such as ./result.
func ParsePath(storeDir, arg string) (string, error) {
	path, err := filepath.Abs(arg)
	if err != nil {
		return "", err
	}
	rel, err := followInto(storeDir, path)
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(rel, "/")
	if err := checkName(name); err != nil {
		return "", err
	}
	return storeDir + "/" + name, nil
}

// maxLinks is how many symbolic links are followed, as many as Linux does.
const maxLinks = 40

// followInto follows symbolic links in a path, one by one, until it is below the
// store directory, and returns what it is there. A link that is a store path is
// not followed: it is what is meant.
func followInto(storeDir, path string) (string, error) {
	for range maxLinks {
		if rel, ok := strings.CutPrefix(path, storeDir+"/"); ok {
			return rel, nil
		}
		next, err := followFirst(path)
		if err != nil {
			return "", err
		}
		if next == path {
			return "", fmt.Errorf("%q is not below %s", path, storeDir)
		}
		path = next
	}
	return "", fmt.Errorf("%q is behind too many symbolic links", path)
}

// followFirst replaces the first symbolic link in a path by its target.
func followFirst(path string) (string, error) {
	for end := 1; end <= len(path); end++ {
		if end < len(path) && path[end] != '/' {
			continue
		}
		dir := path[:end]
		info, err := os.Lstat(dir)
		if err != nil {
			return "", err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		target, err := os.Readlink(dir)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(dir), target)
		}
		return filepath.Join(target, path[end:]), nil
	}
	return path, nil
}

// HashPart returns the 32 digits that name the entry of a store path.
func HashPart(path string) string { return filepath.Base(path)[:hashLen] }

// Name returns what a store path is called: what comes after the hash.
func Name(path string) string { return filepath.Base(path)[hashLen+1:] }
