package cachegc

import (
	"testing"
	"time"
)

// Who adds an entry may find what it needs, and then both a collection and its look at what
// is new are over before the entry is there.
func TestWhatWasRemovedBehindWhoAddsComesBackOrTakesThatAlong(t *testing.T) {
	for _, tt := range []struct {
		grace     time.Duration
		elsewhere bool
		want      int // files
	}{
		{time.Hour, false, 4},
		{0, false, 1}, // the NAR of what is withdrawn waits for the next collection
		{0, true, 2},
	} {
		c := newCache(t)
		lib := add(t, c, "b", 1000)
		collect(t, c, Options{Policy: Policy{MaxSize: 1}, Grace: tt.grace})
		add(t, c, "a", 1000, "b")
		must(t, Complete(t.Context(), c, []string{lib.StorePath}, tt.elsewhere))
		if left := files(t, c); len(left) != tt.want {
			t.Errorf("after a collection with grace %v, %q are left, want %d", tt.grace, left, tt.want)
		}
	}
}
