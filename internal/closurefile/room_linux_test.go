package closurefile

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestImportLeavesTheReserveFree(t *testing.T) {
	disk := trouble.Tmpfs(t, "4m")
	c, err := bincache.Create(filepath.Join(disk, "cache"), storeDir, bincache.Options{})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	first := thing{name: "first"}
	second := thing{name: "second", refs: []string{"first"}, text: string(make([]byte, 3<<20))}
	s := stream(first, second)
	c.Reserve(2 << 20)
	r, err := imports(t, c, s)
	if !errors.Is(err, bincache.ErrNoRoom) || r.Paths != 1 || r.Added != 1 {
		t.Errorf("import: %+v, %v", r, err)
	}
	has(t, c, "first")
	nothingUnfinished(t, c)
	must(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	if r, err := imports(t, c, s); err != nil || r.Added != 1 {
		t.Errorf("with room: %+v, %v", r, err)
	}
	has(t, c, "first", "second")
}
