package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/runner"
)

// maxRecorded is how many entries a daemon's record has: it keeps them in memory. On a day
// on which there are more, it writes several.
const maxRecorded = 50_000

// A recorder puts down in the cache what a daemon adds and uses: in a record for each day,
// which is written again some time after there is more to tell. So little is lost if it is
// killed.
type recorder struct {
	target      *target // to which what happens belongs
	granularity time.Duration
	every       time.Duration // how long to wait for more
	most        int           // entries of a record
	log         *slog.Logger

	news chan struct{} // has a token if there is something to write

	mu   sync.Mutex // guards what is below
	days []*dayUse  // that are not written, the current one last
}

// A dayUse is what a daemon has used on one day, as far as it is in one record.
type dayUse struct {
	record  *bincache.Record
	until   time.Time                // the day's end
	last    time.Time                // when something happened
	added   map[string]time.Duration // how long the build took
	untimed []string                 // of those, of which that was not asked yet
	used    map[string]bool
	bytes   int64
}

func newRecorder(t *target, granularity, every time.Duration, log *slog.Logger) *recorder {
	return &recorder{target: t, granularity: granularity, every: every, most: maxRecorded, log: log, news: make(chan struct{}, 1)}
}

// tell hears what happens.
func (r *recorder) tell(e runner.Event) {
	used := e.Kind == runner.Done || e.Kind == runner.Registered && e.Present
	if !used && e.Kind != runner.Added {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.today(time.Now())
	if _, added := d.added[e.Path]; added {
		return
	}
	if used {
		d.used[e.Path] = true
	} else {
		delete(d.used, e.Path)
		d.added[e.Path], d.untimed = 0, append(d.untimed, e.Path)
		d.bytes += e.FileBytes
	}
	r.ring()
}

// today returns where what happens now is put down. The mutex is held.
func (r *recorder) today(now time.Time) *dayUse {
	if len(r.days) > 0 {
		d := r.days[len(r.days)-1]
		if now.Before(d.until) && len(d.added)+len(d.used) < r.most {
			d.last = now
			return d
		}
	}
	until := now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	d := &dayUse{record: r.target.cache.NewRecord(until), until: until, last: now, added: make(map[string]time.Duration), used: make(map[string]bool)}
	r.days = append(r.days, d)
	return d
}

// keepUntil writes what there is to tell until ctx ends, and then for the last time.
func (r *recorder) keepUntil(ctx context.Context) {
	said := ""
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
		case <-r.news:
		}
		select {
		case <-ctx.Done():
		case <-time.After(r.every):
		}
		ended = ctx.Err() != nil
		err := r.write(context.WithoutCancel(ctx))
		if err == nil {
			said = ""
			continue
		}
		if err.Error() != said {
			said = err.Error()
			r.log.Warn("what was used could not be put down in the cache", "err", err)
		}
		r.ring()
	}
}

// ring says that there is something to write.
func (r *recorder) ring() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// write writes what has come since the last time.
func (r *recorder) write(ctx context.Context) error {
	r.mu.Lock()
	days := slices.Clone(r.days)
	r.mu.Unlock()
	for i, d := range days {
		run, err := r.run(ctx, d)
		if err != nil {
			return err
		}
		if _, err := d.record.Write(run, r.granularity); err != nil {
			return err
		}
		if i < len(days)-1 { // nothing more comes to it
			r.mu.Lock()
			r.days = slices.DeleteFunc(r.days, func(o *dayUse) bool { return o == d })
			r.mu.Unlock()
		}
	}
	return nil
}

// run returns what is to be written of a day.
func (r *recorder) run(ctx context.Context, d *dayUse) (bincache.Run, error) {
	r.mu.Lock()
	untimed := d.untimed
	r.mu.Unlock()
	shares, err := buildShares(ctx, r.target.store, untimed)
	if err != nil {
		return bincache.Run{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(d.added, shares)
	d.untimed = d.untimed[len(untimed):]
	run := bincache.Run{Ended: d.last, Bytes: d.bytes, Used: slices.Sorted(maps.Keys(d.used))}
	for _, path := range slices.Sorted(maps.Keys(d.added)) {
		run.Added = append(run.Added, bincache.RunEntry{Path: path, Build: d.added[path]})
	}
	return run, nil
}
