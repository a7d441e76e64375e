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

	// Paths are those whose closures are meant, as far as the cache has them, and the
	// realisations that these are. None means all.
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

	// The same of realisations; the signatures above are those of both. That one has none
	// is not counted: not every Nix asks for any.
	Realisations        int `json:"realisations"`
	RealisationsChanged int `json:"realisations_changed"`
}

// resignBatch is how many entries are changed together: enough that syncs are shared,
// and few enough that nobody waits long for the lock. Tests have fewer.
var resignBatch = 512

// Resign gives entries, and realisations, signatures and takes some away, both at once. It
// takes the cache's lock, but only to put in place what is durable: the cache is whole at
// any moment, and what was done stays done if it is called again after an error. The error
// wraps [fs.ErrNotExist] if one of Paths has no entry.
func (c *Cache) Resign(ctx context.Context, o Resigning) (Resigned, error) {
	var total Resigned
	hashes, err := c.hashesOf(ctx, o.Paths)
	if err != nil {
		return total, err
	}
	realisations, err := c.realisationFiles()
	if err != nil {
		return total, err
	}
	var meant map[string]bool // by the first parts of store paths; nil for all
	if len(o.Paths) > 0 {
		meant = make(map[string]bool, len(hashes))
		for _, hash := range hashes {
			meant[hash] = true
		}
	}
	done, names := 0, append(hashes, realisations...)
	for some := range slices.Chunk(names, resignBatch) {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		batch := make([]*resigning, len(some))
		for i, name := range some {
			batch[i] = c.newResigning(&o, name, meant)
		}
		if err := c.resign(ctx, &o, batch, &total); err != nil {
			return total, fmt.Errorf("sign entries: %w", err)
		}
		done += len(some)
		if o.Progress != nil {
			o.Progress(done, len(names))
		}
	}
	return total, nil
}

// A resigning is an entry, or a realisation, that Resign comes to.
type resigning struct {
	rewrite
	isEntry bool
	gone    bool  // or not meant
	err     error // why clients can't use it
	Resigned
}

// newResigning returns one for the first part of a store path, or the file of a
// realisation.
func (c *Cache) newResigning(o *Resigning, name string, meant map[string]bool) *resigning {
	r := &resigning{isEntry: !strings.Contains(name, "/")}
	look := func() ([]byte, []byte, error) { return c.lookRealised(o, r, meant) }
	r.file = name
	if r.isEntry {
		look = func() ([]byte, []byte, error) { return c.look(o, r, name) }
		r.file += narInfoEnding
	}
	r.change = func() (before, after []byte, err error) {
		r.Resigned, r.gone, r.err = Resigned{}, false, nil
		before, after, err = look()
		if errors.Is(err, fs.ErrNotExist) {
			r.gone, err = true, nil
		}
		return before, after, err
	}
	return r
}

func (c *Cache) resign(ctx context.Context, o *Resigning, batch []*resigning, total *Resigned) error {
	var err error
	if o.DryRun {
		err = EachOf(batch, func(r *resigning) error {
			_, after, err := r.change()
			r.done = after != nil
			return err
		})
	} else {
		rewrites := make([]*rewrite, len(batch))
		for i, r := range batch {
			rewrites[i] = &r.rewrite
		}
		err = c.rewriteAll(ctx, rewrites)
	}
	for _, r := range batch {
		came, changed := &total.Entries, &total.Changed
		if !r.isEntry {
			came, changed = &total.Realisations, &total.RealisationsChanged
		}
		if r.done {
			*changed++
			total.Added += r.Added
			total.Dropped += r.Dropped
		}
		if r.gone || err != nil { // of the rest nobody knows what it will have in the end
			continue
		}
		*came++
		total.Untrusted += r.Untrusted
		total.Unsigned += r.Unsigned
		if r.err != nil {
			total.Damaged++
			if o.Tell != nil {
				o.Tell(fmt.Errorf("read %s: %w", r.file, r.err))
			}
		}
	}
	return err
}

// look finds out what the narinfo of an entry should be, and counts that.
func (c *Cache) look(o *Resigning, r *resigning, hash string) (before, after []byte, err error) {
	n, text, err := c.Read(hash)
	switch {
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
	add := ours
	switch {
	case r.err != nil: // whose NAR is not there: a signature that is to go goes all the same
		add = nil
	case len(o.Trusted) > 0 && signatureState(n.Fingerprint(), n.Sigs, o.Trusted) != Valid:
		if lacks(n, ours) {
			r.Untrusted = 1
		}
		add = nil
	}
	all := o.signatures(r, n.Sigs, ours, add)
	if len(all) == 0 && !n.contentAddressed() {
		r.Unsigned = 1
	}
	if r.Added+r.Dropped == 0 {
		return nil, nil, nil
	}
	return text, setSignatures(n, text, all), nil
}

// lookRealised finds out what a realisation should be, and counts that.
func (c *Cache) lookRealised(o *Resigning, r *resigning, meant map[string]bool) (before, after []byte, err error) {
	n, text, err := c.readRealisation(r.file)
	if errors.Is(err, ErrDamaged) {
		r.gone, r.err = meant != nil, err // nobody knows which path it is
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if meant != nil && !meant[HashPart(n.OutPath)] {
		r.gone = true
		return nil, nil, nil
	}
	ours, err := n.sign(o.Keys)
	if err != nil {
		return nil, nil, err
	}
	add := ours
	if len(o.Trusted) > 0 {
		// Each is a promise of its own, and who is trusted may have made only one.
		trusted := slices.DeleteFunc(n.fingerprints(), func(fingerprint string) bool {
			return signatureState(fingerprint, n.Sigs, o.Trusted) != Valid
		})
		if add, err = n.signAs(trusted, o.Keys); err != nil {
			return nil, nil, err
		}
		if len(trusted) == 0 && lacksSigs(n.Sigs, ours) {
			r.Untrusted = 1
		}
	}
	n.Sigs = o.signatures(r, n.Sigs, ours, add)
	if r.Added+r.Dropped == 0 {
		return nil, nil, nil
	}
	return text, n.Format(), nil
}

// signatures returns those that something should have, which has some, where ours would be
// those by Keys, and some of these may be added. It counts what that changes.
func (o *Resigning) signatures(r *resigning, sigs, ours, add []string) []string {
	have := sortedSet(sigs)
	keep := slices.DeleteFunc(slices.Clone(have), func(sig string) bool {
		name, _, _ := strings.Cut(sig, ":")
		return slices.Contains(o.Drop, name) && !slices.Contains(ours, sig)
	})
	all := sortedSet(slices.Concat(keep, add))
	r.Added, r.Dropped = len(all)-len(keep), len(have)-len(keep)
	return all
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
