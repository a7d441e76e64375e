package main

import "testing"

func TestAddedTimeIsComparedWithTheBestOfTheOthers(t *testing.T) {
	way := func(key string, seconds float64) result {
		r := result{Contender: key}
		r.note(added, "s", seconds)
		return r
	}
	g := goal{Limit: 0.5, Is: addedRatio("larder")}
	all := []result{way("none", 0), way("larder", 1), way("larder-run", 0.1), way("hook", 9), way("queued", 4), way("copy", 5)}
	for _, test := range []struct {
		results []result
		is      float64
		want    string
	}{
		{all, 0.25, "holds"},
		{all[:4], 1.0 / 9, "holds"},
		{all[:3], 0, "not measured: the others have nothing to compare with"},
		{all[2:], 0, "not measured: larder was not run"},
		{[]result{way("larder", 3), all[4]}, 0.75, "MISSED"},
	} {
		v := g.judge("job", test.results)
		if v.Is != test.is || v.String() != test.want {
			t.Errorf("verdict is %v, %q, want %v, %q", v.Is, v, test.is, test.want)
		}
	}
}
