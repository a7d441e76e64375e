package watcher

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func init() {
	parts["look for ever"] = lookForEver
	parts["run without inotify"] = runWithoutInotify
}

// child returns a process that has the same store, queue and roots.
func (r *rig) child(part string) *exec.Cmd {
	r.t.Helper()
	return trouble.Command(r.t, part, r.nix.Dir, r.nix.State, r.Queue.File())
}

// childConfig is what a child makes of its arguments.
func childConfig(ctx context.Context, args []string) (Config, error) {
	store, err := nixstore.Open(nixstore.Dirs{Store: args[0], State: args[1]}, 10*time.Second)
	if err != nil {
		return Config{}, err
	}
	q, err := queue.Open(ctx, args[2])
	if err != nil {
		return Config{}, err
	}
	return Config{
		Queue: q, Store: store, Epoch: "one", Rules: rules.Default(),
		Roots:   gcroot.Join(gcroot.Open(args[1], q.Identity().ID), gcroot.OpenLinks(args[2]+"-roots")),
		Present: absent,
		Log:     slog.New(slog.DiscardHandler),
	}, nil
}

// lookForEver makes one look after the other, until its standard input ends or it is
// killed.
func lookForEver(args []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	c, err := childConfig(ctx, args)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for ctx.Err() == nil {
		if _, err := Look(ctx, c); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// A looker is a child that looks for ever.
type looker struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// startLooker returns when the child looks.
func (r *rig) startLooker() *looker {
	r.t.Helper()
	cmd := r.child("look for ever")
	stdin, err := cmd.StdinPipe()
	must(r.t, err)
	stdout, err := cmd.StdoutPipe()
	must(r.t, err)
	must(r.t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		r.t.Fatalf("child says %q, %v", line, err)
	}
	return &looker{cmd, stdin}
}

// storm registers some hundreds of paths, a commit each, and returns them.
func (r *rig) storm(count int) <-chan []string {
	r.t.Helper()
	paths := make(chan []string)
	go func() {
		defer close(paths)
		top := r.nix.AddTexts(r.t, "storm", count)
		paths <- r.nix.Lines(r.t, "nix-store", "-qR", top)
	}()
	return paths
}

// workUntil does jobs all along while something goes on, and returns their paths.
func (r *rig) workUntil(done <-chan []string) (did, all []string) {
	for {
		did = append(did, r.work()...)
		select {
		case all = <-done:
			return did, all
		case <-time.After(time.Millisecond):
		}
	}
}

// wantOnce reports which of the paths were not jobs exactly once.
func wantOnce(t *testing.T, want, did []string) {
	t.Helper()
	want, did = slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(did))
	if diff := cmp.Diff(want, did); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
}

// TestKilledWatcherLosesNothing kills watchers wherever they are, while a worker does
// what they find.
func TestKilledWatcherLosesNothing(t *testing.T) {
	r := newRigWith(t, nixtest.New(t, "fsync-metadata = false"))
	r.begin()
	r.look()
	storm := r.storm(600)
	kills := 0
	stormy := make(chan []string)
	go func() {
		defer close(stormy)
		var all []string
		for all == nil || kills < 3 { // on a fast machine the storm is over before that
			l := r.startLooker()
			select {
			case all = <-storm:
				storm = nil
			case <-time.After(rand.N(100 * time.Millisecond)): // not to wait for anything: to hit anything
			}
			if err := l.cmd.Process.Kill(); err != nil {
				t.Errorf("the child had ended: %v", err)
			}
			_ = l.cmd.Wait()
			kills++
		}
		stormy <- all
	}()
	did, all := r.workUntil(stormy)
	t.Logf("killed %d times, after %d jobs", kills, len(did))
	r.look()
	did = append(did, r.work()...)
	wantOnce(t, all, did)
	if roots := r.roots(); len(roots) > 0 {
		t.Errorf("%d roots are left without jobs", len(roots))
	}
	if len(all) != 600 {
		t.Errorf("%d paths do not make a test", len(all))
	}
}

// TestSeveralWatchersDoEverythingOnce has several look at the same time, while a
// worker does what they find. (Roots may be left: the slower ones of a batch make
// them again when the job is done. The worker adopts them.)
func TestSeveralWatchersDoEverythingOnce(t *testing.T) {
	r := newRigWith(t, nixtest.New(t, "fsync-metadata = false"))
	r.begin()
	r.look()
	var lookers []*looker
	for range 3 {
		lookers = append(lookers, r.startLooker())
	}
	did, all := r.workUntil(r.storm(400))
	for _, l := range lookers {
		must(t, l.stdin.Close())
		must(t, l.cmd.Wait())
	}
	r.look()
	did = append(did, r.work()...)
	wantOnce(t, all, did)
}

// runWithoutInotify is a child whose user has used up all inotify instances.
func runWithoutInotify(args []string) error {
	if err := trouble.Deny(syscall.SYS_INOTIFY_INIT1, syscall.EMFILE); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := childConfig(ctx, args)
	if err != nil {
		return err
	}
	var log bytes.Buffer
	found := false
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	c.Poll = 10 * time.Millisecond
	c.Present = func(_ context.Context, paths []string) []bool { found = true; cancel(); return absent(ctx, paths) }
	fmt.Println("ready")
	if err := Run(ctx, c); !found || !errors.Is(err, context.Canceled) {
		return fmt.Errorf("nothing was found: %v", err)
	}
	if !strings.Contains(log.String(), "only by the clock") {
		return fmt.Errorf("nobody was told:\n%s", &log)
	}
	return nil
}

func TestWithoutInotifyTheClockWillDo(t *testing.T) {
	r := newRig(t)
	r.begin()
	cmd := r.child("run without inotify")
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	trouble.Eventually(t, "it has looked", func() bool { return r.cursor().Epoch != "" })
	r.add("path")
	must(t, cmd.Wait())
}
