package bincache

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lastUse is Graph.LastUse by names.
func lastUse(references map[string][]string, used map[string]time.Time) map[string]time.Time {
	g := NewGraph()
	for name, refs := range references {
		g.Add(name, refs)
	}
	last := make(map[string]time.Time)
	for id, at := range g.LastUse(used) {
		if !at.IsZero() {
			last[g.Name(int32(id))] = at
		}
	}
	return last
}

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
			if diff := cmp.Diff(tt.want, lastUse(references, tt.used)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLastUseGoesThroughLongChains has 200,000 entries, each of which needs later ones:
// a look at every pair would not come back.
func TestLastUseGoesThroughLongChains(t *testing.T) {
	const count = 200_000
	names := make([]string, 2*count)
	for i := range names {
		names[i] = fmt.Sprint(min(i, count-1))
	}
	references, used := make(map[string][]string, count), make(map[string]time.Time, count)
	for i, name := range names[:count] {
		references[name] = []string{names[i+1], names[i+2], names[i*2]}
		used[name] = noon.Add(-time.Duration(i) * time.Second)
	}
	for name, last := range lastUse(references, used) {
		if !last.Equal(noon) {
			t.Fatalf("last use of %s is %v, want %v", name, last, noon)
		}
		delete(references, name)
	}
	if len(references) > 0 {
		t.Errorf("%d entries have no last use", len(references))
	}
}
