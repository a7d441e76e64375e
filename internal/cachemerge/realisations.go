package cachemerge

import (
	"context"

	"github.com/nix-larder/larder/internal/bincache"
)

// takeRealisations adds the realisations of the sources. Their store paths are in the
// target by now, if they are anywhere.
func (m *Merger) takeRealisations(ctx context.Context) error {
	for _, from := range m.caches[1:] {
		var list []*bincache.Realisation
		for _, dir := range bincache.RealisationDirs {
			for _, file := range m.files(from, dir) {
				if err := ctx.Err(); err != nil {
					return err
				}
				r, err := from.Realisation(file)
				if err != nil {
					m.unreadable(from, file, err)
					continue
				}
				id, ok := m.ids[bincache.HashPart(r.OutPath)]
				if ok && m.entries[id].lost() {
					continue // that it is lost is said elsewhere
				}
				list = append(list, r)
			}
		}
		added, err := m.target().AddRealisations(ctx, list, nil)
		m.result.Files += added.Added
		m.result.Signatures += added.Signed
		for _, r := range added.Kept {
			m.result.Conflicts = append(m.result.Conflicts, Conflict{r.File(), m.target().Path(), from.Path()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
