package main

import (
	"strings"
	"testing"
)

func TestMedianIsTheMiddle(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 9, 2}, 3},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
	}
}

func TestGoalsAreJudgedOnlyByWhatWasMeasured(t *testing.T) {
	results := []result{
		{Row: "cold", Contender: "larder-1", Wall: []float64{5, 1, 2}},
		{Row: "cold", Contender: "nix-host", Version: "2.8.0", Wall: []float64{2, 2, 2}},
		{Row: "hook", Contender: "larder", Wall: []float64{51}},
		{Row: "hook", Contender: "true", Wall: []float64{10}},
	}
	expect := func(results []result, cold, hook string) {
		t.Helper()
		for i, want := range []string{cold, hook} {
			if got := judge(results)[i].String(); !strings.HasSuffix(got, want) {
				t.Errorf("verdict is %q, want %q at its end", got, want)
			}
		}
	}
	expect(results, "is 1.00: holds", "is 5.10: MISSED")
	expect(results[1:3], "times: not measured", "times: not measured")
	results[1].Version = "2.18.1"
	expect(results[:2], "times: not measured", "times: not measured")
}
