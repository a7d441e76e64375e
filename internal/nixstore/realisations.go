package nixstore

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
	"strings"
)

var (
	//go:embed sql/realised.sql
	realisedSQL string
	//go:embed sql/realisations.sql
	realisationsSQL string
	//go:embed sql/realised_after.sql
	realisedAfterSQL string
	//go:embed sql/traces.sql
	tracesSQL string
	//go:embed sql/traced_after.sql
	tracedAfterSQL string
)

// A Realisation says which store path an output of a derivation turned out to be. Nix
// notes it where the experimental feature ca-derivations is on, for derivations of all
// kinds: one realisation for what was built, and one for each derivation that came down
// to it once its inputs were known.
type Realisation struct {
	// Drv is the derivation: up to Nix 2.34 a hash that stands for it, sha256:<hex>,
	// and since 2.35 its base name.
	Drv     string
	Output  string // its name, such as out
	OutPath string // full path
	Sigs    []string

	// Dependent are the realisations that this one depends on, <drv>!<output>, and
	// their OutPaths. All of those are in what the OutPath refers to. Nix notes them
	// up to 2.32.
	Dependent map[string]string
}

// ID names what is realised, as Nix does up to 2.34.
func (r *Realisation) ID() string { return r.Drv + "!" + r.Output }

// A RealisationMark is how far Nix's tables of realisations have been looked at. Nix
// numbers them as it does paths: see [Row].
type RealisationMark struct {
	realisations, traces int64
}

// Realisations returns the realisations that have some paths as their outputs, and all
// that those depend on, in no particular order. Paths that are not in the store have none.
// Where Nix has never noted any, which is nearly everywhere, it takes one short look.
func (s *Store) Realisations(ctx context.Context, nodes []Node, paths ...string) (list []Realisation, err error) {
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		list = nil
		last, err := lastRealised(ctx, tx)
		if err != nil || last == (RealisationMark{}) {
			return err
		}
		ids := idsOf(nodes)
		for _, path := range paths {
			id, err := queryAll[int64](ctx, tx, "select id from ValidPaths where path = :path", sql.Named("path", path))
			if err != nil {
				return err
			}
			ids = append(ids, id...)
		}
		list, err = readRealisations(ctx, tx, last, ids)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read realisations: %w", err)
	}
	return list, nil
}

// RealisationsAfter is Realisations for the outputs of what was realised after a mark:
// at most limit of each kind. It returns the next mark, which is the same one if there
// is nothing more. In another database, which has not come as far, it begins anew.
func (s *Store) RealisationsAfter(ctx context.Context, after RealisationMark, limit int) (list []Realisation, next RealisationMark, err error) {
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		list, next = nil, after
		last, err := lastRealised(ctx, tx)
		if err != nil {
			return err
		}
		if last.realisations < next.realisations || last.traces < next.traces {
			next = RealisationMark{}
		}
		var ids []int64
		for _, table := range []struct {
			query string
			mark  *int64
			last  int64
		}{
			{realisedAfterSQL, &next.realisations, last.realisations},
			{tracedAfterSQL, &next.traces, last.traces},
		} {
			if *table.mark == table.last {
				continue
			}
			found, err := idsAfter(ctx, tx, table.query, table.mark, table.last, limit)
			if err != nil {
				return err
			}
			ids = append(ids, found...)
		}
		if len(ids) > 0 {
			list, err = readRealisations(ctx, tx, last, ids)
		}
		return err
	})
	if err != nil {
		return nil, after, fmt.Errorf("read realisations: %w", err)
	}
	return list, next, nil
}

// idsAfter returns the rows of the outputs of what was realised after a mark, and moves
// it.
func idsAfter(ctx context.Context, tx *sql.Tx, query string, mark *int64, last int64, limit int) (ids []int64, err error) {
	rows, err := tx.QueryContext(ctx, query, sql.Named("after", *mark), sql.Named("limit", limit))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	count := 0
	for rows.Next() {
		var output sql.NullInt64
		if err := rows.Scan(mark, &output); err != nil {
			return nil, err
		}
		if output.Valid {
			ids = append(ids, output.Int64)
		}
		count++
	}
	if count < limit {
		*mark = last // what came behind the last row is gone
	}
	return ids, rows.Err()
}

func lastRealised(ctx context.Context, tx *sql.Tx) (RealisationMark, error) {
	var realisations, traces sql.NullInt64
	err := tx.QueryRowContext(ctx, realisedSQL).Scan(&realisations, &traces)
	return RealisationMark{realisations.Int64, traces.Int64}, err
}

func readRealisations(ctx context.Context, tx *sql.Tx, last RealisationMark, ids []int64) (list []Realisation, err error) {
	for _, table := range []struct {
		query string
		last  int64
	}{{realisationsSQL, last.realisations}, {tracesSQL, last.traces}} {
		if table.last == 0 {
			continue
		}
		found, err := queryRealisations(ctx, tx, table.query, ids)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

func queryRealisations(ctx context.Context, tx *sql.Tx, query string, ids []int64) ([]Realisation, error) {
	var list []Realisation
	place := make(map[string]int) // in list, by row
	var needs []string            // rows, with commas between
	err := readRows(ctx, tx, query, ids, func(rows *sql.Rows) error {
		var r Realisation
		var id string
		var sigs, need sql.NullString
		err := rows.Scan(&id, &r.Drv, &r.Output, &r.OutPath, &sigs, &need)
		r.Sigs = strings.Fields(sigs.String)
		place[id] = len(list)
		list, needs = append(list, r), append(needs, need.String)
		return err
	})
	for i, need := range needs {
		for id := range strings.SplitSeq(need, ",") {
			of, ok := place[id]
			if !ok || of == i {
				continue
			}
			if list[i].Dependent == nil {
				list[i].Dependent = make(map[string]string)
			}
			list[i].Dependent[list[of].ID()] = list[of].OutPath
		}
	}
	return list, err
}

// HasRealisations tells whether Nix has ever noted a realisation in this database.
func (s *Store) HasRealisations(ctx context.Context) (has bool, err error) {
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		last, err := lastRealised(ctx, tx)
		has = last != (RealisationMark{})
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read realisations: %w", err)
	}
	return has, nil
}
