package cachecheck

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
)

// ErrCannot says that a store path can't be copied, and that it is of no use to try again:
// the store has not got it any more, or damaged, or it must stay out of the cache.
var ErrCannot = errors.New("it can't be copied")

// A Store is what Nix still has.
type Store interface {
	// Find returns what Nix knows of the store path that has some first part, without a
	// NAR, or nil if there is none.
	Find(ctx context.Context, hash string) (*bincache.NarInfo, error)

	// Copy writes the closures of store paths to the cache. Entries with some hashes are
	// damaged although they look as they should, and are to be written anew. The error
	// wraps [ErrCannot] if it is of no use to try again.
	Copy(ctx context.Context, storePaths []string, anew map[string]bool) error
}

// An Action says what became of a problem.
type Action string

const (
	Rewritten Action = "rewritten" // from the local store, or from another entry
	Withdrawn Action = "withdrawn" // the entry is gone: clients build, or look elsewhere
	Removed   Action = "removed"   // the file is gone
	Settled   Action = "settled"   // somebody else has mended or removed it meanwhile
	Left      Action = "left"      // nothing was done
)

// A Repair is what became of a problem, or of an entry that needs another one.
type Repair struct {
	Problem
	Action Action
	Why    error // why it was not done better; nil if it was done as well as can be
}

// A Mender mends a cache.
type Mender struct {
	// Cache must not be nil.
	Cache *bincache.Cache

	// Store is where entries are written from. Nil means that there is none, and all that
	// is damaged is withdrawn.
	Store Store

	// Bases are caches that readers use as well.
	Bases []*bincache.Cache

	// Closed says that readers have nothing from anywhere else: an entry is of no use if
	// what it needs is neither here nor in a base. Otherwise it is left.
	Closed bool

	// Upstream tells of signatures whether what has one is on an upstream that readers
	// use. Nil means that nothing is.
	Upstream func(sigs []string) bool

	// Keys are those that readers trust.
	Keys []signature.PublicKey
}

// Mend mends what a check has found, as far as it can be. What it has done by the time of an
// error it returns as well.
func (m *Mender) Mend(ctx context.Context, problems []Problem) ([]Repair, error) {
	w := &mending{Mender: m, ctx: ctx, anew: make(map[string]bool), keep: make(map[string]bool), mended: make(map[bincache.Hash]*bincache.NarInfo), gone: make(map[string]bool)}
	for i := range problems {
		if err := w.look(&problems[i]); err != nil {
			return w.repairs, fmt.Errorf("repair %s: %w", problems[i].File, err)
		}
	}
	if err := w.copyAll(); err != nil {
		return w.repairs, err
	}
	w.useOtherNars()
	if err := w.withdrawAll(); err != nil {
		return w.repairs, fmt.Errorf("withdraw entries: %w", err)
	}
	return w.repairs, w.mendExtras()
}

// A mending is one call of Mend.
type mending struct {
	*Mender
	ctx     context.Context
	repairs []Repair
	todo    []*task
	anew    map[string]bool                     // hashes of entries that look as they should
	mended  map[bincache.Hash]*bincache.NarInfo // entries, by what is in them
	unfit   []*task                             // to be withdrawn
	keep    map[string]bool                     // URLs of NARs that are damaged, and left
	unknown string                              // a narinfo that can't be read: nobody knows what it needs
	extras  []*Problem                          // of what entries can do without
	gone    map[string]bool                     // realisations that were withdrawn
}

// A task is a problem that may be mended by copying something.
type task struct {
	*Problem
	copy []string // store paths
	sigs []string // of the entry's path in the store
	err  error    // why it is not mended
}

// cannot says why the store is of no help.
type cannot string

func (c cannot) Error() string        { return string(c) }
func (c cannot) Is(target error) bool { return target == ErrCannot }

const notInStore cannot = "it is not in the store"

func (m *mending) done(p *Problem, a Action, why error) {
	if a == Left && p.nar != nil {
		m.keep[p.nar.url] = true
	}
	m.repairs = append(m.repairs, Repair{*p, a, why})
}

// look decides what is to be done about a problem.
func (m *mending) look(p *Problem) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	switch p.Kind {
	case Unreadable:
		if p.entry == nil && p.hash != "" && !isExtra(p.File) {
			m.unknown = p.File
		}
		m.done(p, Left, errors.New("who repairs has to be able to read it"))
	case StoreDir:
		m.done(p, Left, errors.New("it may be good for others"))
	case Record:
		return m.removeRecord(p)
	case State:
		return m.removeState(p)
	case Listing, Realised, Log:
		m.extras = append(m.extras, p)
	case NarInfo, Nar, Contents, Reference, Signature, Pin:
		if p.hash == "" && p.Kind == Signature {
			m.done(p, Left, errors.New("larder sign signs realisations, and removes signatures"))
			return nil
		}
		m.plan(p)
	default:
		m.done(p, Left, nil)
	}
	return nil
}

