package closurefile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nar"
)

// A Target says how to import.
type Target struct {
	// Cache is where entries go. It must not be nil.
	Cache *bincache.Cache

	// Method is how NARs are compressed. It must not be the zero value.
	Method compress.Method

	// Workers is how many paths, or parts of a large one, are compressed at a time. Zero
	// means one per core.
	Workers int

	// Keys sign all that is imported, also where it is in the cache already.
	Keys []signature.SecretKey

	// AllowMissing takes paths that refer to what is neither in the stream before them
	// nor in the cache: whoever reads the cache has that from somewhere else.
	AllowMissing bool

	// Published, if it is not nil, is told of every entry that was written, and Found of
	// every path of the stream that the cache had.
	Published func(n *bincache.NarInfo)
	Found     func(storePath string)

	// Removed, if it is not nil, is told of store paths that were removed from the cache
	// while something was imported, which may need them. It has to make the cache whole.
	Removed func(ctx context.Context, storePaths []string) error

	// Log gets what a person should know. Nil means nobody wants to.
	Log *slog.Logger
}

// An Imported says what was imported.
type Imported struct {
	Paths      int   `json:"paths"`             // in the stream
	Added      int   `json:"added"`             // of those: the cache had them not
	Signatures int   `json:"signatures"`        // that were added to those that were there
	Relying    int   `json:"relying_on_others"` // of the added: refer to what the cache has not
	NarBytes   int64 `json:"nar_bytes"`         // of the added: sizes of their NARs
	FileBytes  int64 `json:"file_bytes"`        // of the added: sizes in the cache
}

const (
	// publishAtOnce is enough to share syncs, and with its files fewer than may be open.
	publishAtOnce = 256

	// maxPath is longer than any store path.
	maxPath = 4096

	// maxReferences bounds a narinfo by what is read of one.
	maxReferences = 60000
)

// ErrStream says that a stream is not what nix-store --export writes.
var ErrStream = errors.New("not an export of nix-store --export")

// An Importer brings the paths of one stream into a cache.
type Importer struct {
	Target
	in     *nar.Reader
	atOnce int // how many paths are published together

	packers chan compress.Writer // that nobody uses
	packing errgroup.Group       // what is read, and not packed yet

	have   map[string]bool // base names of paths that are in the cache, or in the batch
	batch  []*arrival
	resign []*bincache.NarInfo // that were there, with our signatures
	result Imported

	paths, narBytes atomic.Int64
}

// An arrival is a path that is not published yet.
type arrival struct {
	narInfo  *bincache.NarInfo
	missing  bool // it refers to what is not there
	nar      *bincache.HashedTemp
	infoFile *bincache.Temp
}

func (a *arrival) discard() {
	a.nar.Temp.Discard()
	if a.infoFile != nil {
		a.infoFile.Discard()
	}
}

// NewImporter returns an Importer of what in reads.
func NewImporter(t Target, in *nar.Reader) *Importer {
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	if t.Workers == 0 {
		t.Workers = runtime.NumCPU()
	}
	return &Importer{Target: t, in: in, atOnce: publishAtOnce, have: make(map[string]bool)}
}

// Progress returns how far Run is.
func (m *Importer) Progress() Progress {
	return Progress{Done: int(m.paths.Load()), Bytes: m.narBytes.Load()}
}

