// Package cachetest makes large caches for benchmarks. It knows Nix's format, and nothing
// of the code that is measured.
package cachetest

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Fill adds the entries with the numbers from 0 to count-1 to a cache. Their NARs are links
// to a few files.
func Fill(ctx context.Context, dir string, count int) error {
	if err := os.MkdirAll(filepath.Join(dir, "nar"), 0o755); err != nil {
		return err
	}
	var first string
	for i := range count {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		nar := filepath.Join(dir, url(i))
		var err error
		if i%10_000 == 0 { // file systems allow some ten thousand names of a file
			first = nar
			err = os.WriteFile(nar, []byte("nar"), 0o644)
		} else {
			err = os.Link(first, nar)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, base32(i, 32)+".narinfo"), []byte(NarInfo(i)), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Path returns the store path of an entry.
func Path(i int) string { return fmt.Sprintf("/nix/store/%s-a-package-of-1.2.%d", base32(i, 32), i) }

// NarInfo returns the narinfo of an entry, as most are: with up to eight references, to
// entries before it, and a signature, which is none.
func NarInfo(i int) string {
	var references []string
	for j := 1; j <= min(8, i); j++ {
		references = append(references, path.Base(Path(i*j/9)))
	}
	slices.Sort(references)
	references = slices.Compact(references)
	return fmt.Sprintf(`StorePath: %s
URL: %s
Compression: none
FileHash: sha256:%s
FileSize: 3
NarHash: sha256:%[3]s
NarSize: 3
References: %s
Deriver: %s.drv
Sig: cache.example.org-1:%s==
`, Path(i), url(i), hash256(i), strings.Join(references, " "), path.Base(Path(i)), strings.Repeat("A", 86))
}

func url(i int) string { return "nar/" + hash256(i) + ".nar" }

// hash256 looks like a SHA-256: of the 260 bits of its digits the first four are zeros.
func hash256(i int) string { return "1" + base32(i, 51) }

// base32 returns a number in Nix's base 32, spread over the alphabet as hashes are.
func base32(i, digits int) string {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	var s strings.Builder
	for state := uint64(i)*0x9e3779b97f4a7c15 + 1; s.Len() < digits; state = state*6364136223846793005 + 1 {
		s.WriteByte(alphabet[state>>59])
	}
	return s.String()
}
