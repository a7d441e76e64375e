package bincache

import (
	"fmt"
	"os"
	"path"
)

// OpenNar opens the NAR of an entry as it lies in the cache, and returns its size. The
// error wraps [ErrDamaged] if it is not what n says, or where no NAR may be.
func (c *Cache) OpenNar(n *NarInfo) (*os.File, int64, error) {
	if !isNarPlace(n.URL) {
		return nil, 0, fmt.Errorf("%w: %s is no place for a NAR", ErrDamaged, n.URL)
	}
	f, info, err := c.openNar(n)
	if err != nil {
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// FindCA sets the content address of an entry of which only contents and references are
// known, if its path proves it, and tells whether that is so. flat is the hash of a file
// that is all of the entry, or nil.
//
// It finds what is hashed by SHA-256 and does not refer to itself: sources, derivations,
// and nearly all fixed outputs.
func (n *NarInfo) FindCA(flat *Hash) bool {
	candidates := []string{"fixed:r:" + n.NarHash.String()}
	if flat != nil {
		candidates = append(candidates, "text:"+flat.String(), "fixed:"+flat.String())
	}
	for _, ca := range candidates {
		try := *n
		try.CA = ca
		if try.contentAddressed() {
			n.CA = ca
			return true
		}
	}
	return false
}

// CheckPath returns an error if a store path is none of this cache's store.
func (c *Cache) CheckPath(storePath string) error {
	if path.Dir(storePath) != c.storeDir || path.Clean(storePath) != storePath {
		return fmt.Errorf("%.300q is not in %s", storePath, c.storeDir)
	}
	return checkBaseName(path.Base(storePath))
}
