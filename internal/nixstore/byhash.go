package nixstore

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
)

//go:embed sql/by_hash.sql
var byHashSQL string

// FindHash returns the path in the store whose name has this first part, and the hash of
// its NAR. The error wraps [ErrNotValid] if there is none.
func (s *Store) FindHash(ctx context.Context, hash string) (path string, narHash [32]byte, err error) {
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		var text string
		from := s.dirs.Store + "/" + hash
		err := tx.QueryRowContext(ctx, byHashSQL, sql.Named("from", from+"-"), sql.Named("to", from+".")).Scan(&path, &text)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotValid
		}
		if err == nil {
			narHash, err = parseHash(text)
		}
		return err
	})
	if err != nil {
		return "", narHash, fmt.Errorf("look for a path with hash %s: %w", hash, err)
	}
	return path, narHash, nil
}
