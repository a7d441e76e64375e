package watcher

import (
	"context"

	"github.com/nix-larder/larder/queue"
)

// trusted returns the cursor. If there is doubt whether it means anything, it is put
// back first. The error wraps [queue.ErrMoved] if somebody else has moved it.
func (c *Config) trusted(ctx context.Context) (*queue.Cursor, error) {
	cursor, err := begin(ctx, c.Queue, c.Store)
	if err != nil {
		return nil, err
	}
	left, err := c.left(ctx, cursor.Seen)
	if err != nil {
		return nil, err
	}
	last, err := c.Store.Last(ctx)
	if err != nil {
		return nil, err
	}
	restored := last < cursor.Last || contradicts(cursor.Seen, left)
	doubt := c.doubt(cursor, left, restored)
	if doubt == "" {
		return cursor, nil
	}
	c.Log.Info("comparing store and cache", "reason", doubt)
	back := queue.Cursor{Start: cursor.Start, Epoch: c.Epoch, Seen: left}
	switch {
	case len(left) == 0:
		back.Start = 0 // nobody knows what was there before the queue
	case restored:
		back.Start = certain(cursor.Seen, left, cursor.Start)
	}
	back.Last = back.Start
	return &back, c.Queue.SetCursor(ctx, cursor, back)
}

// certain returns the highest number up to start that is certainly not used again:
// rows that are remembered are as they were, up to that one.
func certain(seen, left []queue.Seen, start int64) (id int64) {
	is := make(map[int64]string, len(left))
	for _, s := range left {
		is[s.ID] = s.Path
	}
	for _, s := range seen {
		path, there := is[s.ID]
		if s.ID > start || there && path != s.Path {
			break
		}
		if there {
			id = s.ID
		}
	}
	return id
}

// left returns those of the remembered rows that there are now, be it for other paths.
func (c *Config) left(ctx context.Context, seen []queue.Seen) ([]queue.Seen, error) {
	ids := make([]int64, len(seen))
	for i, s := range seen {
		ids[i] = s.ID
	}
	rows, err := c.Store.Rows(ctx, ids)
	left := make([]queue.Seen, len(rows))
	for i, row := range rows {
		left[i] = queue.Seen(row)
	}
	return left, err
}

// doubt returns why the cursor is not to be trusted, or "". left are those of the
// rows that the cursor remembers that there are now.
func (c *Config) doubt(cursor *queue.Cursor, left []queue.Seen, restored bool) string {
	switch {
	case restored:
		return "Nix's database was restored, or lost changes"
	case cursor.Epoch == "":
		return "first look"
	case cursor.Epoch != c.Epoch:
		return "the machine was started anew, or cache, rules or keys are others"
	case len(left) == 0 && cursor.Last > 0:
		return "nothing is left of what was registered last"
	case len(left) > 0 && left[len(left)-1].ID <= cursor.Start && cursor.Last > cursor.Start:
		return "nothing is left of what was registered last"
	}
	return ""
}

// contradicts tells whether a row is for another path than it was.
func contradicts(seen, now []queue.Seen) bool {
	was := make(map[int64]string, len(seen))
	for _, s := range seen {
		was[s.ID] = s.Path
	}
	for _, s := range now {
		if was[s.ID] != s.Path {
			return true
		}
	}
	return false
}
