package bincache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// RewriteNarInfo is PublishNarInfo over a narinfo that looks as it should: the one who
// calls it knows better. What that one says besides stays if it is about the same contents.
func (c *Cache) RewriteNarInfo(ctx context.Context, t *Temp, storePath string) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return c.replaceNarInfo(t, narInfoName(storePath))
}

// replaceNarInfo puts a narinfo in the place of a damaged one. Signatures that others have
// made, and lines that mean nothing to us, stay if both are about the same contents. The
// cache's lock is held.
func (c *Cache) replaceNarInfo(t *Temp, name string) error {
	old, was, err := c.readNarInfo(name)
	if err != nil {
		return t.Replace(name) // (ignored) there is nothing that could stay
	}
	text, err := io.ReadAll(io.NewSectionReader(t, 0, maxNarInfo))
	if err != nil {
		return err
	}
	n, err := ParseNarInfo(text)
	if err != nil {
		return err
	}
	if !old.SameContents(n) {
		return t.Replace(name)
	}
	kept, err := withFile(was, n)
	if err != nil {
		return t.Replace(name) // (ignored) it is not made of lines
	}
	kept, _ = WithSignatures(old.withFileOf(n), kept, n.Sigs)
	if bytes.Equal(kept, text) {
		return t.Replace(name)
	}
	if err := c.putText(kept, name); err != nil {
		return err
	}
	t.Discard()
	return nil
}

// withFileOf returns an entry that names the NAR of another one.
func (n *NarInfo) withFileOf(o *NarInfo) *NarInfo {
	other := *n
	other.URL, other.Compression, other.FileHash, other.FileSize = o.URL, o.Compression, o.FileHash, o.FileSize
	return &other
}

// putText puts a small file in place of what is there. Only its name is not durable then.
func (c *Cache) putText(text []byte, name string) error {
	t, err := c.TempText(text)
	if err != nil {
		return err
	}
	if err = t.Sync(); err == nil {
		err = t.Replace(name)
	}
	if err != nil {
		t.Discard()
	}
	return err
}

// NameNar makes an entry, by the first part of its store path, name the NAR of another one
// with the same contents. Otherwise it stays as it is. It tells whether it did: the entry
// may be gone, or be about something else.
func (c *Cache) NameNar(ctx context.Context, hash string, of *NarInfo) (named bool, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	n, text, err := c.Read(hash)
	if n == nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
			err = nil
		}
		return false, err
	}
	if n.NarHash != of.NarHash || n.NarSize != of.NarSize {
		return false, nil
	}
	if err := c.checkNar(of); err != nil {
		return false, err
	}
	if text, err = withFile(text, of); err != nil {
		return false, nil // (ignored) it is not made of lines
	}
	if err := c.putText(text, hash+narInfoEnding); err != nil {
		return false, err
	}
	return true, c.SyncDir(".")
}

// StatNar returns which file a NAR is, by its URL.
func (c *Cache) StatNar(url string) (fs.FileInfo, error) {
	if !isNarPlace(url) {
		return nil, fmt.Errorf("%w: %s is no place for a NAR", ErrDamaged, url)
	}
	return c.root.Stat(url)
}

// SameFile tells whether a file is still the one that it was.
func SameFile(was, is fs.FileInfo) bool {
	return os.SameFile(was, is) && was.Size() == is.Size() && was.ModTime().Equal(is.ModTime())
}

// RemoveNar removes a NAR that is damaged, by its URL, if it is still the same file. It
// tells whether it did.
func (c *Cache) RemoveNar(ctx context.Context, url string, was fs.FileInfo) (removed bool, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	is, err := c.StatNar(url)
	if err != nil || !SameFile(was, is) {
		return false, ignoreNotExist(err)
	}
	// Who mends NARs takes no lock: it goes out of the way first, where a sweeper finds it
	// should we be killed, and back if it is another one than it has just been.
	aside := path.Join(tmpDir, tempPrefix()+"damaged-"+path.Base(url))
	if err := c.root.Rename(url, aside); err != nil {
		return false, ignoreNotExist(err)
	}
	if is, err = c.root.Stat(aside); err == nil && !SameFile(was, is) {
		return false, c.putBack(aside, url)
	}
	if err := c.root.Remove(aside); err != nil {
		return false, err
	}
	return true, c.SyncDir(path.Dir(url))
}
