package main

import "testing"

func TestGoBenchmarksAreRead(t *testing.T) {
	results := parseBenchmarks(`goos: linux
pkg: github.com/nix-larder/larder/queue
BenchmarkClaim/rows=1000000-2   	    1000	   1500000 ns/op	 0.75 claim-p99-ms	 12 B/op	 3 allocs/op
BenchmarkClaim is not a result
PASS
ok  	github.com/nix-larder/larder/queue	5.980s
`)
	if len(results) != 1 || results[0].Label != "Claim/rows=1000000" {
		t.Fatalf("results are %+v, want one of Claim/rows=1000000", results)
	}
	for figure, want := range map[string]float64{"ms/op": 1.5, "claim-p99-ms": 0.75, "B/op": 12, "allocs/op": 3} {
		if is, unknown := benchmarkValue("rows=1000000", figure)(results); is != want || unknown != "" {
			t.Errorf("%s is %v %s, want %v", figure, is, unknown, want)
		}
	}
	if _, unknown := benchmarkValue("rows=5", "ms/op")(results); unknown == "" {
		t.Error("a benchmark of another size decides the goal")
	}
}
