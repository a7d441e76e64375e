package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/queue"
)

// minFreeFlag is for all who add to a cache.
func minFreeFlag() cli.Flag {
	return &cli.StringFlag{Name: "min-free", EnvVars: []string{"LARDER_MIN_FREE"}, DefaultText: "the queue's, else 0", Usage: "add nothing to the cache that would leave less than `SIZE` free on its disk, such as 10GiB: a worker waits until there is room, and who runs in the foreground stops"}
}

// maxQueueFlag is for the queue's settings.
func maxQueueFlag() cli.Flag {
	return &cli.StringFlag{Name: "max-queue", DefaultText: "0", Usage: "queue no more than `N` jobs at a time, besides those of the hook: what else comes into the store is queued when there is room, if it is still there; 0 for any number"}
}

// setBounds changes settings as the command line says.
func setBounds(c *cli.Context, s *queue.Settings) error {
	if text := c.String("min-free"); text != "" { // an empty variable is none
		size, err := humanize.ParseBytes(text)
		if err != nil || int64(size) < 0 {
			return usageError(fmt.Sprintf("--min-free is %q, want a size", text), "for example --min-free 10GiB; 0 for none")
		}
		s.MinFree = setBound(int64(size))
	}
	if c.IsSet("max-queue") {
		n, err := strconv.ParseInt(c.String("max-queue"), 10, 64)
		if err != nil || n < 0 {
			return usageError(fmt.Sprintf("--max-queue is %q, want a number of jobs", c.String("max-queue")), "for example --max-queue 100000; 0 for any number")
		}
		s.MaxQueue = setBound(n)
	}
	return nil
}

// setBound returns a bound as it is remembered: one that is none is as if it never was set.
func setBound(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// givenBounds returns the bounds of the command line or the settings.
func givenBounds(c *cli.Context, s queue.Settings) (queue.Bounds, error) {
	if err := setBounds(c, &s); err != nil {
		return queue.Bounds{}, err
	}
	return s.Bounds()
}

// A space is what is free on the disk of a queue's cache, for those who tell of it.
type space struct {
	FreeBytes *int64 `json:"free_bytes"`         // null if there is no cache, or nobody knows
	MinFree   int64  `json:"min_free,omitempty"` // of those are to stay free
	MaxQueue  int64  `json:"max_queue,omitempty"`
	Paused    string `json:"paused,omitempty"` // why workers wait
}

// spaceOf looks at the disk of the queue's cache.
func spaceOf(s queue.Settings) (r space, err error) {
	b, err := s.Bounds()
	if err != nil || s.Cache == "" {
		return r, err
	}
	r.MinFree, r.MaxQueue = b.MinFree, b.MaxQueue
	dir, err := parseCache(s.Cache)
	if err != nil {
		return r, err
	}
	free, known, err := bincache.FreeSpace(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || err == nil && !known {
		return r, nil // (ignored) who writes there says so
	}
	if err != nil {
		return r, err
	}
	r.FreeBytes = &free
	if free < b.MinFree {
		r.Paused = bincache.RoomText(free, b.MinFree)
	}
	return r, nil
}

// text returns what to say of it.
func (s space) text() string {
	if s.Paused != "" {
		return fmt.Sprintf("paused   %s: nothing is copied until there is room\n", s.Paused)
	}
	if s.FreeBytes != nil && s.MinFree > 0 {
		return fmt.Sprintf("free     %s\n", bincache.RoomText(*s.FreeBytes, s.MinFree))
	}
	return ""
}

// bound returns what to say of the queue's bound behind the number of jobs that wait.
func (s space) bound() string {
	if s.MaxQueue == 0 {
		return ""
	}
	return fmt.Sprintf(" (at most %d, and those of the hook)", s.MaxQueue)
}
