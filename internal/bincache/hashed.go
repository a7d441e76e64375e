package bincache

import (
	"crypto/sha256"
	"hash"
)

// A HashedTemp hashes and counts what is written to an unfinished file. It keeps its
// error, so that the cache's troubles can be told from those of what is written.
type HashedTemp struct {
	Temp *Temp // not embedded, or it could be written to without us
	Size int64
	Err  error

	// Needs is how much room there has to be, at least, if Err says that it is too little:
	// see [IsFull].
	Needs int64

	hash    hash.Hash // nil if somebody else hashes the same
	started int64     // bytes on their way to the disk
}

// NewHashedTemp returns one for a NAR that is compressed so: one that is not has the hash
// of what is in it.
func NewHashedTemp(t *Temp, compression string) *HashedTemp {
	h := &HashedTemp{Temp: t}
	if compression != "none" {
		h.hash = sha256.New()
	}
	return h
}

// syncAhead is how much of a file is written before it is sent to the disk: the system
// would keep it all in memory, and who syncs the file would wait for all of it.
const syncAhead = 32 << 20

func (h *HashedTemp) Write(b []byte) (int, error) {
	if h.hash != nil {
		h.hash.Write(b)
	}
	n, err := added{h.Temp}.Write(b)
	if IsFull(err) {
		h.Needs = h.Size + int64(len(b))
	}
	h.Size += int64(n)
	if h.Size-h.started >= syncAhead {
		h.Temp.StartSync()
		h.started = h.Size
	}
	h.Err = err
	return n, err
}

// Describe says in an entry, which has its NAR hash, which file it has.
func (h *HashedTemp) Describe(n *NarInfo, compression string) {
	fileHash := n.NarHash
	if h.hash != nil {
		fileHash = Hash(h.hash.Sum(nil))
	}
	n.URL, n.Compression, n.FileHash, n.FileSize = NarName(fileHash, compression), compression, fileHash, h.Size
}
