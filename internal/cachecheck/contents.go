package cachecheck

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
)

// contents reads NARs.
func (k *check) contents(ctx context.Context) error {
	urls := make([]string, 0, len(k.nars))
	for url := range k.nars {
		urls = append(urls, url)
	}
	slices.Sort(urls)
	k.total(len(urls), k.bytes)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, url := range urls {
		g.Go(func() error { return k.nar(ctx, url) })
	}
	return g.Wait()
}

// A narRead is a NAR that was read.
type narRead struct {
	url  string
	file fs.FileInfo // which file it was
	// good says that it is right for somebody: another entry, or its own name.
	good    bool
	narHash bincache.Hash // of what is in it; zero if that could not be read to its end

	isListed   bool
	listed     nar.ListingSum // what a listing of it has to say, if an entry of it has one
	listingErr error          // why there can be none
}

// says is what an entry says of its NAR.
type says struct {
	compression       string
	fileHash, narHash bincache.Hash
	narSize           int64
}

func saysOf(n *bincache.NarInfo) says { return says{n.Compression, n.FileHash, n.NarHash, n.NarSize} }

// nar reads a NAR, and compares it with what the entries say that name it: mostly one.
func (k *check) nar(ctx context.Context, url string) error {
	defer k.did(1, 0)
	read := make(map[says]error)
	nar := &narRead{url: url}
	var wrong []Problem
	for _, hash := range k.nars[url] {
		n, _, err := k.Cache.Read(hash)
		if err == nil {
			of := saysOf(n)
			var done bool
			if err, done = read[of]; !done {
				err = k.readNar(ctx, n, nar)
				read[of] = err
			}
			if damaged(err) { // it was as it should be, so somebody may be changing it
				n, _, err = k.Cache.Read(hash)
			}
		}
		p := Problem{Kind: Contents, File: hash + ".narinfo", Err: err, hash: hash, entry: n, nar: nar}
		if n != nil {
			p.Path = n.StorePath
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
		case err == nil:
			nar.good = true
			k.compareListing(hash, n, nar)
		case errors.As(err, new(wrongContents)):
			p.Err = fmt.Errorf("%s: %w", url, err)
			wrong = append(wrong, p)
		case n != nil && damaged(err):
			p.Kind = Nar
			k.found(p)
		case !damaged(err):
			k.cantRead(url, p, err)
		}
	}
	for _, p := range wrong {
		k.found(p)
	}
	return nil
}

// wrongContents is what is wrong with a NAR that was read.
type wrongContents string

func (w wrongContents) Error() string { return string(w) }

// readNar reads the NAR of an entry once, and compares both its hashes. The error is
// wrongContents, or says that it could not be read.
func (k *check) readNar(ctx context.Context, n *bincache.NarInfo, nar *narRead) error {
	file, size, err := k.Cache.OpenNar(n)
	if err != nil {
		return err
	}
	defer file.Close()
	if nar.file, err = file.Stat(); err != nil {
		return err
	}
	fileHash, narHash := sha256.New(), sha256.New()
	source := io.TeeReader(&counted{ctx: ctx, from: file, check: k}, fileHash)
	from, err := compress.NewReader(n.Compression, source, n.NarSize)
	if err == nil {
		err = k.copyNar(narHash, from, nar)
		from.Close()
	}
	if err != nil && !errors.Is(err, compress.ErrCorrupt) && !errors.Is(err, compress.ErrUnsupported) {
		return err
	}
	// What is wrong with the file says more than what is wrong with what comes out of it.
	if _, readErr := io.Copy(io.Discard, source); readErr != nil {
		return readErr
	}
	k.mu.Lock()
	k.report.Nars++
	k.report.Bytes += size
	k.mu.Unlock()
	is := bincache.Hash(fileHash.Sum(nil))
	nar.good = nar.good || strings.Contains(nar.url, is.Digits())
	if err == nil {
		nar.narHash = bincache.Hash(narHash.Sum(nil))
	}
	switch {
	case n.FileHash != (bincache.Hash{}) && is != n.FileHash:
		return wrongContents(fmt.Sprintf("hash of the file is %s, want %s", is, n.FileHash))
	case errors.Is(err, compress.ErrUnsupported):
		return nil // the file is as it was, and few can tell more
	case err != nil:
		return wrongContents(err.Error())
	case nar.narHash != n.NarHash:
		return wrongContents(fmt.Sprintf("hash of the NAR is %s, want %s", nar.narHash, n.NarHash))
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
