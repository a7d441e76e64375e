package queue

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
)

var (
	//go:embed sql/advance.sql
	advanceSQL string
	//go:embed sql/lift.sql
	liftSQL string
	//go:embed sql/see.sql
	seeSQL string
	//go:embed sql/cursor.sql
	cursorSQL string
	//go:embed sql/forget_seen.sql
	forgetSeenSQL string
	//go:embed sql/go_back.sql
	goBackSQL string
	//go:embed sql/begin.sql
	beginSQL string
)

// ErrMoved says that somebody else has moved the cursor.
var ErrMoved = errors.New("somebody else has moved the cursor")

// Evidence is how many registrations a queue remembers.
const Evidence = 64

// A Seen is a registration in Nix's database: a path and the number of its row.
type Seen struct {
	ID   int64
	Path string
}

// A Cursor is how far Nix's registrations have been looked at.
type Cursor struct {
	// Last is the newest registration that has been looked at, or 0.
	Last int64

	// Start is the newest registration that was there before the queue. What is not
	// newer was never the queue's business.
	Start int64

	// Epoch names what has to be as it was for Last to mean anything. The queue only
	// keeps it.
	Epoch string

	// Seen are registrations up to Last, oldest first: the last few, and some up to
	// Start. They tell whether the numbers still mean what they did: a database
	// that was restored, or lost its newest changes, uses some of them again.
	Seen []Seen
}

// Cursor returns the cursor, or nil if the queue has none yet.
func (q *Queue) Cursor(ctx context.Context) (*Cursor, error) {
	c, err := q.cursor(ctx)
	if err != nil {
		return nil, fmt.Errorf("read cursor: %w", explain(err))
	}
	return c, nil
}

func (q *Queue) cursor(ctx context.Context) (*Cursor, error) {
	rows, err := q.db.QueryContext(ctx, cursorSQL)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var c *Cursor
	for rows.Next() {
		if c == nil {
			c = &Cursor{}
		}
		var id sql.NullInt64
		var path sql.NullString
		if err := rows.Scan(&c.Last, &c.Start, &c.Epoch, &id, &path); err != nil {
			return nil, err
		}
		if id.Valid {
			c.Seen = append(c.Seen, Seen{id.Int64, path.String})
		}
	}
	return c, rows.Err()
}

// SetCursor puts the cursor where from was to where to is. A queue that has none has
// nil. It returns [ErrMoved] if the cursor is no longer at from.
func (q *Queue) SetCursor(ctx context.Context, from *Cursor, to Cursor) error {
	err := q.transaction(ctx, func(tx *sql.Tx) error {
		if err := lift(ctx, tx, from); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "delete from seen"); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, beginSQL,
			sql.Named("last", to.Last), sql.Named("start", to.Start), sql.Named("epoch", to.Epoch))
		if err != nil {
			return err
		}
		return see(ctx, tx, to.Seen)
	})
	if err != nil {
		return fmt.Errorf("set cursor: %w", explain(err))
	}
	return nil
}

// lift takes the cursor away from where it is expected to be.
func lift(ctx context.Context, tx *sql.Tx, from *Cursor) error {
	var n int64
	if from == nil {
		err := tx.QueryRowContext(ctx, "select count(*) from cursor").Scan(&n)
		if err == nil && n > 0 {
			err = ErrMoved
		}
		return err
	}
	err := count(&n)(tx.ExecContext(ctx, liftSQL,
		sql.Named("last", from.Last), sql.Named("start", from.Start), sql.Named("epoch", from.Epoch)))
	if err == nil && n == 0 {
		err = ErrMoved
	}
	return err
}

// ForgetStart makes all that Nix has registered the queue's business.
func (q *Queue) ForgetStart(ctx context.Context) error {
	if _, err := q.db.ExecContext(ctx, "update cursor set start = 0"); err != nil {
		return fmt.Errorf("set cursor: %w", explain(err))
	}
	return nil
}

// GoBack is ForgetStart where not all has been looked at, but only what is up to a
// registration: the cursor goes back to that, if it is further, and whoever looks next goes
// on from there.
func (q *Queue) GoBack(ctx context.Context, last int64) error {
	if _, err := q.db.ExecContext(ctx, goBackSQL, sql.Named("last", last)); err != nil {
		return fmt.Errorf("set cursor: %w", explain(err))
	}
	return nil
}

// Advance moves the cursor past registrations, oldest first, that have been looked
// at, and adds those of their paths that are wanted, all or nothing. It returns
// [ErrMoved] if the cursor is no longer at from: then somebody else has seen to
// some of them.
//
// root is as for AddRooted.
func (q *Queue) Advance(ctx context.Context, from int64, seen []Seen, wanted []string, root func() error) error {
	if len(seen) == 0 {
		return nil
	}
	list, err := pathList(wanted)
	if err != nil {
		return fmt.Errorf("advance cursor: %w", err)
	}
	err = q.transaction(ctx, func(tx *sql.Tx) error {
		var moved int64
		last := seen[len(seen)-1].ID
		if err := count(&moved)(tx.ExecContext(ctx, advanceSQL, sql.Named("from", from), sql.Named("last", last))); err != nil {
			return err
		}
		if moved == 0 {
			return ErrMoved
		}
		if err := see(ctx, tx, seen[max(0, len(seen)-Evidence):]); err != nil {
			return err
		}
		return addRooted(ctx, tx, list, root)
	})
	if err != nil {
		return fmt.Errorf("advance cursor: %w", explain(err))
	}
	return nil
}

// see remembers registrations.
func see(ctx context.Context, tx *sql.Tx, seen []Seen) error {
	pairs := make([][2]any, len(seen))
	for i, s := range seen {
		pairs[i] = [2]any{s.ID, s.Path}
	}
	list, err := json.Marshal(pairs)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, seeSQL, sql.Named("seen", string(list))); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, forgetSeenSQL, sql.Named("keep", Evidence))
	return err
}
