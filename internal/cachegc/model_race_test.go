//go:build race

package cachegc

// manySequences are fewer with the race detector: it takes four times as long, and what it
// looks for is found as soon.
const manySequences = 1_000