// isExtra tells whether a file is one that entries can do without.
func isExtra(file string) bool {
	dir, _, _ := strings.Cut(file, "/")
	return strings.HasSuffix(file, ".ls") || dir == "log" || dir == "realisations" || dir == "build-trace-v2"
}

func (m *mending) removeRecord(p *Problem) error {
	name := path.Base(p.File)
	if m.Cache.CheckRun(name) == nil { // whole, or of a newer release
		m.done(p, Left, errors.New("a newer larder can read it"))
		return nil
	}
	if err := m.Cache.RemoveRuns(name); err != nil {
		return err
	}
	m.done(p, Removed, nil)
	return nil
}

func (m *mending) removeState(p *Problem) error {
	switch forgotten, err := m.Cache.ForgetState(m.ctx, p.File); {
	case m.ctx.Err() != nil:
		return m.ctx.Err()
	case err != nil:
		m.done(p, Left, err)
	case forgotten:
		m.done(p, Removed, nil)
	default:
		m.done(p, Left, errors.New("it is settings, or a newer larder can read it"))
	}
	return nil
}

// plan finds out what would mend a problem if it were copied.
func (m *mending) plan(p *Problem) {
	t := &task{Problem: p}
	switch {
	case p.Kind == Pin && p.Path == "":
		m.done(p, Left, errors.New("only you know what it should keep"))
		return
	case m.Store == nil:
		t.err = cannot("there is no store")
	case p.Kind == Pin:
		t.err = m.planCopy(t, p.Path)
	default:
		t.err = m.planEntry(t)
	}
	if t.err != nil {
		m.giveUp(t)
		return
	}
	m.todo = append(m.todo, t)
}

// planCopy plans to copy a store path that is not in the cache.
func (m *mending) planCopy(t *task, storePath string) error {
	n, err := m.Store.Find(m.ctx, bincache.HashPart(storePath))
	switch {
	case err != nil:
		return fmt.Errorf("look for it in the store: %w", err)
	case n == nil || n.StorePath != storePath:
		return cannot(storePath + " is not in the store")
	}
	t.copy = append(t.copy, storePath)
	return nil
}

// planEntry plans to write an entry anew, or what it refers to.
func (m *mending) planEntry(t *task) error {
	n, err := m.Store.Find(m.ctx, t.hash)
	if err != nil {
		return fmt.Errorf("look for it in the store: %w", err)
	}
	same := n != nil && t.sameBuild(n)
	if t.Kind == Reference && !(same && !t.says(n)) { // or it refers to what it should not
		for _, ref := range t.missing {
			if err := m.planCopy(t, ref); err != nil {
				return err
			}
		}
		return nil
	}
	switch {
	case n == nil:
		return notInStore
	case !same:
		return cannot("what the store has was built differently")
	}
	t.sigs = n.Sigs
	if t.Kind == Contents || t.Kind == Reference || t.Kind == Signature && !t.says(n) {
		m.anew[t.hash] = true
	}
	t.copy = append(t.copy, n.StorePath)
	return nil
}

// sameBuild tells whether the store has what an entry was made of: as far as the entry
// can't be read, nothing says that it has not.
func (t *task) sameBuild(n *bincache.NarInfo) bool {
	switch {
	case t.entry == nil, t.entry.NarHash == n.NarHash:
		return true
	case t.nar != nil && t.nar.narHash == n.NarHash: // it is the narinfo that is wrong
		return true
	}
	return n.SignatureState(nil) == bincache.ContentAddressed // there can be no other contents
}

// says tells whether an entry says of itself what Nix knows of the path in the store.
func (t *task) says(n *bincache.NarInfo) bool {
	known := *n
	if known.NarSize == 0 { // it does not know that
		known.NarSize = t.entry.NarSize
	}
	return t.entry.SameContents(&known)
}

// giveUp has what the store is of no help for withdrawn, or left.
func (m *mending) giveUp(t *task) {
	switch {
	case !errors.Is(t.err, ErrCannot), t.Kind == Signature, t.Kind == Pin:
		m.done(t.Problem, Left, t.err)
	case t.Kind == Reference && !m.Closed:
		m.done(t.Problem, Left, fmt.Errorf("%w, but may be where nobody has looked", t.err))
	default:
		m.unfit = append(m.unfit, t)
	}
}