// Run imports the paths of a stream, up to its end.
//
// Of a path that can't be imported there is nothing in the cache, and the error says why:
// it wraps [ErrStream] if the stream is not what it should be, and [ErrMissing] if the
// path refers to what is not there. What came before it is imported, and counted. It is
// an error as well if what was imported, or found, is removed meanwhile: a stream can't be
// read once more.
func (m *Importer) Run(ctx context.Context) (Imported, error) {
	before, _, err := m.Cache.Removals()
	if err != nil {
		return m.result, err
	}
	team := compress.NewTeam(m.Method, m.Workers)
	m.packers = make(chan compress.Writer, m.Workers)
	m.packers <- m.Method.WriterWith(team.NewFrames())
	var helping sync.WaitGroup
	for range m.Workers - 1 {
		m.packers <- m.Method.WriterWith(team.NewFrames())
		helping.Go(func() { team.Help(team.NewFrames()) })
	}
	defer helping.Wait()
	defer team.End()
	defer func() {
		_ = m.packing.Wait() // (ignored) nobody wants what is left
		for _, a := range m.batch {
			a.discard()
		}
	}()
	err = m.readAll(ctx)
	if ctx.Err() == nil { // or somebody wants it to stop
		if err2 := m.publish(ctx); err == nil {
			err = err2
		}
	}
	if err == nil {
		err = m.lookAgain(ctx, before)
	}
	return m.result, err
}

func (m *Importer) readAll(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := m.in.Offset()
		next, err := m.in.Uint64()
		switch {
		case err != nil:
			return streamError(err)
		case next == streamEnd:
			return nil
		case next != streamPath:
			return fmt.Errorf("%w: %d at byte %d is neither a path nor the end", ErrStream, next, at)
		}
		if err := m.readPath(ctx); err != nil {
			return err
		}
		if len(m.batch) == m.atOnce {
			if err := m.publish(ctx); err != nil {
				return err
			}
		}
	}
}

// streamError tells what is wrong with the stream from what is wrong with the cache.
func streamError(err error) error {
	if errors.Is(err, nar.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrStream, err)
	}
	return err
}

// readPath reads a path of the stream into an unfinished file.
func (m *Importer) readPath(ctx context.Context) error {
	file, err := m.Cache.CreateTemp()
	if err != nil {
		return err
	}
	a := &arrival{nar: bincache.NewHashedTemp(file, m.Method.Name)}
	packer := <-m.packers
	packer.Reset(a.nar)
	isNew, err := m.readArrival(ctx, a, packer)
	if err != nil || !isNew {
		packer.Reset(nil) // nobody need go on with it
		m.packers <- packer
		a.discard()
		return err
	}
	m.batch = append(m.batch, a)
	// Meanwhile the next one is read.
	m.packing.Go(func() error {
		err := packer.Flush()
		packer.Reset(nil)
		m.packers <- packer
		a.nar.Describe(a.narInfo, m.Method.Name)
		file.StartSync()
		return err
	})
	return nil
}

// readArrival reads a path, and tells whether the cache is to have it.
func (m *Importer) readArrival(ctx context.Context, a *arrival, packer io.Writer) (isNew bool, err error) {
	in := &hashedNar{ctx: ctx, hash: sha256.New(), to: packer, read: &m.narBytes}
	flat := sha256.New()
	m.in.Flat = flat
	size, isFlat, err := m.in.Copy(in)
	if err != nil {
		return false, streamError(err)
	}
	n, err := m.readInfo()
	if err != nil {
		return false, streamError(err)
	}
	a.narInfo = n
	n.NarHash, n.NarSize = bincache.Hash(in.hash.Sum(nil)), size
	var flatHash *bincache.Hash
	if isFlat {
		h := bincache.Hash(flat.Sum(nil))
		flatHash = &h
	}
	n.FindCA(flatHash)
	if n.Sigs, err = n.Sign(m.Keys); err == nil {
		slices.Sort(n.Sigs)
		checked := *n // as if it were not compressed, since it is not yet
		checked.URL, checked.Compression, checked.FileHash, checked.FileSize = bincache.NarName(n.NarHash, "none"), "none", n.NarHash, size
		err = checked.Check()
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", n.StorePath, err)
	}
	return m.arrive(a)
}

