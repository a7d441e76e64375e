package bincache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNarsThatAreGoneAreForgotten has a cache remember NARs, most of which are gone, and lines of
// another release.
func TestNarsThatAreGoneAreForgotten(t *testing.T) {
	for _, tt := range []struct{ there, gone, want int }{
		{3, forgetAtLeast, 3},
		{3, forgetAtLeast - 1, 3 + forgetAtLeast - 1},
		{forgetAtLeast, forgetAtLeast, 2 * forgetAtLeast},
	} {
		c := newCache(t)
		var urls []string
		for i := range tt.there + tt.gone {
			url := fmt.Sprintf("nar/%d.nar.zst", i)
			urls = append(urls, url)
			if i < tt.there {
				must(t, os.WriteFile(filepath.Join(c.Path(), url), nil, 0o644))
			}
		}
		must(t, c.KeepNars(t.Context(), urls, "zstd:19"))
		file := filepath.Join(c.Path(), recompressedFile.name)
		text, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, append(text, "else nar/x\n"...), 0o644))
		must(t, c.ForgetTried(t.Context()))
		tried, err := c.Tried()
		must(t, err)
		if len(tried) != tt.want || tried[urls[0]] != "zstd:19" {
			t.Errorf("%+v: %d are remembered", tt, len(tried))
		}
		if text, err = os.ReadFile(file); err != nil || !strings.HasSuffix(string(text), "else nar/x\n") {
			t.Errorf("%+v: what another release has put down is gone, %v", tt, err)
		}
	}
}
