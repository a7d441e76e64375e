package bincache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// ErrNameTaken says that the place of a NAR has something else in it.
var ErrNameTaken = errors.New("name is taken by another file")

// How says how a NAR came into a cache.
type How int

const (
	WasThere How = iota // nothing was to be done
	Linked              // it is the same file in both caches
	Copied
)

// TakeNar publishes the NAR of an entry of another cache under the same name. All that
// is not durable then is that name: the caller syncs its directory, once for many.
//
// A link is made without reading the NAR; a copy is compared with its hash. The error
// wraps [ErrDamaged] if the other cache has not what n says, and [ErrNameTaken] if
// another file is in its place that can't be told for a damaged one.
func (c *Cache) TakeNar(ctx context.Context, from *Cache, n *NarInfo) (how How, size int64, err error) {
	if !isNarPlace(n.URL) {
		return 0, 0, n.notNarPlace()
	}
	src, info, err := from.openNar(n)
	if err != nil {
		return 0, 0, err
	}
	defer src.Close()
	for {
		how, err := c.takeNar(ctx, n, src, info)
		if !errors.Is(err, fs.ErrExist) {
			return how, info.Size(), err
		}
		// Another entry has the same NAR, or another process was faster.
	}
}

// takeNar is TakeNar for a NAR that is open. The error wraps [fs.ErrExist] if it has to
// be called again.
func (c *Cache) takeNar(ctx context.Context, n *NarInfo, src *os.File, info fs.FileInfo) (How, error) {
	same, err := c.hasNar(n, src, info)
	if same {
		return WasThere, nil
	}
	publish := (*Temp).Replace
	if errors.Is(err, fs.ErrNotExist) {
		publish, err = (*Temp).Publish, c.makeDir(path.Dir(n.URL))
		if err == nil && c.mayLink(info) {
			err = c.linkNar(n, src)
			if err == nil || errors.Is(err, fs.ErrExist) {
				return Linked, err
			}
			// Whatever is in the way, such as the system's rules for links to other
			// users' files: a copy may do, and if not, says why.
			err = nil
		}
	}
	if err != nil {
		return 0, err
	}
	t, err := c.CreateTemp()
	if err != nil {
		return 0, err
	}
	if err = t.fill(ctx, n, src, info.Size()); err == nil {
		err = t.Sync()
	}
	if err == nil {
		err = publish(t, n.URL)
	}
	if err != nil {
		t.Discard()
	}
	return Copied, err
}

// isNarPlace tells whether a NAR may be there. What a narinfo of another cache says
// must not overwrite anything else, and what has another use is not there to stay.
func isNarPlace(name string) bool {
	top, rest, below := strings.Cut(path.Clean(name), "/")
	switch {
	case path.Base(name) == ".keep":
		return false
	case below:
		return top != ".larder" && (top == "nar" && rest != "" || !isOurs(top))
	}
	return name != infoFile && !isOurs(name) && !strings.HasSuffix(name, narInfoEnding) && !strings.HasSuffix(name, ".ls")
}

func (n *NarInfo) notNarPlace() error {
	return fmt.Errorf("%w: %s is no place for a NAR", ErrDamaged, n.URL)
}

func (c *Cache) openNar(n *NarInfo) (*os.File, fs.FileInfo, error) {
	f, info, err := c.openRegular(n.URL)
	if bad := n.checkFile(info, err); bad != nil {
		if err == nil {
			f.Close()
		}
		if !errors.Is(bad, ErrDamaged) {
			bad = fmt.Errorf("%w: %w", ErrDamaged, bad)
		}
		return nil, nil, bad
	}
	return f, info, nil
}

// hasNar tells whether the NAR that another cache has as src is here. Without an error
// it is there, but cut short, if not. The error wraps [fs.ErrNotExist] if nothing is
// there.
func (c *Cache) hasNar(n *NarInfo, src *os.File, want fs.FileInfo) (same bool, err error) {
	have, err := c.root.Stat(n.URL)
	taken := errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) || leadsOut(err) || err == nil && !have.Mode().IsRegular()
	if errors.Is(err, fs.ErrNotExist) {
		link, err := c.root.Lstat(n.URL)
		taken = err == nil && link.Mode().Type() == fs.ModeSymlink // to nothing
	}
	if taken {
		return false, fmt.Errorf("%s: %w", n.URL, ErrNameTaken)
	}
	if err != nil {
		return false, err
	}
	if have.Size() == want.Size() && (isNamedByHash(n) || os.SameFile(have, want)) {
		return true, nil
	}
	if isNamedByHash(n) {
		return false, nil
	}
	// Nothing says that two files of one name have to be the same.
	f, _, err := c.openRegular(n.URL)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if same, err = sameContents(f, src); err == nil && !same {
		err = fmt.Errorf("%s: %w", n.URL, ErrNameTaken)
	}
	return same, err
}

