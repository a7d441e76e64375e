package nixstore

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	//go:embed sql/registrations.sql
	registrationsSQL string
	//go:embed sql/registration.sql
	registrationSQL string
	//go:embed sql/count_after.sql
	countAfterSQL string
	//go:embed sql/derivers.sql
	deriversSQL string
	//go:embed sql/last.sql
	lastSQL string
	//go:embed sql/newest.sql
	newestSQL string
	//go:embed sql/build_times.sql
	buildTimesSQL string
	//go:embed sql/paths.sql
	pathsSQL string
)

// A Row is a row of Nix's table of valid paths. Nix numbers them in the order of
// their commits and never uses a number again, so that what is registered after a
// row has a higher one; a path that is deleted and registered anew has a new one.
// (They are autoincrement, and there is one writer.)
type Row struct {
	ID   int64
	Path string
}

// A Registration is how a path came into the store, as far as Nix's database
// remembers.
type Registration struct {
	Row
	Deriver  string   // what is said to have built it, or ""
	NarSize  int64    // bytes; 0 if Nix does not know
	Ultimate bool     // this machine built it, or so somebody trusted said
	Sigs     []string // as in a narinfo: name:base64
	CA       string   // content address as in a narinfo, or ""
	Output   bool     // a derivation in this store has it as an output
}

// Registrations returns the oldest limit registrations after a row, oldest first.
func (s *Store) Registrations(ctx context.Context, after int64, limit int) ([]Registration, error) {
	var list []Registration
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, registrationsSQL, sql.Named("after", after), sql.Named("limit", limit))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, err := scanRegistration(rows)
			if err != nil {
				return err
			}
			list = append(list, r)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read registrations: %w", err)
	}
	return list, nil
}

// Registration returns the registration of a path. The error wraps [ErrNotValid]
// if there is none.
func (s *Store) Registration(ctx context.Context, path string) (Registration, error) {
	var r Registration
	err := s.db.read(ctx, func(tx *sql.Tx) (err error) {
		r, err = scanRegistration(tx.QueryRowContext(ctx, registrationSQL, sql.Named("path", path)))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotValid
		}
		return err
	})
	if err != nil {
		return r, fmt.Errorf("read registration of %s: %w", path, err)
	}
	return r, nil
}

func scanRegistration(row interface{ Scan(...any) error }) (Registration, error) {
	var r Registration
	var deriver, sigs, ca sql.NullString
	var size, ultimate sql.NullInt64
	err := row.Scan(&r.ID, &r.Path, &deriver, &size, &ultimate, &sigs, &ca, &r.Output)
	r.Deriver, r.NarSize, r.Ultimate = deriver.String, size.Int64, ultimate.Int64 == 1
	r.Sigs, r.CA = strings.Fields(sigs.String), ca.String
	return r, err
}

// Last returns the highest number that a row was ever given, or 0. Deletions do not
// change it: it becomes less only with another database.
func (s *Store) Last(ctx context.Context) (id int64, err error) {
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, lastSQL).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			id, err = 0, nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read last registration: %w", err)
	}
	return id, nil
}

// Newest returns the newest limit rows, newest first.
func (s *Store) Newest(ctx context.Context, limit int) ([]Row, error) {
	rows, err := s.rows(ctx, newestSQL, sql.Named("limit", limit))
	if err != nil {
		return nil, fmt.Errorf("read newest registrations: %w", err)
	}
	return rows, nil
}

// CountAfter returns how many registrations there are after a row.
func (s *Store) CountAfter(ctx context.Context, after int64) (n int64, err error) {
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, countAfterSQL, sql.Named("after", after)).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count registrations: %w", err)
	}
	return n, nil
}

// Derivers returns the derivations in the store that have a path as an output, be
// it valid or not.
func (s *Store) Derivers(ctx context.Context, path string) (drvs []string, err error) {
	err = s.db.read(ctx, func(tx *sql.Tx) (err error) {
		drvs, err = queryAll[string](ctx, tx, deriversSQL, sql.Named("path", path))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read derivers of %s: %w", path, err)
	}
	return drvs, nil
}

// A BuildTime is when something was built, in whole seconds.
type BuildTime struct{ Begin, End time.Time }

// BuildTimes returns when those of some paths were built that were built here, as far as
// Nix's times tell: from when the last input was there. What waited for other builds
// meanwhile seems to have begun earlier. Of several outputs of a derivation only one is
// returned, for all.
func (s *Store) BuildTimes(ctx context.Context, paths []string) (times map[string]BuildTime, err error) {
	list, err := json.Marshal(append([]string{}, paths...)) // not null
	if err != nil {
		return nil, err
	}
	err = s.db.read(ctx, func(tx *sql.Tx) error {
		times = make(map[string]BuildTime)
		rows, err := tx.QueryContext(ctx, buildTimesSQL, sql.Named("paths", string(list)))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var path string
			var begin, end int64
			if err := rows.Scan(&path, &begin, &end); err != nil {
				return err
			}
			times[path] = BuildTime{time.Unix(min(begin, end), 0), time.Unix(end, 0)}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read build times: %w", err)
	}
	return times, nil
}

// Rows returns those of the given rows that there are, in their order.
func (s *Store) Rows(ctx context.Context, ids []int64) ([]Row, error) {
	list, err := json.Marshal(append([]int64{}, ids...)) // not null
	if err != nil {
		return nil, err
	}
	rows, err := s.rows(ctx, pathsSQL, sql.Named("ids", string(list)))
	if err != nil {
		return nil, fmt.Errorf("read paths of rows: %w", err)
	}
	return rows, nil
}

func (s *Store) rows(ctx context.Context, query string, args ...any) ([]Row, error) {
	var list []Row
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r Row
			if err := rows.Scan(&r.ID, &r.Path); err != nil {
				return err
			}
			list = append(list, r)
		}
		return rows.Err()
	})
	return list, err
}
