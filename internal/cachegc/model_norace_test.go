//go:build !race

package cachegc

// manySequences are those of `make test`.
const manySequences = 10_000
