package cachewriter

// maxNeeds is of how many entries is remembered how much room they need.
const maxNeeds = 10000

// checkRoom returns an error if there is too little room for an entry. How small it gets
// nobody knows before it is compressed. But one for which there was no room need not be
// read once more until there is more than that: a large one would fill the disk up again
// and again, and take the room from all others meanwhile.
func (w *Writer) checkRoom(e *entry) error {
	w.mu.Lock()
	need := w.needs[e.id]
	w.mu.Unlock()
	return cacheError(w.cache.CheckRoom(need))
}

// noteNeed remembers how much room an entry needs at least, or, with 0, forgets it.
func (w *Writer) noteNeed(e *entry, need int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if need == 0 {
		delete(w.needs, e.id)
	} else if len(w.needs) < maxNeeds {
		w.needs[e.id] = need
	}
}

// CheckRoom returns an error, which wraps [ErrUnavailable], if nothing more may be written to
// the cache now.
func (w *Writer) CheckRoom() error { return cacheError(w.cache.CheckRoom(0)) }
