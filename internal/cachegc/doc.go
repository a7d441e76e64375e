// Package cachegc decides which entries of a binary cache go, and removes them.
package cachegc
