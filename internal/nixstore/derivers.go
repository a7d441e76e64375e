package nixstore

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"fmt"
)

var (
	//go:embed sql/build_closure.sql
	buildClosureSQL string
	//go:embed sql/built_from.sql
	builtFromSQL string
	//go:embed sql/results.sql
	resultsSQL string
)

// BuildClosure returns the closures of some paths, which must be valid, and of all valid
// outputs of the derivations that are in them, sorted: of derivations everything that it
// took to build them, as far as it is in the store. Outputs that are named by their
// contents are among them only if something in there refers to them.
func (s *Store) BuildClosure(ctx context.Context, paths []string) (closure []string, err error) {
	list, err := json.Marshal(append([]string{}, paths...)) // not null
	if err != nil {
		return nil, err
	}
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		if _, err := rowsOf(ctx, tx, paths); err != nil {
			return err
		}
		closure, err = queryAll[string](ctx, tx, buildClosureSQL, sql.Named("paths", string(list)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read build-time closure of %w", err)
	}
	return closure, nil
}

// BuiltFrom returns the derivations of those of some paths that were built here, as far
// as they are in the store.
func (s *Store) BuiltFrom(ctx context.Context, paths []string) (drvs map[string]string, err error) {
	list, err := json.Marshal(append([]string{}, paths...)) // not null
	if err != nil {
		return nil, err
	}
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		drvs = make(map[string]string)
		rows, err := tx.QueryContext(ctx, builtFromSQL, sql.Named("paths", string(list)))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var path, drv string
			if err := rows.Scan(&path, &drv); err != nil {
				return err
			}
			drvs[path] = drv
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read derivers: %w", err)
	}
	return drvs, nil
}

// Results returns those of some paths that none of the others needs, to run or to be built,
// as far as that can be told: what whoever built all of them is likely to have wanted.
// Sources are not among them.
func (s *Store) Results(ctx context.Context, paths []string) (results []string, err error) {
	list, err := json.Marshal(append([]string{}, paths...)) // not null
	if err != nil {
		return nil, err
	}
	err = s.db.read(ctx, func(tx *sql.Tx) (err error) {
		results, err = queryAll[string](ctx, tx, resultsSQL, sql.Named("paths", string(list)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what is a result: %w", err)
	}
	return results, nil
}
