package runner

import (
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/nixstore"
)

// Shares divides the time in which something was built among what was built in it: of
// each moment, every build that was under way has the same part. So the shares add up
// to what people waited for, whether builds ran side by side, or only seemed to because
// they waited for each other.
func Shares(builds map[string]nixstore.BuildTime) map[string]time.Duration {
	type event struct {
		at    time.Time
		under int // how many more are under way
	}
	var events []event
	for _, b := range builds {
		events = append(events, event{b.Begin, 1}, event{b.End, -1})
	}
	slices.SortFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	// parts tells for each moment how much somebody has who was there from the beginning.
	parts := make(map[time.Time]time.Duration)
	var part time.Duration
	under := 0
	for i, e := range events {
		if under > 0 {
			part += e.at.Sub(events[i-1].at) / time.Duration(under)
		}
		parts[e.at] = part
		under += e.under
	}
	shares := make(map[string]time.Duration, len(builds))
	for path, b := range builds {
		shares[path] = parts[b.End] - parts[b.Begin]
	}
	return shares
}
