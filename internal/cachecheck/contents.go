package cachecheck

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
)

// says is what an entry says of its NAR's contents.
type says struct {
	compression       string
	fileHash, narHash bincache.Hash
	narSize           int64
}

// nar reads a NAR, and compares it with what the entries say that name it: mostly one.
func (k *check) nar(ctx context.Context, url string) error {
	defer k.did(1, 0)
	read := make(map[says]error)
	for _, hash := range k.nars[url] {
		n, _, err := k.Cache.Read(hash)
		switch {
		case errors.Is(err, fs.ErrNotExist) || n != nil && n.URL != url:
			continue // changed meanwhile
		case err != nil:
			return err
		}
		of := says{n.Compression, n.FileHash, n.NarHash, n.NarSize}
		err, done := read[of]
		if !done {
			if err = k.readNar(ctx, n); ctx.Err() != nil {
				return ctx.Err()
			}
			read[of] = err
		}
		if err != nil {
			k.found(Problem{Kind: Contents, File: url, Path: n.StorePath, Err: err, hash: hash, narHash: n.NarHash, url: url})
		}
	}
	return nil
}

// readNar reads the NAR of an entry once, and compares both its hashes.
func (k *check) readNar(ctx context.Context, n *bincache.NarInfo) error {
	file, size, err := k.Cache.OpenNar(n)
	if err != nil {
		return err
	}
	defer file.Close()
	fileHash, narHash := sha256.New(), sha256.New()
	source := io.TeeReader(&counted{ctx: ctx, from: file, check: k}, fileHash)
	from, err := compress.NewReader(n.Compression, source, n.NarSize)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(narHash, from)
	// What is wrong with the file says more than what is wrong with what comes out of it.
	if _, readErr := io.Copy(io.Discard, source); readErr != nil {
		return readErr
	}
	k.mu.Lock()
	k.report.Nars++
	k.report.Bytes += size
	k.mu.Unlock()
	if is := bincache.Hash(fileHash.Sum(nil)); n.FileHash != (bincache.Hash{}) && is != n.FileHash {
		return fmt.Errorf("hash of the file is %s, want %s", is, n.FileHash)
	}
	if err != nil {
		return err
	}
	if is := bincache.Hash(narHash.Sum(nil)); is != n.NarHash {
		return fmt.Errorf("hash of the NAR is %s, want %s", is, n.NarHash)
	}
	return nil
}

// counted reads a file, and tells how far it is.
type counted struct {
	ctx   context.Context
	from  io.Reader
	check *check
}

func (c *counted) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.from.Read(b)
	c.check.did(0, int64(n))
	return n, err
}
