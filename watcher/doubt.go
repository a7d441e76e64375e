package watcher

import (
	"context"

	"github.com/nix-larder/larder/queue"
)

// trusted returns the cursor. If there is doubt whether it means anything, it is put
// back to the start first.
func (c *Config) trusted(ctx context.Context) (*queue.Cursor, error) {
	cursor, err := begin(ctx, c.Queue, c.Store)
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(cursor.Seen))
	for i, s := range cursor.Seen {
		ids[i] = s.ID
	}
	rows, err := c.Store.Rows(ctx, ids)
	if err != nil {
		return nil, err
	}
	left := make([]queue.Seen, len(rows))
	for i, row := range rows {
		left[i] = queue.Seen(row)
	}
	doubt := c.doubt(cursor, left)
	if doubt == "" {
		return cursor, nil
	}
	c.Log.Info("comparing store and cache", "reason", doubt)
	back := queue.Cursor{Epoch: c.Epoch}
	if len(left) > 0 && !contradicts(cursor.Seen, left) {
		// Numbers still mean what they did: what was there before the queue still is
		// none of its business.
		back.Last, back.Start = cursor.Start, cursor.Start
		for _, s := range left {
			if s.ID <= cursor.Start {
				back.Seen = append(back.Seen, s)
			}
		}
	}
	return &back, c.Queue.SetCursor(ctx, back)
}

// doubt returns why the cursor is not to be trusted, or "". left are those of the
// rows that the cursor remembers that there are now.
func (c *Config) doubt(cursor *queue.Cursor, left []queue.Seen) string {
	switch {
	case contradicts(cursor.Seen, left):
		return "Nix's database was restored, or lost changes"
	case cursor.Epoch == "":
		return "first look"
	case cursor.Epoch != c.Epoch:
		return "the machine was started anew, or cache or rules are others"
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
