package bincache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// maxNarInfo is the largest .narinfo file that is read: a path with a hundred
// thousand references.
const maxNarInfo = 16 << 20

// ErrDamaged says that there is a narinfo, but it can't be read, or its NAR is
// missing or has another size than it says.
var ErrDamaged = errors.New("entry is damaged")

// Entry returns the entry of a store path. The error wraps [fs.ErrNotExist] if
// there is none, and [ErrDamaged] if clients can't use it.
func (c *Cache) Entry(storePath string) (*NarInfo, error) {
	n, _, err := c.readNarInfo(narInfoName(storePath))
	if err != nil {
		return nil, err
	}
	if n.StorePath != storePath {
		return nil, fmt.Errorf("%w: it is for %s", ErrDamaged, n.StorePath)
	}
	if err := c.checkNar(n); err != nil {
		return nil, err
	}
	return n, nil
}

// checkNar returns an error if the NAR of an entry is not there.
func (c *Cache) checkNar(n *NarInfo) error {
	if !isNarPlace(n.URL) {
		return n.notNarPlace()
	}
	info, err := c.root.Stat(n.URL)
	return n.checkFile(info, err)
}

// checkFile is checkNar for who has looked for the NAR already.
func (n *NarInfo) checkFile(info fs.FileInfo, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%w: %s is missing", ErrDamaged, n.URL)
	case err == isLink, leadsOut(err), errors.Is(err, syscall.ELOOP):
		return fmt.Errorf("%w: %s is a link that leads out of the cache", ErrDamaged, n.URL)
	case err == isNoFile, err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a regular file", ErrDamaged, n.URL)
	case err != nil:
		return err
	}
	return n.checkNarSize(info.Size())
}

func (c *Cache) readNarInfo(name string) (*NarInfo, []byte, error) {
	text, err := c.readSmall(name)
	if err == errNotQuick {
		text, err = c.readFile(name, maxNarInfo)
	}
	if errors.Is(err, fs.ErrPermission) || errors.As(err, new(unfit)) {
		// If nothing in the cache can be read, it can't be written either, and that
		// is what will be said. This one alone is of no use to anybody.
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, nil, err
	}
	n, err := ParseNarInfo(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, text, nil
}

// NarName returns the name under which a NAR is published: Nix's own, by the hash
// of the file and the ending of its compression.
func NarName(fileHash Hash, compression string) string {
	ending := map[string]string{"zstd": ".zst", "xz": ".xz"}[compression]
	return "nar/" + fileHash.Digits() + ".nar" + ending
}

// PublishNar publishes a finished NAR. One that is there with the same size is
// the same: its name is its hash.
func (c *Cache) PublishNar(t *Temp, name string) error {
	err := t.Publish(name)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	have, err := c.root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || fitness(err) == isLink {
		return t.Replace(name) // a link to nothing that is here
	}
	if err != nil {
		return err
	}
	want, err := t.Stat()
	if err != nil {
		return err
	}
	if have.Size() != want.Size() {
		// Something cut it short. It must be mended whoever wrote it, or every
		// later entry with these contents would be broken from the start.
		return t.Replace(name)
	}
	t.Discard()
	return nil
}

// PublishNarInfo publishes a narinfo, and with it an entry, whose NAR and whose
// references' narinfos must be in place. It tells whether it did: one that is there is
// kept, unless it is damaged, and then what it says besides stays, such as signatures, if
// it can be read and is about the same contents. Only to find that out it takes, and waits
// for, the cache's lock.
func (c *Cache) PublishNarInfo(ctx context.Context, t *Temp, storePath string) (published bool, err error) {
	name := narInfoName(storePath)
	err = t.Publish(name)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	_, err = c.Entry(storePath)
	switch {
	case err == nil:
		t.Discard()
		return false, nil
	case errors.Is(err, ErrDamaged), errors.Is(err, fs.ErrNotExist):
		err = c.replaceNarInfo(t, name)
		return err == nil, err
	}
	return false, err
}

// ReplaceNarInfo is PublishNarInfo that also replaces an entry of other contents, and
// returns what that was. The NAR of that stays: clients may have read which it is, and
// other entries may have the same.
func (c *Cache) ReplaceNarInfo(ctx context.Context, t *Temp, n *NarInfo) (published bool, was *NarInfo, err error) {
	name := narInfoName(n.StorePath)
	if err := t.Publish(name); !errors.Is(err, fs.ErrExist) {
		return err == nil, nil, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, nil, err
	}
	defer unlock()
	was, err = c.Entry(n.StorePath)
	switch {
	case err == nil && was.SameContents(n):
		t.Discard()
		return false, nil, nil
	case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, fs.ErrNotExist):
		return false, nil, err
	}
	if err := t.Replace(name); err != nil {
		return false, nil, err
	}
	return true, was, nil
}

// TempNarInfo writes a narinfo into an unfinished file.
func (c *Cache) TempNarInfo(n *NarInfo) (*Temp, error) {
	return c.TempText(n.Format())
}

// TempText writes a text into an unfinished file.
func (c *Cache) TempText(text []byte) (*Temp, error) {
	return c.CreateFrom(bytes.NewReader(text))
}
