package main

import "testing"

func TestGoBenchmarksAreRead(t *testing.T) {
	results := parseBenchmarks(`goos: linux
pkg: github.com/nix-larder/larder/queue
BenchmarkQueue/1000000_rows/claim-2   	    1000	   1500000 ns/op	 750.0 p99-µs	 12 B/op	 3 allocs/op
BenchmarkClaim is not a result
PASS
ok  	github.com/nix-larder/larder/queue	5.980s
`)
	if len(results) != 1 || results[0].Label != "Queue/1000000_rows/claim" {
		t.Fatalf("results are %+v, want one of Queue/1000000_rows/claim", results)
	}
	for figure, want := range map[string]float64{"ms/op": 1.5, "p99-ms": 0.75, "B/op": 12, "allocs/op": 3} {
		if is, unknown := benchmarkValue("1000000_rows/claim", figure)(results); is != want || unknown != "" {
			t.Errorf("%s is %v %s, want %v", figure, is, unknown, want)
		}
	}
	if _, unknown := benchmarkValue("5_rows/claim", "ms/op")(results); unknown == "" {
		t.Error("a benchmark of another size decides the goal")
	}
}
