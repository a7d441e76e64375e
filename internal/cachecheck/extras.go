package cachecheck

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
)

// extras looks at what entries can do without: listings, realisations, and logs.
func (k *check) extras(ctx context.Context) error {
	listings, realisations, logs, err := k.Cache.Extras()
	if err != nil {
		return err
	}
	if err := bincache.EachOf(listings, func(file string) error { return k.listing(ctx, file) }); err != nil {
		return err
	}
	if err := k.realisations(ctx, realisations); err != nil {
		return err
	}
	return bincache.EachOf(logs, func(file string) error { return k.log(ctx, file) })
}

func (k *check) note(p Problem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.report.Notes = append(k.report.Notes, p)
}

// extraFound notes what is wrong with something that an entry can do without. It may be gone
// by now, or not ours to read.
func (k *check) extraFound(p Problem, err error) {
	switch p.Err = err; {
	case errors.Is(err, fs.ErrNotExist):
	case !damaged(err) && !errors.Is(err, nar.ErrFormat) && !errors.Is(err, compress.ErrCorrupt):
		p.Kind, p.hash = Unreadable, "" // its entry may be good
		k.found(p)
	default:
		k.found(p)
	}
}

// listing looks whether a listing can be read, and what it says.
func (k *check) listing(ctx context.Context, file string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	hash := strings.TrimSuffix(file, ".ls")
	k.mu.Lock()
	bad := k.damaged[hash]
	k.mu.Unlock()
	if bad {
		return nil // it goes with its entry, or stays with it
	}
	p := Problem{Kind: Listing, File: file, hash: hash}
	if !k.Cache.Has(hash + ".narinfo") {
		p.Err = errors.New("it belongs to no entry")
		k.note(p)
		return nil
	}
	sum, err := k.readListing(ctx, file)
	if err == nil {
		k.mu.Lock()
		k.listed[hash] = sum
		k.mu.Unlock()
		return nil
	}
	if n, _, readErr := k.Cache.Read(hash); readErr == nil {
		p.entry, p.Path = n, n.StorePath
	}
	k.extraFound(p, err)
	return ctx.Err()
}

func (c *Checker) readListing(ctx context.Context, file string) (nar.ListingSum, error) {
	f, err := c.Cache.OpenExtra(file)
	if err != nil {
		return nar.ListingSum{}, err
	}
	defer f.Close()
	return nar.ReadListing(&untilDone{ctx, f})
}

// untilDone reads a file until ctx ends.
type untilDone struct {
	ctx  context.Context
	from io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.from.Read(b)
}

// copyNar reads what is in a NAR, and what a listing of it has to say, if there is one.
func (k *check) copyNar(to io.Writer, from io.Reader, read *narRead) error {
	if !slices.ContainsFunc(k.nars[read.url], func(hash string) bool { _, ok := k.listed[hash]; return ok }) {
		_, err := io.Copy(to, from)
		return err
	}
	out, in := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		read.listed, read.listingErr = nar.SumOf(out)
		read.isListed = true
		_, _ = io.Copy(io.Discard, out) // (ignored) whatever it is, it has a hash
	}()
	_, err := io.Copy(io.MultiWriter(to, in), from)
	in.CloseWithError(err)
	<-done
	return err
}

// compareListing compares the listing of an entry with its NAR, which was read.
func (k *check) compareListing(hash string, n *bincache.NarInfo, read *narRead) {
	said, ok := k.listed[hash]
	p := Problem{Kind: Listing, File: hash + ".ls", Path: n.StorePath, hash: hash, entry: n}
	switch {
	case !ok || !read.isListed:
	case errors.Is(read.listingErr, nar.ErrNotText):
		p.Err = fmt.Errorf("there can be none: %w", read.listingErr)
		k.found(p)
	case read.listingErr != nil: // it is no NAR that we could tell anything of
	case read.listed != said:
		p.Err = errors.New("it says something else than the NAR")
		k.found(p)
	}
}

