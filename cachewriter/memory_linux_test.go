//go:build !race

// The race detector takes more memory than all else.

package cachewriter

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/trouble"
)

func init() { parts["copy and measure"] = copyAndMeasure }

// copyAndMeasure is a child that copies and prints how much memory that took.
func copyAndMeasure(args []string) error {
	if err := copyInChild(args); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(peak, &kib); err != nil {
		return err
	}
	fmt.Println("peak", kib)
	return nil
}

func TestHugeFilePassesInLittleMemory(t *testing.T) {
	for _, tt := range []struct {
		compression string
		size        int64
		hash        string
	}{
		{"zstd:1", 4<<30 + 8, "aa6a8d455acac9325ddb834f752c91a649a98571b39018f9a269214297ce6ad3"},
		{"zstd:3", 256 << 20, "8b49bcce6ece96b56b8654167ecb6652d926d141b18ca996ce7704c50b521a19"},
		{"none", 256 << 20, "8b49bcce6ece96b56b8654167ecb6652d926d141b18ca996ce7704c50b521a19"},
	} {
		t.Run(fmt.Sprintf("%d MiB %s", tt.size>>20, tt.compression), func(t *testing.T) {
			if testing.Short() && tt.size > 1<<30 {
				t.Skip("takes seconds")
			}
			f := newFixture(t)
			huge := f.nix.AddSparse(t, "huge", tt.size, tt.hash)
			child := trouble.Command(t, "copy and measure", f.nix.Dir, f.nix.State, f.dir, tt.compression, huge)
			out, err := child.Output()
			must(t, err)
			var peak int
			_, err = fmt.Sscanf(string(out), "ready\npeak %d", &peak)
			must(t, err)
			t.Logf("peak of %d KiB", peak)
			if peak >= 100<<10 {
				t.Errorf("%d KiB of memory for one file, want less than 100 MiB", peak)
			}
			n, err := f.cache.Entry(huge)
			must(t, err)
			if n.NarSize != tt.size+112 {
				t.Errorf("NAR has %d bytes, want %d", n.NarSize, tt.size+112)
			}
			must(t, os.Remove(filepath.Join(f.dir, n.URL)))
		})
	}
}
