package runner

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixstore"
)

func TestSharesAddUpToWhatPeopleWaitedFor(t *testing.T) {
	at := func(begin, end int64) nixstore.BuildTime {
		return nixstore.BuildTime{Begin: time.Unix(begin, 0), End: time.Unix(end, 0)}
	}
	for name, tt := range map[string]struct {
		builds map[string]nixstore.BuildTime
		want   map[string]time.Duration
	}{
		"nothing":        {nil, map[string]time.Duration{}},
		"one":            {map[string]nixstore.BuildTime{"a": at(10, 14)}, map[string]time.Duration{"a": 4 * time.Second}},
		"in no time":     {map[string]nixstore.BuildTime{"a": at(10, 10), "b": at(10, 10)}, map[string]time.Duration{"a": 0, "b": 0}},
		"one by one":     {map[string]nixstore.BuildTime{"a": at(10, 14), "b": at(14, 15)}, map[string]time.Duration{"a": 4 * time.Second, "b": time.Second}},
		"with a pause":   {map[string]nixstore.BuildTime{"a": at(10, 14), "b": at(20, 21)}, map[string]time.Duration{"a": 4 * time.Second, "b": time.Second}},
		"side by side":   {map[string]nixstore.BuildTime{"a": at(10, 14), "b": at(10, 14)}, map[string]time.Duration{"a": 2 * time.Second, "b": 2 * time.Second}},
		"one in another": {map[string]nixstore.BuildTime{"a": at(10, 20), "b": at(14, 16)}, map[string]time.Duration{"a": 9 * time.Second, "b": time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Shares(tt.builds)); diff != "" {
				t.Errorf("shares (-want +got):\n%s", diff)
			}
		})
	}
}
