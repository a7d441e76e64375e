package cachemerge

import (
	"context"
	"errors"
	"path"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
)

// A placed is an entry whose NAR is in the target.
type placed struct {
	*entry
	url    string
	text   []byte // of its narinfo; nil if there is no NAR after all
	signed int    // signatures that were added to it
	temp   *bincache.Temp
}

// add makes a batch visible, all of it durable. After an error some of it may be, in
// order, so that the cache is whole.
func (m *Merger) add(ctx context.Context, batch []*entry) error {
	entries := make([]*placed, len(batch))
	for i, e := range batch {
		entries[i] = &placed{entry: e}
	}
	if err := bincache.EachOf(entries, func(p *placed) error { return m.place(ctx, p) }); err != nil {
		return err
	}
	dirs := make(map[string]bool)
	for _, p := range entries {
		if p.text != nil {
			dirs[path.Dir(p.url)] = true
		}
	}
	if err := m.sync(dirs); err != nil {
		return err
	}

	entries = slices.DeleteFunc(entries, func(p *placed) bool { return !m.complete(p) })
	defer func() {
		for _, p := range entries {
			if p.temp != nil {
				p.temp.Discard()
			}
		}
	}()
	for _, p := range entries {
		var err error
		if p.temp, err = m.target().TempAdded(p.text); err != nil {
			return err
		}
	}
	if err := bincache.EachOf(entries, func(p *placed) error { return p.temp.Sync() }); err != nil {
		return err
	}
	for _, p := range entries {
		if _, err := m.target().PublishNarInfo(ctx, p.temp, m.storePath(p.entry)); err != nil {
			return err
		}
		m.added(p)
	}
	return m.target().SyncDir(".")
}

func (m *Merger) sync(dirs map[string]bool) error {
	for dir := range dirs {
		if err := m.target().SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// place brings an entry's NAR into the target, from the first of its homes that has it
// still. If there is none, the entry is lost.
func (m *Merger) place(ctx context.Context, p *placed) error {
	e := p.entry
	for _, home := range e.homes {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := m.caches[home]
		// Once more, since it may have been recompressed, or signed, meanwhile.
		n, text, err := from.Read(e.hash)
		if err == nil && (n.NarHash != e.narHash || n.StorePath != m.storePath(e)) {
			err = errors.New("it was changed meanwhile")
		}
		if err != nil {
			m.damaged(e, int(home), n, err)
			continue
		}
		how, size, err := m.target().TakeNar(ctx, from, n)
		if errors.Is(err, bincache.ErrDamaged) || errors.Is(err, bincache.ErrNameTaken) {
			m.damaged(e, int(home), n, err)
			continue
		}
		if err != nil {
			return err
		}
		switch how {
		case bincache.Linked:
			m.linked.Add(size)
		case bincache.Copied:
			m.copied.Add(size)
		}
		p.url = n.URL
		p.text, p.signed = bincache.WithSignatures(n, text, e.more)
		return nil
	}
	e.homes = nil
	return nil
}

// complete tells whether an entry can be published, with those of the batch that are
// before it: its NAR, or a reference, may have turned out to be damaged.
func (m *Merger) complete(p *placed) bool {
	if p.text == nil {
		return false
	}
	for _, ref := range p.refs {
		if m.entries[ref].lost() {
			m.leaveOut(p.entry)
			return false
		}
	}
	return true
}

func (m *Merger) added(p *placed) {
	m.done.Add(1)
	m.result.Signatures += p.signed
	if p.mend {
		m.result.Mended++
		// Its own narinfo may have stayed, if only the NAR was missing: sign looks.
		p.homes, p.more = []int16{0}, p.entry.sigs
	} else {
		m.result.Added++
	}
	p.entry.added = true
	if slices.ContainsFunc(p.refs, func(ref int32) bool { return !m.entries[ref].seen }) {
		m.result.Relying++
	}
}

// sign adds to entries that the target had what signatures the sources have.
func (m *Merger) sign(ctx context.Context) error {
	unsigned := slices.DeleteFunc(slices.Clone(m.entries), func(e *entry) bool { return !e.inTarget() || e.more == nil })
	for batch := range slices.Chunk(unsigned, m.batch) {
		var signed []*bincache.NarInfo
		for _, e := range batch {
			n, _, err := m.target().Read(e.hash)
			if err != nil || n.NarHash != e.narHash {
				continue // (ignored) somebody has changed it meanwhile
			}
			n.Sigs = e.more
			signed = append(signed, n)
		}
		added, err := m.target().UniteSignatures(ctx, signed)
		m.result.Signatures += added
		if err != nil {
			return err
		}
	}
	return nil
}
