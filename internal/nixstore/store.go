// Package nixstore reads the local Nix store: its database, never its protocol,
// so that nothing here needs a daemon, a trusted user, or a process.
//
// It only reads: each read is one short transaction, and idle connections are
// closed, since a reader that stayed would keep Nix from truncating its log. How a
// database is read that has no log, or whose log only root may make: database.go.
//
// The schema is Nix's version 10, which every Nix from 2.0 to 2.35 has. Its
// tables are in Nix's source, src/libstore/schema.sql.
package nixstore

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var (
	// ErrNotValid says that a path is not, or no longer, in the store.
	ErrNotValid = errors.New("path is not in the local store")
	// ErrUnavailable says that Nix's database can't be read now.
	ErrUnavailable = errors.New("the Nix database is unavailable")
)

var (
	//go:embed sql/outputs.sql
	outputsSQL string
	//go:embed sql/built_by.sql
	builtBySQL string
	//go:embed sql/id.sql
	idSQL string
	//go:embed sql/info.sql
	infoSQL string
	//go:embed sql/references.sql
	referencesSQL string
)

// Dirs are the directories of a Nix installation.
type Dirs struct {
	Store string // where store paths are, such as /nix/store
	State string // where Nix keeps its state, such as /nix/var/nix
}

// DefaultDirs returns the directories that Nix would use in this environment.
func DefaultDirs() Dirs {
	d := Dirs{Store: "/nix/store", State: "/nix/var/nix"}
	if dir := os.Getenv("NIX_STORE_DIR"); dir != "" {
		d.Store = filepath.Clean(dir)
	}
	if dir := os.Getenv("NIX_STATE_DIR"); dir != "" {
		d.State = filepath.Clean(dir)
	}
	return d
}

// A Store is a local Nix store. It is safe for use by several goroutines.
type Store struct {
	dirs Dirs
	db   *database
}

// Open opens the store. Waits for Nix end after busy; Nix uses SQLite's WAL mode,
// in which readers wait for nobody but recovery after a crash.
func Open(dirs Dirs, busy time.Duration) (*Store, error) {
	db, err := openDatabase(filepath.Join(dirs.State, "db"), busy)
	if err != nil {
		return nil, fmt.Errorf("open Nix database: %w", err)
	}
	return &Store{dirs: dirs, db: db}, nil
}

// Close closes the store.
func (s *Store) Close() error { return s.db.close() }

// Dirs returns where the store is.
func (s *Store) Dirs() Dirs { return s.dirs }

// DatabaseFile returns the file of Nix's database.
func (s *Store) DatabaseFile() string { return s.db.file }

// An Info is what Nix knows of a valid path.
type Info struct {
	Path       string
	NarHash    [32]byte // SHA-256
	NarSize    int64    // bytes; 0 if Nix does not know
	References []string // full paths, sorted
	Deriver    string   // full path, or "" if unknown
	Sigs       []string // as in a narinfo: name:base64
	CA         string   // content address as in a narinfo, or ""
}

// Info returns what Nix knows of a path. The error wraps [ErrNotValid] if that
// is nothing.
func (s *Store) Info(ctx context.Context, path string) (*Info, error) {
	var info *Info
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		id, err := rowOf(ctx, tx, path)
		if err != nil {
			return err
		}
		info, err = readInfo(ctx, tx, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read info of %s: %w", path, err)
	}
	return info, nil
}

// NodeInfo is Info for a path of a closure. Nix never uses a row for a second
// path, so it can't be another one meanwhile.
func (s *Store) NodeInfo(ctx context.Context, node Node) (*Info, error) {
	var info *Info
	err := s.db.read(ctx, func(tx *sql.Tx) (err error) {
		info, err = readInfo(ctx, tx, node.ID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read info of path %d: %w", node.ID, err)
	}
	return info, nil
}

func rowOf(ctx context.Context, tx *sql.Tx, path string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, idSQL, sql.Named("path", path)).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ErrNotValid
	}
	return id, err
}

func readInfo(ctx context.Context, tx *sql.Tx, id int64) (*Info, error) {
	info := &Info{}
	var hash string
	var size sql.NullInt64
	var deriver, sigs, ca sql.NullString
	err := tx.QueryRowContext(ctx, infoSQL, sql.Named("id", id)).Scan(&info.Path, &hash, &size, &deriver, &sigs, &ca)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotValid
	}
	if err != nil {
		return nil, err
	}
	digest, ok := strings.CutPrefix(hash, "sha256:")
	if !ok || len(digest) != hex.EncodedLen(len(info.NarHash)) {
		return nil, fmt.Errorf("hash in Nix's database is %q, want sha256:<64 digits>", hash)
	}
	if _, err := hex.Decode(info.NarHash[:], []byte(digest)); err != nil {
		return nil, fmt.Errorf("hash in Nix's database is %q: %w", hash, err)
	}
	info.NarSize, info.Deriver, info.CA = size.Int64, deriver.String, ca.String
	info.Sigs = strings.Fields(sigs.String)
	info.References, err = queryAll[string](ctx, tx, referencesSQL, sql.Named("id", id))
	return info, err
}

// Valid tells whether a path is in the store.
func (s *Store) Valid(ctx context.Context, path string) (bool, error) {
	_, err := s.Info(ctx, path)
	if errors.Is(err, ErrNotValid) {
		return false, nil
	}
	return err == nil, err
}

// Outputs returns the valid outputs of a derivation, sorted.
func (s *Store) Outputs(ctx context.Context, drv string) ([]string, error) {
	var paths []string
	err := s.db.read(ctx, func(tx *sql.Tx) (err error) {
		paths, err = queryAll[string](ctx, tx, outputsSQL, sql.Named("drv", drv))
		if err != nil || len(paths) > 0 {
			return err
		}
		paths, err = queryAll[string](ctx, tx, builtBySQL, sql.Named("drv", drv))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read outputs of %s: %w", drv, err)
	}
	return paths, nil
}

// queryAll returns the one column that a query selects.
func queryAll[T any](ctx context.Context, tx *sql.Tx, query string, args ...any) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var v T
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}