func isNamedByHash(n *NarInfo) bool {
	hash, ok := n.fileHash()
	return ok && strings.HasPrefix(path.Base(n.URL), hash.Digits()+".")
}

// fileHash returns the hash of the NAR's file, and whether it is known. What nixpkgs'
// mkBinaryCache wrote until 2024 (NixOS/nixpkgs#367241) has that of the NAR in its place,
// which no reader minds: Nix does not look at it.
func (n *NarInfo) fileHash() (hash Hash, known bool) {
	if n.Compression == "none" {
		return n.NarHash, true
	}
	return n.FileHash, n.FileHash != Hash{} && n.FileHash != n.NarHash
}

func sameContents(a, b *os.File) (bool, error) {
	var bufA, bufB [32 << 10]byte
	for offset := int64(0); ; {
		countA, errA := a.ReadAt(bufA[:], offset)
		countB, errB := b.ReadAt(bufB[:], offset)
		switch {
		case errA != nil && errA != io.EOF:
			return false, errA
		case errB != nil && errB != io.EOF:
			return false, fmt.Errorf("%w: %w", ErrDamaged, errB)
		case !bytes.Equal(bufA[:countA], bufB[:countB]):
			return false, nil
		case errA == io.EOF:
			return true, nil
		}
		offset += int64(countA)
	}
}

// mayLink tells whether a file of another cache may become one of ours too, if it is a
// NAR, which nobody changes in place. Both names then have one inode, so mode, group
// and owner have to be right for us. Its owner can change it later, and so must be
// somebody who can do that to our files anyway. Readers who need the group's
// permission have it from ours.
func (c *Cache) mayLink(info fs.FileInfo) bool {
	file, ok := info.Sys().(*syscall.Stat_t)
	ours, ok2 := c.info.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || info.Mode() != c.fileMode {
		return false
	}
	if c.fileMode>>3&7 != c.fileMode&7 && file.Gid != ours.Gid {
		return false
	}
	return file.Dev == ours.Dev && (file.Uid == 0 || file.Uid == ours.Uid || int(file.Uid) == os.Geteuid())
}

// linkNar makes a NAR of another cache one of ours as well.
func (c *Cache) linkNar(n *NarInfo, src *os.File) error {
	// Whoever wrote it need not have made it durable.
	if err := src.Sync(); err != nil {
		return err
	}
	return c.inDir(path.Dir(n.URL), func(dir *os.File) error { return linkFile(src, dir, path.Base(n.URL)) })
}

// fill copies a NAR, and compares it with its hash, if the narinfo says it.
func (t *Temp) fill(ctx context.Context, n *NarInfo, src *os.File, size int64) error {
	h := sha256.New()
	from, to := io.NewSectionReader(src, 0, size), io.MultiWriter(h, added{t})
	if cloneFile(src, t.File) == nil {
		// It shares the blocks, but what is changed in one does not change the other.
		from, to = io.NewSectionReader(t, 0, size), h
	}
	copied, err := io.Copy(to, &source{ctx, from})
	if err != nil {
		return err
	}
	if copied != size {
		return fmt.Errorf("%w: size of %s is %d, was %d", ErrDamaged, n.URL, copied, size)
	}
	want, known := n.fileHash()
	if is := Hash(h.Sum(nil)); known && is != want {
		return fmt.Errorf("%w: hash of %s is %s, want %s", ErrDamaged, n.URL, is, want)
	}
	return nil
}

// maxTaken is the largest file that TakeFile takes. No build has such a log, and it takes
// no space where it was made, but it does where it is copied to.
const maxTaken = 4 << 30

// TakeFile publishes a copy of a file of another cache that is neither narinfo nor NAR,
// under the same name. All that is not durable then is that name. The error wraps
// [fs.ErrExist] if the name is taken, and [ErrDamaged] if the file can't be read, or is
// too large to be what it should be.
func (c *Cache) TakeFile(ctx context.Context, from *Cache, name string) error {
	if _, err := c.root.Lstat(name); err == nil {
		return &fs.PathError{Op: "publish", Path: name, Err: fs.ErrExist}
	}
	f, info, err := from.openRegular(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer f.Close()
	if info.Size() > maxTaken {
		return fmt.Errorf("%w: %w", ErrDamaged, tooLarge(maxTaken))
	}
	t, err := c.CreateTemp()
	if err != nil {
		return err
	}
	if _, err = io.Copy(added{t}, &source{ctx, io.LimitReader(f, maxTaken)}); err == nil {
		err = t.Sync()
	}
	if err == nil {
		err = c.makeDir(path.Dir(name))
	}
	if err == nil {
		err = t.Publish(name)
	}
	if err != nil {
		t.Discard()
	}
	return err
}

// A source reads a file of another cache, whose troubles are not those of this one.
type source struct {
	ctx  context.Context
	from io.Reader
}

func (s *source) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	count, err := s.from.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return count, err
}