// readInfo reads what follows the NAR of a path.
func (m *Importer) readInfo() (*bincache.NarInfo, error) {
	magic, err := m.in.Uint64()
	if err != nil {
		return nil, err
	}
	if magic != pathMagic {
		return nil, fmt.Errorf("%w: %#x is behind a nar, want %#x", ErrStream, magic, pathMagic)
	}
	storePath, err := m.readPathName()
	if err != nil {
		return nil, err
	}
	n := &bincache.NarInfo{StorePath: storePath}
	count, err := m.in.Uint64()
	if err != nil {
		return nil, err
	}
	if count > maxReferences {
		return nil, fmt.Errorf("%w: %s has %d references, want at most %d", ErrStream, storePath, count, maxReferences)
	}
	for range count {
		ref, err := m.readPathName()
		if err != nil {
			return nil, fmt.Errorf("reference of %s: %w", storePath, err)
		}
		n.References = append(n.References, path.Base(ref))
	}
	slices.Sort(n.References)
	n.References = slices.Compact(n.References)
	deriver, err := m.in.String(maxPath)
	if err == nil && deriver != "" {
		if err = m.Cache.CheckPath(deriver); err != nil {
			err = fmt.Errorf("%w: deriver of %s: %w", ErrStream, storePath, err)
		}
		n.Deriver = path.Base(deriver)
	}
	if err != nil {
		return nil, err
	}
	// Nix does not look at it either, and nobody has written it since 2008.
	switch more, err := m.in.Uint64(); {
	case err != nil:
		return nil, err
	case more == oldSig:
		_, err := m.in.String(nar.MaxString)
		return n, err
	case more != noMore:
		return nil, fmt.Errorf("%w: %d is behind %s", ErrStream, more, storePath)
	}
	return n, nil
}

// readPathName reads a store path of the cache's store.
func (m *Importer) readPathName() (string, error) {
	name, err := m.in.String(maxPath)
	if err != nil {
		return "", err
	}
	if err := m.Cache.CheckPath(name); err != nil {
		return "", fmt.Errorf("%w: %w", ErrStream, err)
	}
	return name, nil
}

// arrive tells whether a path is neither in the cache nor in the batch, and may be there.
func (m *Importer) arrive(a *arrival) (isNew bool, err error) {
	n := a.narInfo
	m.result.Paths++
	m.paths.Add(1)
	i := slices.IndexFunc(m.batch, func(b *arrival) bool { return b.narInfo.StorePath == n.StorePath })
	if i >= 0 {
		m.compare(m.batch[i].narInfo, n)
		return false, nil
	}
	have, err := m.Cache.Entry(n.StorePath)
	switch {
	case err == nil:
		m.have[path.Base(n.StorePath)] = true
		if m.Found != nil {
			m.Found(n.StorePath)
		}
		if m.compare(have, n) && len(n.Sigs) > 0 {
			m.resign = append(m.resign, n)
		}
		return false, nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bincache.ErrDamaged):
		return false, err
	}
	for _, ref := range n.References {
		ok, err := m.present(ref)
		if err != nil {
			return false, err
		}
		if ok || ref == path.Base(n.StorePath) {
			continue
		}
		if !m.AllowMissing {
			return false, fmt.Errorf("%s: %s, to which it refers, is %w, nor before it in the stream", n.StorePath, ref, ErrMissing)
		}
		a.missing = true
	}
	m.have[path.Base(n.StorePath)] = true
	return true, nil
}

// compare tells whether an entry has what is imported. If not, it stays.
func (m *Importer) compare(have, n *bincache.NarInfo) bool {
	if have.NarHash == n.NarHash {
		return true
	}
	m.Log.Warn("kept another build of the same path", "path", n.StorePath,
		"cache_nar_hash", have.NarHash.String(), "import_nar_hash", n.NarHash.String())
	return false
}

// present tells whether a path is in the cache, or will be before those behind it.
func (m *Importer) present(name string) (bool, error) {
	if m.have[name] {
		return true, nil
	}
	_, err := m.Cache.Entry(path.Join(m.Cache.StoreDir(), name))
	switch {
	case err == nil:
		m.have[name] = true
		return true, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, bincache.ErrDamaged):
		return false, nil
	}
	return false, err
}
