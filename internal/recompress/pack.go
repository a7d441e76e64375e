package recompress

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/pace"
)

// A packed is a NAR that was read.
type packed struct {
	*group
	temp *bincache.Temp   // nil if it would not get smaller
	was  int64            // size of the old file
	now  bincache.NarInfo // which file there is now, and nothing else
}

// A packer packs one NAR after the other, at the lowest priority.
type packer struct {
	*Recompressor
	frames *compress.Frames
	pacer  *pace.Pacer
}

// pack packs NARs until there are no more, or no time. From then on it helps others with
// theirs.
func (r *Recompressor) pack(ctx context.Context, done chan<- packed) error {
	// The thread ends with this goroutine, since it is not unlocked: nobody else gets its
	// priority.
	runtime.LockOSThread()
	if err := pace.Lowest(); err != nil {
		r.Log.Warn("recompressing at normal priority", "err", err)
	}
	p := &packer{Recompressor: r, frames: r.team.NewFrames()}
	if r.Workers <= runtime.GOMAXPROCS(0) { // or they would wait for each other
		p.pacer = pace.New()
		defer p.pacer.Close()
	}
	p.frames.Between = func(pid int) error {
		p.pacer.Follow(pid)
		return p.rest(ctx)
	}
	if err := p.packAll(ctx, done); err != nil {
		r.team.End()
		return err
	}
	if r.packing.Add(-1) == 0 {
		r.team.End()
	}
	r.team.Help(p.frames)
	return nil
}

// packAll packs NARs until there are no more, or no time.
func (p *packer) packAll(ctx context.Context, done chan<- packed) error {
	r := p.Recompressor
	for g := r.next(); g != nil; g = r.next() {
		result, err := p.pack(ctx, g)
		switch {
		case errors.Is(err, bincache.ErrDamaged), errors.Is(err, compress.ErrCorrupt), errors.Is(err, compress.ErrUnsupported):
			if r.isNamed(g) {
				r.damaged(g.entry.StorePath, err.Error())
			}
			r.finished(g)
			continue
		case err != nil:
			return fmt.Errorf("recompress %s: %w", g.entry.StorePath, err)
		}
		select {
		case done <- result:
		case <-ctx.Done():
			if result.temp != nil {
				result.temp.Discard()
			}
			return ctx.Err()
		}
	}
	return nil
}

// isNamed tells whether some entry still names the NAR of a group. If none does, it is no
// fault of the cache that it is gone: somebody has removed the entries, or changed them.
func (r *Recompressor) isNamed(g *group) bool {
	return slices.ContainsFunc(g.hashes, func(hash string) bool {
		n, _, err := r.Cache.Read(hash)
		return n != nil && n.URL == g.entry.URL || n == nil && !errors.Is(err, fs.ErrNotExist)
	})
}

// next returns what is to be packed next, or nil.
func (r *Recompressor) next() *group {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.todo) == 0 || r.Budget > 0 && time.Since(r.begin) >= r.Budget {
		return nil
	}
	g := r.todo[0]
	r.todo = r.todo[1:]
	return g
}

// finished notes that nothing more will be done with a group.
func (r *Recompressor) finished(g *group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Done++
	r.progress.Read += g.entry.FileSize
}

// pieceSize is how much is unpacked at a time.
const pieceSize = 128 << 10

// pack reads a NAR once: it unpacks it, hashes what is in it, packs it into an unfinished
// file, and hashes that.
func (p *packer) pack(ctx context.Context, g *group) (packed, error) {
	n := g.entry
	file, was, err := p.Cache.OpenNar(n)
	if err != nil {
		return packed{}, err
	}
	defer file.Close()
	from, err := compress.NewReader(n.Compression, file, n.NarSize)
	if err != nil {
		return packed{}, err
	}
	defer from.Close()
	temp, err := p.Cache.CreateTemp()
	if err != nil {
		return packed{}, err
	}
	nar := sha256.New()
	to := &smaller{to: bincache.NewHashedTemp(temp, p.Method.Name), limit: was}
	p.frames.Reset(to)
	if err = p.copy(ctx, from, nar); err == nil {
		err = p.frames.Flush()
	}
	p.frames.Reset(nil) // from here on nobody writes to the file
	switch {
	case errors.Is(to.err, errNotSmaller):
		temp.Discard()
		return packed{group: g, was: was}, nil
	case to.err != nil:
		err = to.err
	case err == nil && bincache.Hash(nar.Sum(nil)) != n.NarHash:
		err = fmt.Errorf("%w: nar hash is %s, want %s", bincache.ErrDamaged, bincache.Hash(nar.Sum(nil)), n.NarHash)
	}
	if err != nil {
		temp.Discard()
		return packed{}, err
	}
	temp.StartSync()
	result := packed{group: g, temp: temp, was: was}
	to.to.Describe(&result.now, p.Method.Name)
	return result, nil
}

// copy packs what is in a NAR, and hashes it.
func (p *packer) copy(ctx context.Context, from io.Reader, nar hash.Hash) error {
	piece := make([]byte, pieceSize)
	for {
		if err := p.rest(ctx); err != nil {
			return err
		}
		n, err := from.Read(piece)
		nar.Write(piece[:n])
		if _, writeErr := p.frames.Write(piece[:n]); writeErr != nil {
			return writeErr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// rest rests if others want the core. It returns an error if it is not to go on.
func (p *packer) rest(ctx context.Context) error {
	if left := p.pacer.Look(); left > 0 {
		p.pacer.Rest(ctx, left, nil)
	}
	return ctx.Err()
}

// errNotSmaller ends what need not be gone on with.
var errNotSmaller = errors.New("it does not become smaller")

// A smaller writes a file until that is as large as another one.
type smaller struct {
	to    *bincache.HashedTemp
	limit int64
	err   error // of the last Write
}

func (s *smaller) Write(b []byte) (n int, err error) {
	if s.to.Size+int64(len(b)) >= s.limit {
		s.err = errNotSmaller
		return 0, s.err
	}
	n, s.err = s.to.Write(b)
	return n, s.err
}
