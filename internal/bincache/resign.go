package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// A Resigning says which signatures entries are to have. All others stay.
type Resigning struct {
	// Keys sign every entry. What they vouch for is what the cache says of it: nobody
	// has compared that with a store.
	Keys []signature.SecretKey

	// Drop are names of keys whose signatures go, but for those that Keys make.
	Drop []string

	// Trusted, unless it is empty, has Keys sign only what one of these has signed.
	// That a path is content-addressed is not enough: a signature would vouch for the
	// contents that the entry claims, and who can write to the cache could then leave
	// the address out, which is all that those were compared with.
	Trusted []signature.PublicKey

	// Paths are those whose closures are meant, as far as the cache has them. None
	// means all entries.
	Paths []string

	// DryRun changes nothing, and counts what would be changed.
	DryRun bool

	// Progress, if it is not nil, is told now and then how many of the entries have been
	// come to. Tell is told of entries that can't be used, with an error that names them.
	Progress func(done, total int)
	Tell     func(error)
}

// Resigned counts what Resign did.
type Resigned struct {
	Entries   int `json:"entries"`   // that it came to
	Changed   int `json:"changed"`   // of those
	Added     int `json:"added"`     // signatures
	Dropped   int `json:"dropped"`   // signatures
	Untrusted int `json:"untrusted"` // entries not signed, since nobody who is trusted has
	Unsigned  int `json:"unsigned"`  // entries that have no signature in the end, and need one
	Damaged   int `json:"damaged"`   // entries that clients can't use: nothing is added to them
}

// resignBatch is how many entries are changed together: enough that syncs are shared,
// and few enough that nobody waits long for the lock. Tests have fewer.
var resignBatch = 512

// Resign gives entries signatures and takes some away, both at once. It takes the cache's
// lock, but only to put in place what is durable: the cache is whole at any moment, and
// what was done stays done if it is called again after an error. The error wraps
// [fs.ErrNotExist] if one of Paths has no entry.
func (c *Cache) Resign(ctx context.Context, o Resigning) (Resigned, error) {
	var total Resigned
	hashes, err := c.hashesOf(ctx, o.Paths)
	if err != nil {
		return total, err
	}
	done := 0
	for batch := range slices.Chunk(hashes, resignBatch) {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		err := c.resign(ctx, &o, batch, &total)
		if err != nil {
			return total, fmt.Errorf("sign entries: %w", err)
		}
		done += len(batch)
		if o.Progress != nil {
			o.Progress(done, len(hashes))
		}
	}
	return total, nil
}

// A resigning is an entry that Resign comes to.
type resigning struct {
	rewrite
	gone bool
	err  error // why clients can't use it
	Resigned
}

func (c *Cache) resign(ctx context.Context, o *Resigning, hashes []string, total *Resigned) error {
	all, rewrites := make([]*resigning, len(hashes)), make([]*rewrite, len(hashes))
	for i, hash := range hashes {
		r := &resigning{}
		r.hash, r.change = hash, func() (before, after []byte, err error) { return c.look(o, r) }
		all[i], rewrites[i] = r, &r.rewrite
	}
	var err error
	if o.DryRun {
		err = EachOf(all, func(r *resigning) error {
			_, after, err := r.change()
			r.done = after != nil
			return err
		})
	} else {
		err = c.rewriteAll(ctx, rewrites)
	}
	for _, r := range all {
		if r.done {
			total.Changed++
			total.Added += r.Added
			total.Dropped += r.Dropped
		}
		if r.gone || err != nil { // of the rest nobody knows what it will have in the end
			continue
		}
		total.Entries++
		total.Untrusted += r.Untrusted
		total.Unsigned += r.Unsigned
		if r.err != nil {
			total.Damaged++
			if o.Tell != nil {
				o.Tell(fmt.Errorf("read %s%s: %w", r.hash, narInfoEnding, r.err))
			}
		}
	}
	return err
}

// look finds out what the narinfo of an entry should be, and counts that.
func (c *Cache) look(o *Resigning, r *resigning) (before, after []byte, err error) {
	r.Resigned, r.gone, r.err = Resigned{}, false, nil
	n, text, err := c.Read(r.hash)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.gone = true
		return nil, nil, nil
	case errors.Is(err, ErrDamaged):
		r.err = err
	case err != nil:
		return nil, nil, err
	}
	if n == nil {
		return nil, nil, nil
	}
	ours, err := n.Sign(o.Keys)
	if err != nil {
		return nil, nil, err
	}
	have := sortedSet(n.Sigs)
	keep := slices.DeleteFunc(slices.Clone(have), func(sig string) bool {
		name, _, _ := strings.Cut(sig, ":")
		return slices.Contains(o.Drop, name) && !slices.Contains(ours, sig)
	})
	all := keep
	switch {
	case r.err != nil: // whose NAR is not there: a signature that is to go goes all the same
	case len(o.Trusted) > 0 && n.signatureState(o.Trusted) != Valid:
		if lacks(n, ours) {
			r.Untrusted = 1
		}
	default:
		all = sortedSet(slices.Concat(keep, ours))
	}
	if len(all) == 0 && !n.contentAddressed() {
		r.Unsigned = 1
	}
	if slices.Equal(all, have) {
		return nil, nil, nil
	}
	r.Added, r.Dropped = len(all)-len(keep), len(have)-len(keep)
	return text, setSignatures(n, text, all), nil
}

// hashesOf returns the first parts of the store paths that the closures of some paths
// have in the cache, or all of them if there are no paths.
func (c *Cache) hashesOf(ctx context.Context, paths []string) ([]string, error) {
	if len(paths) == 0 {
		return c.Hashes()
	}
	var hashes []string
	found := make(map[string]bool)
	find := func(storePath string) {
		if hash := HashPart(storePath); !found[hash] {
			found[hash] = true
			hashes = append(hashes, hash)
		}
	}
	for _, p := range paths {
		if n, _, err := c.Read(HashPart(p)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not in the cache: %w", p, err)
		} else if n != nil && n.StorePath != p {
			return nil, fmt.Errorf("%s is not in the cache: %w: its entry is for %s", p, fs.ErrNotExist, n.StorePath)
		}
		find(p)
	}
	for begin := 0; begin < len(hashes); {
		batch := hashes[begin:min(begin+resignBatch, len(hashes))]
		begin += len(batch)
		for n, err := range inParallel(ctx, slices.Clone(batch), func(hash string) (*NarInfo, int, error) {
			n, text, err := c.readNarInfo(hash + narInfoEnding)
			return n, len(text), err
		}) {
			switch {
			case errors.Is(err, ErrDamaged): // who signs it tells
			case err != nil:
				return nil, fmt.Errorf("read closure in cache: %w", err)
			default:
				for _, ref := range n.References { // an upstream or a base may have some
					find(ref)
				}
			}
		}
	}
	return hashes, nil
}
