package bincache

import (
	"fmt"
	"os"
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
