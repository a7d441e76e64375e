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
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	//go:embed sql/contents.sql
	contentsSQL string
	//go:embed sql/ids.sql
	idsSQL string
	//go:embed sql/info.sql
	infoSQL string
)

// Dirs are the directories of a Nix installation.
type Dirs struct {
	Store string // where store paths are, such as /nix/store
	State string // where Nix keeps its state, such as /nix/var/nix
	Log   string // where Nix keeps the logs of builds, such as /nix/var/log/nix; "" for none
}

// DefaultDirs returns the directories that Nix would use in this environment.
func DefaultDirs() Dirs {
	d := Dirs{Store: "/nix/store", State: "/nix/var/nix", Log: "/nix/var/log/nix"}
	if dir := os.Getenv("NIX_STORE_DIR"); dir != "" {
		d.Store = filepath.Clean(dir)
	}
	if dir := os.Getenv("NIX_STATE_DIR"); dir != "" {
		d.State = filepath.Clean(dir)
	}
	if dir := os.Getenv("NIX_LOG_DIR"); dir != "" {
		d.Log = filepath.Clean(dir)
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
	var infos []*Info
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		ids, err := rowsOf(ctx, tx, []string{path})
		if err != nil {
			return err
		}
		infos, err = readInfos(ctx, tx, ids)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read info of %w", err)
	}
	return infos[0], nil
}

// Infos is Info for many paths at once, nil for those that are not in the store.
func (s *Store) Infos(ctx context.Context, paths []string) ([]*Info, error) {
	infos := make([]*Info, len(paths))
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		found, err := findRows(ctx, tx, paths)
		if err != nil {
			return err
		}
		var ids []int64
		var of []int // where in paths they are
		for i, id := range found {
			if id.Valid {
				ids, of = append(ids, id.Int64), append(of, i)
			}
		}
		valid, err := readInfos(ctx, tx, ids)
		for i, info := range valid {
			infos[of[i]] = info
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read infos of %d paths: %w", len(paths), err)
	}
	return infos, nil
}

// Check returns an error that wraps [ErrNotValid] if one of some paths is not in the
// store.
func (s *Store) Check(ctx context.Context, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		_, err := rowsOf(ctx, tx, paths)
		return err
	})
	if err != nil {
		return fmt.Errorf("read info of %w", err)
	}
	return nil
}

// NodeInfos is Info for paths of a closure, nil for those that are no longer in the
// store. Nix never uses a row for a second path, so it can't be another one meanwhile.
func (s *Store) NodeInfos(ctx context.Context, nodes []Node) ([]*Info, error) {
	var infos []*Info
	err := s.db.read(ctx, func(tx *sql.Tx) (err error) {
		infos, err = readInfos(ctx, tx, idsOf(nodes))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read infos of %d paths: %w", len(nodes), err)
	}
	return infos, nil
}

// A Content is what tells whether a cache has the same as the store.
type Content struct {
	Path    string
	NarHash [32]byte // SHA-256
	Sigs    []string // as in a narinfo: name:base64
}

// Contents is NodeInfos for those who need no more than that: it takes a fraction of the
// time. Those that are no longer in the store are zero.
func (s *Store) Contents(ctx context.Context, nodes []Node) ([]Content, error) {
	var contents []Content
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		contents = make([]Content, 0, len(nodes))
		var row contentRow
		return readRows(ctx, tx, contentsSQL, idsOf(nodes), func(rows *sql.Rows) error {
			if err := rows.Scan(&row.path, &row.hash, &row.sigs); err != nil {
				return err
			}
			c, err := row.content()
			contents = append(contents, c)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read contents of %d paths: %w", len(nodes), err)
	}
	return contents, nil
}

// A contentRow is what Nix's database has of a Content.
type contentRow struct{ path, hash, sigs sql.NullString }

func (r *contentRow) content() (c Content, err error) {
	if r.path.Valid {
		c = Content{Path: r.path.String, Sigs: strings.Fields(r.sigs.String)}
		c.NarHash, err = parseHash(r.hash.String)
	}
	return c, err
}

func idsOf(nodes []Node) []int64 {
	ids := make([]int64, len(nodes))
	for i, node := range nodes {
		ids[i] = node.ID
	}
	return ids
}

// rowsOf returns the rows of paths. The error names the first that there is none of.
func rowsOf(ctx context.Context, tx *sql.Tx, paths []string) ([]int64, error) {
	ids, err := findRows(ctx, tx, paths)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", several(paths), err)
	}
	rows := make([]int64, len(ids))
	for i, id := range ids {
		if !id.Valid {
			return nil, fmt.Errorf("%s: %w", paths[i], ErrNotValid)
		}
		rows[i] = id.Int64
	}
	return rows, nil
}

// findRows returns the rows of those paths that have one.
func findRows(ctx context.Context, tx *sql.Tx, paths []string) ([]sql.NullInt64, error) {
	list, err := json.Marshal(append([]string{}, paths...)) // not null
	if err != nil {
		return nil, err
	}
	return queryAll[sql.NullInt64](ctx, tx, idsSQL, sql.Named("paths", string(list)))
}

// readRows calls scan for every row that a query for some ids gives: one for each.
func readRows(ctx context.Context, tx *sql.Tx, query string, ids []int64, scan func(*sql.Rows) error) error {
	rows, err := tx.QueryContext(ctx, query, sql.Named("ids", jsonArray(ids)))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func readInfos(ctx context.Context, tx *sql.Tx, ids []int64) ([]*Info, error) {
	infos := make([]*Info, 0, len(ids))
	err := readRows(ctx, tx, infoSQL, ids, func(rows *sql.Rows) (err error) {
		var path, hash, deriver, sigs, ca, refs sql.NullString
		var size sql.NullInt64
		if err := rows.Scan(&path, &hash, &size, &deriver, &sigs, &ca, &refs); err != nil {
			return err
		}
		if !path.Valid {
			infos = append(infos, nil)
			return nil
		}
		info := &Info{Path: path.String, NarSize: size.Int64, Deriver: deriver.String, CA: ca.String}
		info.Sigs = strings.Fields(sigs.String)
		info.References = strings.Fields(refs.String)
		slices.Sort(info.References)
		info.NarHash, err = parseHash(hash.String)
		infos = append(infos, info)
		return err
	})
	return infos, err
}

// parseHash reads a hash as Nix's database has it.
func parseHash(text string) (hash [32]byte, err error) {
	digest, ok := strings.CutPrefix(text, "sha256:")
	if !ok || len(digest) != hex.EncodedLen(len(hash)) {
		return hash, fmt.Errorf("hash in Nix's database is %q, want sha256:<64 digits>", text)
	}
	if _, err := hex.Decode(hash[:], []byte(digest)); err != nil {
		return hash, fmt.Errorf("hash in Nix's database is %q: %w", text, err)
	}
	return hash, nil
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
