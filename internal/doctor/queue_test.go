package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func TestQueueThatCantBeOpenedIsFound(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, file string)
		want  Severity
		what  string
		run   string
	}{
		"missing": {func(t *testing.T, file string) { must(t, os.Remove(file)) }, Problem, "no such file", "larder init"},
		"corrupt": {func(t *testing.T, file string) {
			must(t, os.WriteFile(file, []byte(strings.Repeat("junk", 5000)), 0o644))
		}, Problem, "corrupt", "mv "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			test.spoil(t, s.Queue.File)
			q, err := queue.Open(t.Context(), s.Queue.File)
			if err == nil {
				q.Close()
				t.Fatal("the queue can be opened")
			}
			s.Queue.Err = err
			f := s.finds(t, checkQueue, test.want, test.what)
			if !strings.HasPrefix(f.Run[0], test.run) {
				t.Errorf("type %q, want %q", f.Run, test.run)
			}
		})
	}
}

func TestErrorsOfQueuesHaveAdvice(t *testing.T) {
	s := newSite(t)
	for err, advice := range map[error]string{
		queue.ErrTooNew:   "install that one",
		queue.ErrRemote:   "local disk",
		queue.ErrNotQueue: "--queue FILE",
	} {
		s.Queue.Err = fmt.Errorf("open queue: %w", err)
		if f := s.finds(t, checkQueue, Problem, err.Error()); !strings.Contains(f.Advice, advice) {
			t.Errorf("%v: advice is %q", err, f.Advice)
		}
	}
	s.Queue.Err = fmt.Errorf("open queue: %w", os.ErrPermission)
	if f := s.finds(t, checkQueue, Warning, "permission"); !strings.Contains(f.Run[0], "larder doctor --queue "+s.Queue.File) {
		t.Errorf("type %q", f.Run)
	}
}

func TestQueueThatRootMadeInAHomeIsFound(t *testing.T) {
	trouble.NeedRoot(t)
	for name, inHome := range map[string]bool{"in a directory of its own": false, "in the home itself": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			home := s.dir
			if inHome {
				home = filepath.Dir(s.Queue.File)
			}
			must(t, os.Chown(home, 65534, 65534))
			notes := filepath.Join(home, "notes")
			must(t, os.WriteFile(notes, nil, 0o600))
			id, err := queue.Identify(s.Queue.File)
			must(t, err)
			must(t, os.MkdirAll(filepath.Join(s.Dirs.State, "gcroots"), 0o755))
			_, err = gcroot.Make(s.Dirs.State, gcroot.Owner{Queue: s.Queue.File, ID: id.ID})
			must(t, err)
			s.cures(t, checkQueue, s.finds(t, checkQueue, Problem, "belongs to root"))

			// The user is the owner now of all that it takes, and of nothing else.
			_, err = gcroot.Make(s.Dirs.State, gcroot.Owner{Queue: s.Queue.File, ID: id.ID, UID: 65534})
			must(t, err)
			info, err := os.Stat(notes)
			must(t, err)
			if ownerOf(info) != 0 {
				t.Error("somebody else's file was given away")
			}
		})
	}
}

func TestForgottenWorkerIsFound(t *testing.T) {
	s := newSite(t)
	s.isFine(t, checkQueue)
	ago := time.Now().Add(-forgotten - time.Hour)
	must(t, os.Chtimes(s.Queue.File+"-lock", ago, ago))
	f := s.finds(t, checkQueue, Problem, "no worker has been alive since "+ago.Format(time.DateOnly))
	if f.Run[0] != "larder drain --queue "+s.Queue.File {
		t.Errorf("type %q", f.Run)
	}
	s.Queue.Default = true
	if f := s.finds(t, checkQueue, Problem, "no worker"); f.Run[0] != "larder drain" {
		t.Errorf("type %q", f.Run)
	}
	s.work(t)
	s.isFine(t, checkQueue)
}

// work lets a worker live for a moment.
func (s *site) work(t *testing.T) {
	t.Helper()
	q, err := queue.Open(t.Context(), s.Queue.File)
	must(t, err)
	lock, err := q.Lock()
	must(t, err)
	must(t, lock.Unlock())
	must(t, q.Close())
}

func TestJobsThatNobodyDoesAreFound(t *testing.T) {
	s := newSite(t)
	s.Queue.Counts.Waiting = 3
	s.finds(t, checkQueue, Warning, "3 jobs in the queue, and no worker")
	s.Queue.Worker = true // in another container
	s.isFine(t, checkQueue)
	s.Queue.Counts.Dead = 1
	if f := s.finds(t, checkQueue, Warning, "1 job failed for good"); !strings.HasPrefix(f.Run[1], "larder retry") {
		t.Errorf("type %q", f.Run)
	}
}

// Whoever may read the lock's file may hold it.
func TestStrangerWhoHoldsTheLockIsFound(t *testing.T) {
	s := newSite(t)
	for _, how := range []string{"--exclusive", "--shared"} {
		cmd := exec.Command("flock", how, "--no-fork", s.Queue.File+"-lock", "sh", "-c", "echo held; exec sleep 1000")
		stdout, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		defer cmd.Process.Kill()
		if _, err := stdout.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		f := s.finds(t, checkQueue, Problem, fmt.Sprintf("process %d (s", cmd.Process.Pid))
		s.do(t, f)
		_ = cmd.Wait() // it was killed
		s.isFine(t, checkQueue)
		s.work(t)
	}
}

func TestCacheOfAnotherQueueIsFound(t *testing.T) {
	s := newSite(t)
	s.Cache = "/another"
	f := s.finds(t, checkQueue, Problem, "and not file:///another")
	if f.Run[0] != "larder doctor --queue "+s.Queue.File {
		t.Errorf("type %q", f.Run)
	}
}
