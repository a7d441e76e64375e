package watcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bell"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

// settled waits until Run makes no more looks: none shows in a queue whose epoch is
// another one, which every look would see to.
func (r *rig) settled() {
	r.t.Helper()
	trouble.Eventually(r.t, "no look is made any more", func() bool {
		cursor := r.cursor()
		nobodys := *cursor
		nobodys.Epoch = "nobody's"
		err := r.Queue.SetCursor(context.Background(), cursor, nobodys)
		if errors.Is(err, queue.ErrMoved) {
			return false
		}
		must(r.t, err)
		// To see that nothing happens takes time.
		for begin := time.Now(); time.Since(begin) < 10*gather; time.Sleep(gather) {
			if r.cursor().Epoch != "nobody's" {
				return false
			}
		}
		return true
	})
}

// TestRegistrationIsQueuedAtOnce has a watcher that would look by itself in an hour.
func TestRegistrationIsQueuedAtOnce(t *testing.T) {
	r := newRig(t)
	run := r.start()
	trouble.Eventually(t, "it has begun", func() bool { return r.cursor() != nil && r.cursor().Epoch != "" })
	for n := range 5 {
		var path string
		if n%2 == 0 {
			path = r.add(fmt.Sprint("added-", n))
		} else {
			path = r.nix.Build(t, fmt.Sprintf(`build "built-%d" "echo built > $out" { }`, n))[0]
		}
		trouble.Eventually(t, "it is a job", func() bool { return r.hasJob(path) })
	}
	if err := run.stop(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v, want context.Canceled", err)
	}
}

// TestWhatHappenedMeanwhileIsQueuedAtTheStart has nothing ring the bell.
func TestWhatHappenedMeanwhileIsQueuedAtTheStart(t *testing.T) {
	r := newRig(t)
	r.begin()
	path := r.add("meanwhile")
	r.start()
	trouble.Eventually(t, "it is a job", func() bool { return r.hasJob(path) })
}

// TestIdleWatcherIsIdle asserts that a look does not lead to the next one, and that
// nothing keeps Nix from tidying up.
func TestIdleWatcherIsIdle(t *testing.T) {
	r := newRig(t)
	r.start()
	trouble.Eventually(t, "it has begun", func() bool { return r.cursor() != nil && r.cursor().Epoch != "" })
	path := r.add("path")
	trouble.Eventually(t, "it is a job", func() bool { return r.hasJob(path) })
	r.settled()

	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("no /proc")
	}
	trouble.Eventually(t, "the database is closed", func() bool { return r.openFiles() == 0 })
}

// TestLookDoesNotRingTheBell has the files that a reader makes beside Nix's database,
// and those that are there already.
func TestLookDoesNotRingTheBell(t *testing.T) {
	r := newRig(t)
	r.begin()
	path := r.add("path")
	must(t, r.Store.Close())
	r.reopen()
	rings, stop := bell.Listen(r.Store.DatabaseFile(), r.Log)
	defer stop()
	for range 2 {
		r.look()
		must(t, r.Store.Close())
		r.reopen()
	}
	r.want("jobs", path)
	select {
	case <-rings:
		t.Error("it rings")
	case <-time.After(100 * time.Millisecond): // to see that nothing happens takes time
	}
	r.add("other")
	trouble.Eventually(t, "it rings for Nix", func() bool { return len(rings) > 0 })
}

// openFiles returns how many descriptors this process has on Nix's database.
func (r *rig) openFiles() (n int) {
	r.t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	must(r.t, err)
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, filepath.Dir(r.Store.DatabaseFile())+"/") {
			n++
		}
	}
	return n
}

// TestUnreadableDatabaseIsSatOut has trouble for many looks.
func TestUnreadableDatabaseIsSatOut(t *testing.T) {
	for name, fault := range map[string]struct {
		begin, end func(r *rig) error
	}{
		"it is gone": {
			func(r *rig) error { return os.Rename(r.Store.DatabaseFile(), r.Store.DatabaseFile()+"-away") },
			func(r *rig) error { return os.Rename(r.Store.DatabaseFile()+"-away", r.Store.DatabaseFile()) },
		},
		"it has another schema": {
			func(r *rig) error { return r.writeSchema("11") },
			func(r *rig) error { return r.writeSchema("10") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.begin()
			before := r.add("before")
			r.reopen()
			must(t, fault.begin(r))
			r.Poll = time.Millisecond
			run := r.start()
			const said = "could not be looked at"
			trouble.Eventually(t, "somebody is told", func() bool { return strings.Contains(r.log.String(), said) })
			// It is looked at many times meanwhile; that it is said once shows at the end.
			for begin := time.Now(); time.Since(begin) < 100*r.Poll; time.Sleep(r.Poll) {
			}
			must(t, fault.end(r))
			after := r.add("after")
			trouble.Eventually(t, "all is queued", func() bool { return r.hasJob(before) && r.hasJob(after) })
			if n := strings.Count(r.log.String(), said); n != 1 {
				t.Errorf("said %d times, want once", n)
			}
			_ = run.stop(t)
			r.want("jobs", before, after)
		})
	}
}

func (r *rig) writeSchema(version string) error {
	file := filepath.Join(filepath.Dir(r.Store.DatabaseFile()), "schema")
	// At once, or somebody reads half of it.
	return errors.Join(os.WriteFile(file+".new", []byte(version), 0o644), os.Rename(file+".new", file))
}

// TestBurstIsQueuedOnce has thousands of registrations by several processes, each a
// commit of its own.
func TestBurstIsQueuedOnce(t *testing.T) {
	const processes, each = 2, 5_000
	r := newRigWith(t, nixtest.New(t, "fsync-metadata = false"))
	r.begin()
	run := r.start()
	var tasks sync.WaitGroup
	for p := range processes {
		tasks.Go(func() { r.nix.AddTexts(t, fmt.Sprintf("burst-%d", p), each) })
	}
	tasks.Wait()
	trouble.Eventually(t, "all is queued", func() bool { return r.queuedInAll() >= processes*each })
	_ = run.stop(t)
	if got := r.look(); got != (Result{}) {
		t.Errorf("a further look found %+v, want nothing", got)
	}
	counts, err := r.Queue.Counts(t.Context())
	must(t, err)
	if n := r.queuedInAll(); n != processes*each || counts.Waiting != processes*each {
		t.Errorf("queued %d times, and %d jobs wait; want %d", n, counts.Waiting, processes*each)
	}
	if n := len(r.roots()); n != processes*each {
		t.Errorf("%d roots, want %d", n, processes*each)
	}
	t.Logf("%d looks found something", strings.Count(r.log.String(), "queued registrations"))
}
