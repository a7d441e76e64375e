package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var smallRow = row{
	Name:  "small",
	Title: "20,000 paths of one small file each (--quick: 500) to an empty cache, zstd 3",
	Measure: func(ctx context.Context, b *bench) ([]result, error) {
		count := 20_000
		if b.Quick {
			count = 500
		}
		c, err := openSmall(ctx, b.w, count)
		if err != nil {
			return nil, err
		}
		return measureCold(ctx, b, c, b.pick("larder", "nix-sid", "nix-sid-parallel"))
	},
	Goals: []goal{
		{What: "wall against nix 2.34", Limit: 0.50, Is: ratioOf(medianWall, "larder", "nix-sid", "2.34.")},
	},
}

// openSmall returns the corpus of small paths, and makes it first if it is not there
// yet. It lies in the store of the other one, which is mounted already.
func openSmall(ctx context.Context, w *workshop, count int) (*corpus, error) {
	file := fmt.Sprintf("/nix/small-%d.json", count)
	c, err := readCorpus(file)
	if err == nil && c.Format == corpusFormat {
		return c, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	status("making %d small paths", count)
	start := time.Now()
	var registration bytes.Buffer
	c = makeSmall(count, func(path string, text []byte, references []string) {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = writeSmall(path, text)
		}
		nar := narOf(text)
		hash := sha256.Sum256(nar)
		fmt.Fprintf(&registration, "%s\n%s\n%d\n\n%d\n", path, hex.EncodeToString(hash[:]), len(nar), len(references))
		for _, r := range references {
			registration.WriteString(r + "\n")
		}
	})
	if err != nil {
		return nil, fmt.Errorf("make small paths: %w", err)
	}
	if err := registerPaths(ctx, w, &registration); err != nil {
		return nil, err
	}
	status("made them in %.0f s", time.Since(start).Seconds())
	return c, writeCorpus(file, c)
}

// makeSmall hands out paths, references first, with a graph like that of a system's
// configuration: most refer to a few others, and the last one to all of them.
func makeSmall(count int, add func(path string, text []byte, references []string)) *corpus {
	// The same on every machine, and each time.
	random := rand.New(rand.NewPCG(20_000, 1))
	c := &corpus{Format: corpusFormat}
	for i := range count {
		var references []string
		switch {
		case i == count-1:
			for _, e := range c.Entries {
				references = append(references, e.Path)
			}
		case i > 0:
			for range random.IntN(5) {
				// Rather to one of the last thousand than to any.
				references = append(references, c.Entries[max(0, i-1-random.IntN(1000))].Path)
			}
		}
		slices.Sort(references)
		references = slices.Compact(references)
		text := fmt.Appendf(nil, "#!/bin/sh\n# number %d\n", i)
		for _, r := range references {
			text = fmt.Appendf(text, "exec %s \"$@\"\n", r)
		}
		// Text that is neither all the same nor noise.
		for range random.IntN(120) {
			text = fmt.Appendf(text, "option-%d = %x;\n", random.IntN(300), random.Uint32())
		}
		path := smallPath(i, text)
		add(path, text, references)
		c.Entries = append(c.Entries, entry{Path: path, NarSize: int64(len(narOf(text)))})
		c.Root = path
	}
	return c
}

// smallPath names a path. Nix does not compute the hash of one that it is told of.
func smallPath(number int, text []byte) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz" // Nix's base 32
	hash := sha256.Sum256(text)
	var name strings.Builder
	for _, b := range hash {
		name.WriteByte(digits[b%32])
	}
	return filepath.Join("/nix/store", fmt.Sprintf("%s-small-%d", name.String(), number))
}

func writeSmall(path string, text []byte) error {
	// What a killed benchmark left may not be writable, nor whole.
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o444); err != nil {
		return err
	}
	return os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)) // as Nix has them
}

// narOf returns the NAR of a file that can't be executed.
func narOf(text []byte) []byte {
	var nar []byte
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", string(text), ")"} {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(s)))
		nar = append(nar, s...)
		nar = append(nar, make([]byte, -len(s)&7)...)
	}
	return nar
}

// registerPaths tells Nix of paths that are there, in the format of nix-store
// --register-validity with hashes.
func registerPaths(ctx context.Context, w *workshop, registration io.Reader) error {
	register := exec.CommandContext(ctx, "nix-store", "--register-validity", "--hash-given")
	register.Env = env(w.dir)
	register.Stdin = registration
	_, err := measure(register, w)
	return err
}
