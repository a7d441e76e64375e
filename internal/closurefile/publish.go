package closurefile

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
)

// publish makes what has come visible, all of it durable, in the order of
// cachewriter's package comment. After an error some of it may be, in order, so that the
// cache is whole.
func (m *Importer) publish(ctx context.Context) error {
	if err := m.packing.Wait(); err != nil {
		return err
	}
	batch := m.batch
	for _, a := range batch {
		var err error
		if a.infoFile, err = m.Cache.TempNarInfo(a.narInfo); err != nil {
			return err
		}
	}
	err := bincache.EachOf(batch, func(a *arrival) error {
		if err := a.nar.Temp.Sync(); err != nil {
			return err
		}
		return a.infoFile.Sync()
	})
	if err != nil {
		return err
	}
	for _, a := range batch {
		if err := m.Cache.PublishNar(a.nar.Temp, a.narInfo.URL); err != nil {
			return err
		}
	}
	if err := m.Cache.SyncDir("nar"); err != nil {
		return err
	}
	// From here on every NAR is durable, and has its name.
	for _, a := range batch {
		ours, err := m.Cache.PublishNarInfo(ctx, a.infoFile, a.narInfo.StorePath)
		if err != nil {
			return err
		}
		m.published(a, ours)
	}
	if err := m.Cache.SyncDir("."); err != nil {
		return err
	}
	m.batch = m.batch[:0]
	signed, err := m.Cache.UniteSignatures(ctx, m.resign)
	m.result.Signatures += signed
	m.resign = m.resign[:0]
	return err
}

func (m *Importer) published(a *arrival, ours bool) {
	if !ours { // another process was faster
		if len(a.narInfo.Sigs) > 0 {
			m.resign = append(m.resign, a.narInfo)
		}
		return
	}
	if m.Published != nil {
		m.Published(a.narInfo)
	}
	m.result.Added++
	m.result.NarBytes += a.narInfo.NarSize
	m.result.FileBytes += a.narInfo.FileSize
	if a.missing {
		m.result.Relying++
	}
}

// lookAgain looks whether all of it is there if entries were removed since there was
// another word of removals.
func (m *Importer) lookAgain(ctx context.Context, before string) error {
	after, removing, err := m.Cache.Removals()
	if err != nil || after == before && !removing {
		return err
	}
	removed, err := m.removed(ctx)
	if len(removed) > 0 && m.Removed != nil {
		if err := m.Removed(ctx, removed); err != nil {
			return fmt.Errorf("%s was removed from the cache meanwhile: %w", removed[0], err)
		}
		_, err = m.removed(ctx)
	}
	return err
}

// removed returns what was there, or was imported, and is there no more, and an error that
// says so.
func (m *Importer) removed(ctx context.Context) (removed []string, err error) {
	paths := make([]string, 0, len(m.have))
	for name := range m.have {
		paths = append(paths, path.Join(m.Cache.StoreDir(), name))
	}
	slices.Sort(paths)
	for i, f := range m.Cache.Find(ctx, paths) {
		if f.Err != nil {
			removed = append(removed, paths[i])
			err = cmp.Or(err, fmt.Errorf("%s was removed from the cache meanwhile: %w", paths[i], f.Err))
		}
	}
	return removed, err
}
