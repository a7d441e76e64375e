package bincache

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/trouble"
)

func init() { parts["resign without fsync"] = resignWithoutFsync }

// resignWithoutFsync is a child on a disk that can't make anything durable.
func resignWithoutFsync(args []string) error {
	if err := trouble.Deny(syscall.SYS_FSYNC, syscall.EIO); err != nil {
		return err
	}
	if err := resignInChild(args); !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("resign without fsync: %v, want %v", err, syscall.EIO)
	}
	return nil
}

func TestNoNarInfoIsReplacedByOneThatIsNotDurable(t *testing.T) {
	old := newKey(t, "old-1")
	c, _ := manyEntries(t, 20, old)
	before := snapshot(t, c.Path())
	must(t, trouble.Command(t, "resign without fsync", c.Path(), newKey(t, "new-1").String()).Run())
	if diff := cmp.Diff(before, snapshot(t, c.Path())); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}
