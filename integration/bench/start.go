package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var startRow = row{
	Name:    "start",
	Title:   "larder daemon, from its start until it is ready",
	Measure: measureStart,
	Goals: []goal{
		{What: "with a cache of 200,000 entries", Limit: 1, Unit: "s", Is: valueOf(medianWall, "200000")},
	},
}

// measureStart measures how long a daemon needs until it is ready, with a cache that
// has nothing and with one that has much.
func measureStart(ctx context.Context, b *bench) ([]result, error) {
	if !b.hasLarder() {
		return nil, nil
	}
	many := 200_000
	if b.Quick {
		many = 20_000
	}
	var queues []string
	var results []result
	for _, count := range []int{0, many} {
		cache, err := openEntries(ctx, b, count)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprint(count)
		queue, err := makeQueue(ctx, b, "start-"+name, cache)
		if err != nil {
			return nil, err
		}
		queues = append(queues, queue)
		results = append(results, newResult(contender{Key: name, Label: name + " entries"}))
	}
	defer os.RemoveAll("/nix/var/nix/gcroots/larder") // as for the row hook
	for n := range b.Runs + 1 {
		for i, queue := range queues {
			s, err := startOnce(ctx, b, queue)
			if err != nil {
				return nil, err
			}
			if n > 0 { // the first is the warm-up
				results[i].add(s)
			}
		}
	}
	return results, nil
}

// startOnce starts a daemon, and ends it when it is ready.
func startOnce(ctx context.Context, b *bench, queue string) (sample, error) {
	start := time.Now()
	daemon, end, err := startDaemon(ctx, b, queue)
	if err != nil {
		return sample{}, err
	}
	defer end()
	s := sample{Wall: time.Since(start)}
	u, err := readUsage(daemon.Pid)
	s.CPU, s.RSS = u.cpu, u.peak
	return s, err
}

// openEntries returns a cache with so many entries, and makes it first if it is not
// there yet. They refer to nothing, and share a few NARs: what counts is how many
// files there are.
func openEntries(ctx context.Context, b *bench, count int) (dir string, err error) {
	dir = filepath.Join(b.Dir, fmt.Sprintf("cache-%d", count))
	last := filepath.Join(dir, "nix-cache-info") // without it a directory is no cache
	if _, err := os.Stat(last); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	status("making a cache of %d entries, once (%s)", count, dir)
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("remove old cache: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "nar"), 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	var nar string
	for i := range count {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		file := filepath.Join(dir, narInfoURL(i))
		if i%10_000 == 0 { // file systems allow some ten thousand names of a file
			nar = file
			err = os.WriteFile(file, []byte("nar"), 0o644)
		} else {
			err = os.Link(nar, file)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, base32(i, 32)+".narinfo"), []byte(narInfo(i)), 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("make cache: %w", err)
		}
	}
	if err := os.WriteFile(last, []byte("StoreDir: /nix/store\n"), 0o644); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	return dir, nil
}

func narInfoURL(i int) string { return "nar/" + hash256(i) + ".nar" }

func narInfo(i int) string {
	return fmt.Sprintf(`StorePath: /nix/store/%s-a-package-1.2.%d
URL: %s
Compression: none
FileHash: sha256:%s
FileSize: 3
NarHash: sha256:%s
NarSize: 3
References: 
`, base32(i, 32), i, narInfoURL(i), hash256(i), hash256(i))
}

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
