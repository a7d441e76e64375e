package main

import "testing"

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
	mine := result{Contender: "larder", Wall: []float64{5, 1, 2}, RSS: 50 << 20}
	mine.note("NAR files", "MB", 30)
	other := result{Contender: "nix", Version: "2.8.0", Wall: []float64{4, 4, 9}}
	other.note("NAR files", "MB", 20)
	both := []result{mine, other}

	expect := func(g goal, results []result, want string) {
		t.Helper()
		if got := g.judge("row", results).String(); got != want {
			t.Errorf("verdict is %q, want %q", got, want)
		}
	}
	wall := goal{Limit: 0.5, Is: ratioOf(medianWall, "larder", "nix", "2.8.")}
	expect(wall, both, "holds")
	expect(wall, both[:1], "not measured: nix was not run")
	expect(wall, both[1:], "not measured: larder was not run")
	expect(goal{Limit: 0.4, Is: ratioOf(medianWall, "larder", "nix", "")}, both, "MISSED")
	expect(goal{Limit: 9, Is: ratioOf(medianWall, "larder", "nix", "2.34.")}, both, "not measured: this machine has 2.8.0")
	expect(goal{Limit: 9, Is: ratioOf(medianCPU, "larder", "nix", "")}, both, "not measured: larder has no such figure")
	expect(goal{Limit: 1, Is: ratioOf(figureOf("NAR files"), "larder", "nix", "")}, both, "MISSED")
	expect(goal{Limit: 50, Unit: "MiB", Is: valueOf(peakRSS, "larder")}, both, "holds")
}
