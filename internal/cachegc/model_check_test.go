package cachegc

import (
	"errors"
	"slices"

	"github.com/nix-larder/larder/internal/bincache"
)

func (m *model) state() (there [modelSize]bool) {
	for i := range there {
		there[i] = m.named(i)
	}
	return there
}

// checkKept looks whether what the policy keeps is there.
func (m *model) checkKept(p Policy, before [modelSize]bool, r *Result) {
	want := make(map[int]string)
	for name, history := range m.pins {
		for _, pinned := range history {
			for _, i := range m.closure(pinned...) {
				want[i] = "pin " + name
			}
		}
	}
	for _, used := range m.runs[max(0, len(m.runs)-p.KeepLast):] {
		// Nobody knows what an entry needed that has gone before.
		there := slices.DeleteFunc(slices.Clone(used), func(i int) bool { return !before[i] })
		for _, i := range m.closure(there...) {
			want[i] = "one of the last runs"
		}
	}
	if p.MaxSize == 0 {
		for i := range modelSize {
			last, dated := m.lastUse[i]
			if p.MaxAge == 0 || !dated || m.newest.IsZero() || !last.Before(m.newest.Add(-p.MaxAge)) {
				want[i] = "its age"
			}
		}
	}
	for i, why := range want {
		// Nobody knows what an entry needed that the provider has lost.
		if before[i] && !m.named(i) && !m.lost {
			m.fail("%d is gone, which %s keeps", i, why)
		}
	}
	if p.MaxSize > 0 && r.Bytes-r.Freed > p.MaxSize+r.Short {
		m.fail("%d bytes are left, want %d, or %d that are kept", r.Bytes-r.Freed, p.MaxSize, p.MaxSize+r.Short)
	}
	if p.MaxSize > 0 && r.Short > 0 {
		for i := range modelSize {
			if before[i] && m.named(i) && want[i] == "" && !m.lost && r.Reinstated == 0 {
				for _, e := range r.Evict {
					if e.Path == m.path(i) {
						return // a writer has added it again
					}
				}
				m.fail("%d stays, and nobody keeps it, while %d bytes are too much", i, r.Short)
			}
		}
	}
}

// checkWhole looks whether each entry has its NAR and its references.
func (m *model) checkWhole(when string) {
	if m.lost {
		return
	}
	hashes, err := m.cache.Hashes()
	must(m.t, err)
	for _, hash := range hashes {
		n, _, err := m.cache.Read(hash)
		if err != nil && !(m.spoiled && errors.Is(err, bincache.ErrDamaged) && n != nil) {
			m.fail("%s: %v", when, err)
			return
		}
		for _, ref := range n.References {
			_, err := m.cache.Entry(storeDir + "/" + ref)
			if m.spoiled && errors.Is(err, bincache.ErrDamaged) {
				continue
			}
			if err != nil {
				m.fail("%s: %s refers to %s: %v", when, n.StorePath, ref, err)
				return
			}
		}
	}
}
