package bincache

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLastUseIsOfTheNewestRunThatNeedsAnEntry(t *testing.T) {
	references := map[string][]string{
		"app":    {"app", "lib", "data"},
		"tool":   {"lib"},
		"lib":    {"libc", "gone"},
		"libc":   nil,
		"data":   nil,
		"unused": {"libc"},
		"left":   {"right"},
		"right":  {"left"},
	}
	at := func(hour int) time.Time { return noon.Add(time.Duration(hour) * time.Hour) }
	for name, tt := range map[string]struct{ used, want map[string]time.Time }{
		"nothing": {nil, map[string]time.Time{}},
		"what needs it was used later": {
			map[string]time.Time{"libc": at(1), "tool": at(2), "app": at(3)},
			map[string]time.Time{"app": at(3), "lib": at(3), "libc": at(3), "data": at(3), "tool": at(2)},
		},
		"itself was used later": {
			map[string]time.Time{"app": at(1), "lib": at(2)},
			map[string]time.Time{"app": at(1), "data": at(1), "lib": at(2), "libc": at(2)},
		},
		"in a circle":              {map[string]time.Time{"right": at(1)}, map[string]time.Time{"left": at(1), "right": at(1)}},
		"what was used is no more": {map[string]time.Time{"gone": at(2), "data": at(1)}, map[string]time.Time{"data": at(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, LastUse(references, tt.used)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLastUseGoesThroughLongChains has 200,000 entries, each of which needs the next
// ones; a recursion, or a look at every pair, would not come back.
func TestLastUseGoesThroughLongChains(t *testing.T) {
	const count = 200_000
	references, used := make(map[string][]string, count), make(map[string]time.Time, count)
	name := func(i int) string { return fmt.Sprint(min(i, count-1)) }
	for i := range count {
		references[name(i)] = []string{name(i + 1), name(i + 2), name(i * 2)}
		used[name(i)] = noon.Add(-time.Duration(i) * time.Second)
	}
	start := time.Now()
	last := LastUse(references, used)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	for i := range count {
		if !last[name(i)].Equal(noon) {
			t.Fatalf("last use of %s is %v, want %v", name(i), last[name(i)], noon)
		}
	}
}
