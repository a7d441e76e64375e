package nixstore

import (
	"fmt"
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
	if !strings.HasPrefix(path, storeDir+"/") {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
	}
	rel, ok := strings.CutPrefix(path, storeDir+"/")
	if !ok {
		return "", fmt.Errorf("%q is not below %s", path, storeDir)
	}
	name, _, _ := strings.Cut(rel, "/")
	return storeDir + "/" + name, checkName(name)
}

// HashPart returns the 32 digits that name the entry of a store path.
func HashPart(path string) string { return filepath.Base(path)[:hashLen] }
