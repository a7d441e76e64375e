package queue

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"math"
)

//go:embed sql/room.sql
var roomSQL string

// Room returns for how many more jobs the queue has room: without a bound for any number.
//
// The bound counts jobs that are still to be done, and not dead letters, for which a person
// has to do something, and which must not be in the way of others until then. It holds back
// those who have a list of what there is to do anyway, and can go on with it later: whoever
// looks at Nix's registrations, and has a cursor, and whoever turns roots into jobs. They ask
// before they add. What hooks tell of is in no list, so that they add it whatever there is:
// of the jobs that are waiting they may bring more than the bound.
func (q *Queue) Room(ctx context.Context) (int64, error) {
	var value string
	var left int64
	err := q.db.QueryRowContext(ctx, roomSQL).Scan(&value, &left)
	if errors.Is(err, sql.ErrNoRows) {
		return math.MaxInt64, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for room in the queue: %w", explain(err))
	}
	most, err := bound("max_queue", value)
	if err != nil {
		return 0, err
	}
	return max(0, most-left), nil
}
