package runner

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/nix-larder/larder/internal/rules"
)

// A Kind says what happened to a path.
type Kind string

const (
	// Registered is a path that came into the store.
	Registered Kind = "registered"
	// Added is an entry that was written to the cache.
	Added Kind = "added"
	// Done is a job whose closure is in the cache.
	Done Kind = "done"
	// LeftOut is a job that the rules do not want.
	LeftOut Kind = "left out"
	// Kept is an entry that was kept although the store has other contents.
	Kept Kind = "kept"
	// FailedLog is the log of a build that failed, of the derivation Path, that came into
	// the cache.
	FailedLog Kind = "failed log"
	// Earlier is a path that came up in our queue, but for an earlier run, which was killed.
	Earlier Kind = "earlier"
	// Gone is a job whose path was deleted before it could be copied.
	Gone Kind = "gone"
)

// An Event is a line of a journal.
type Event struct {
	Kind      Kind        `json:"kind"`
	Path      string      `json:"path"`
	Class     rules.Class `json:"class,omitempty"`   // of what was registered
	Present   bool        `json:"present,omitempty"` // it was in the cache when it was registered
	Reason    string      `json:"reason,omitempty"`  // why the rules do not want it
	NarBytes  int64       `json:"nar_bytes,omitempty"`
	FileBytes int64       `json:"file_bytes,omitempty"`

	// Of what was kept: the hashes of the two NARs.
	CacheNarHash string `json:"cache_nar_hash,omitempty"`
	StoreNarHash string `json:"store_nar_hash,omitempty"`
}

// A Journal is a file of events. It is safe for use by several goroutines.
type Journal struct {
	mu   sync.Mutex // guards what is below
	file *os.File
	err  error // the first that was met
}

// OpenJournal opens a journal for writing, behind what is there.
func OpenJournal(name string) (*Journal, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return &Journal{file: f}, nil
}

// Add puts an event down. What is wrong with the file, Close says: no job must suffer
// from it.
func (j *Journal) Add(e Event) {
	line, err := json.Marshal(e)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil && j.err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if j.err == nil {
		j.err = err
	}
}

// Close closes the journal. The error is the first that was met.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := errors.Join(j.err, j.file.Close()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// ReadJournal calls f with every event of a journal, in their order. There need not be
// one. A last line that is cut off, because its writer was killed, or the disk full,
// is left out.
func ReadJournal(name string, f func(Event)) error {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	defer file.Close()
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		var e Event
		if json.Unmarshal(line, &e) == nil { // of two lines in one, both are lost
			f(e)
		}
	}
}