// realisations looks whether realisations keep what they promise. One that a collection has
// retired with its path does no harm until it goes, and nobody wants the path back.
func (k *check) realisations(ctx context.Context, files []string) error {
	var all []*bincache.Realisation
	var paths []string
	outPaths := make(map[string]string) // by ID
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := k.Cache.Realisation(file)
		if err != nil {
			k.extraFound(Problem{Kind: Realised, File: file, useless: true}, err)
			continue
		}
		all, paths, outPaths[r.ID()] = append(all, r), append(paths, k.path(r)), r.OutPath
	}
	slices.Sort(paths)
	missing, err := k.missing(ctx, slices.Compact(paths))
	if err != nil {
		return err
	}
	if k.Upstream {
		k.report.Left += len(missing)
		missing = nil
	}
	goes, _ := k.Cache.Retired() // (ignored) a list that can't be read is told of with the rest of the cache's state
	for _, r := range all {
		p := Problem{Kind: Realised, File: r.File(), Path: k.path(r)}
		_, lacks := slices.BinarySearch(missing, p.Path)
		p.Err = broken(r, outPaths)
		if _, isRetired := goes[p.File]; isRetired && (lacks || p.Err != nil) {
			p.Err = errors.New("its path was removed, and it goes when the grace for that is over")
			k.note(p)
			continue
		}
		if p.Err != nil {
			p.useless = true
			if k.isStillBroken(r.File()) {
				k.found(p)
			}
			continue
		}
		if lacks {
			p.Err, p.missing = errors.New("the cache has not what it promises"), []string{p.Path}
			k.found(p)
			continue
		}
		if len(k.Keys) == 0 {
			continue
		}
		// Who trusts the entries of content-addressed outputs need not trust these, and no
		// Nix up to 2.35 looks: that one has no signature is no fault.
		switch p.Kind = Signature; r.SignatureState(k.Keys) {
		case bincache.Invalid:
			p.Err = errors.New("its signature is invalid: none by a key that is trusted")
			k.found(p)
		case bincache.Unsigned:
			p.Err = errors.New("it is not signed by a key that is trusted, which a later Nix may ask for")
			k.note(p)
		}
	}
	return nil
}

func (k *check) path(r *bincache.Realisation) string { return k.Cache.StoreDir() + "/" + r.OutPath }

// broken says what is wrong with what a realisation depends on, given what others are.
func broken(r *bincache.Realisation, outPaths map[string]string) error {
	for id, outPath := range r.Dependent {
		if is := outPaths[id]; is != outPath && id != r.ID() {
			if is == "" {
				return fmt.Errorf("it depends on %s, which the cache has not", id)
			}
			return fmt.Errorf("it depends on %s as %s, which is %s", id, outPath, is)
		}
	}
	return nil
}

// isStillBroken looks once more at what a realisation depends on: others add, and replace.
func (c *Checker) isStillBroken(file string) bool {
	r, err := c.Cache.Realisation(file)
	if err != nil {
		return damaged(err)
	}
	outPaths := make(map[string]string)
	for id := range r.Dependent {
		if on, err := c.Cache.Realisation("realisations/" + id + ".doi"); err == nil {
			outPaths[id] = on.OutPath
		}
	}
	return broken(r, outPaths) != nil
}

// maxLog is the largest log that is unpacked.
const maxLog = 4 << 30

// log looks whether a log can be read, and, with contents, unpacked: most are not compressed.
func (k *check) log(ctx context.Context, file string) error {
	if err := k.readLog(ctx, file); err != nil {
		k.extraFound(Problem{Kind: Log, File: file}, err)
	}
	return ctx.Err()
}

func (c *Checker) readLog(ctx context.Context, file string) error {
	f, err := c.Cache.OpenExtra(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if !c.Contents {
		return nil
	}
	r := bufio.NewReader(&untilDone{ctx, f})
	beginning, err := r.Peek(compress.BeginningSize)
	if err != nil && err != io.EOF {
		return err
	}
	return compress.Whole(compress.MethodOf(beginning), r, maxLog)
}
