package queue

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// bounded bounds a queue.
func bounded(t *testing.T, q *Queue, most string) {
	t.Helper()
	s, err := q.Settings(t.Context())
	must(t, err)
	s.MaxQueue = most
	must(t, q.SetSettings(t.Context(), s))
}

func TestRoomIsWhatTheBoundLeaves(t *testing.T) {
	q := newQueue(t)
	room := func(when string, want int64) {
		t.Helper()
		got, err := q.Room(t.Context())
		must(t, err)
		if got != want {
			t.Errorf("%s: room for %d, want %d", when, got, want)
		}
	}
	room("without a bound", math.MaxInt64)
	bounded(t, q, "0")
	room("with none", math.MaxInt64)
	bounded(t, q, "3")
	room("empty", 3)
	must(t, q.Add(t.Context(), "", path("1"), path("2")))
	room("with two", 1)
	job, err := q.Claim(t.Context())
	must(t, err)
	room("with one of them claimed", 1)
	must(t, q.Bury(t.Context(), job, os.ErrInvalid))
	room("with a dead letter, which is in nobody's way", 2)
	// Hooks have no list of what there is to do: their word would be lost.
	hook, err := OpenForHook(q.File(), time.Minute)
	must(t, err)
	for n := range 5 {
		must(t, hook.Add("", path(fmt.Sprint("hook-", n))))
	}
	must(t, hook.Close())
	room("with more than the bound", 0)
	bounded(t, q, "100")
	room("with another bound", 94)
	bounded(t, q, "many")
	if _, err := q.Room(t.Context()); err == nil || !strings.Contains(err.Error(), `setting max_queue is "many"`) {
		t.Errorf("with a bound that is none: %v", err)
	}
}

func TestBoundsAreNumbers(t *testing.T) {
	b, err := Settings{MinFree: "1024", MaxQueue: "7"}.Bounds()
	must(t, err)
	if b != (Bounds{1024, 7}) {
		t.Errorf("bounds are %+v", b)
	}
	for _, s := range []Settings{{MinFree: "1GB"}, {MinFree: "-1"}, {MaxQueue: "x"}, {MaxQueue: "99999999999999999999"}} {
		if b, err := s.Bounds(); err == nil {
			t.Errorf("%+v has bounds %+v", s, b)
		}
	}
}
