package cachecheck

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/trouble"
)

// parts are what children of these tests do.
var parts = map[string]func(args []string) error{
	"die behind a copy":       dieBehindACopy,
	"die before a withdrawal": dieBeforeAWithdrawal,
}

// inChild makes a mender of a trial whose directories are given, and mends.
func inChild(args []string, set func(r *trial)) error {
	store, err := nixstore.Open(nixstore.Dirs{Store: args[0], State: args[1]}, 10*time.Second)
	if err != nil {
		return err
	}
	cache, err := bincache.Open(args[2], "")
	if err != nil {
		return err
	}
	r := &trial{site: &site{store: store}, cache: cache, compression: "zstd", mender: Mender{Cache: cache, Closed: true}}
	r.mender.Store = r
	set(r)
	c := Checker{Cache: cache, Contents: true}
	report, err := c.Check(context.Background())
	if err != nil {
		return err
	}
	_, err = r.mender.Mend(context.Background(), report.Problems)
	return err
}

func die() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) } // (ignored) nobody is there to hear it

// dieBehindACopy writes the first of what it should, and dies.
func dieBehindACopy(args []string) error {
	return inChild(args, func(r *trial) {
		r.fault = func(paths []string) error {
			if len(paths) == 1 {
				return nil
			}
			r.fault = nil
			_ = r.Copy(context.Background(), paths[:1], r.anew(paths)) // (ignored) it shows
			die()
			return nil
		}
	})
}

func (r *trial) anew(paths []string) map[string]bool {
	anew := make(map[string]bool)
	for _, p := range paths {
		anew[bincache.HashPart(p)] = true
	}
	return anew
}

// dieBeforeAWithdrawal dies with the cache's lock held.
func dieBeforeAWithdrawal(args []string) error {
	return inChild(args, func(r *trial) {
		r.mender.Store = nil
		r.mender.Upstream = func([]string) bool { die(); return false }
	})
}

func TestKilledRepairGoesOnWhenItIsCalledAgain(t *testing.T) {
	s := newSite(t)
	for _, part := range []string{"die behind a copy", "die before a withdrawal"} {
		r := s.trial(t)
		for _, name := range []string{"left", "right", "source"} {
			spoil(t, r.narFile(t, name))
		}
		must(t, os.Remove(r.narFile(t, "base")))
		err := trouble.Command(t, part, s.nix.Dir, s.nix.State, r.dir).Run()
		if err == nil || err.Error() != "signal: killed" {
			t.Fatalf("%s: %v", part, err)
		}
		left := r.check(t).Problems
		if want := map[bool]int{true: 5, false: 1}[part == "die before a withdrawal"]; len(left) < want || len(left) > 5 {
			t.Errorf("%s: problems left are %s", part, show(left))
		}
		r.mend(t)
		r.isWell(t)
	}
}
