package queue

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/trouble"
)

func TestLockHasOneHolder(t *testing.T) {
	q := newQueue(t)
	wantAlive(t, q, false)
	lock, err := q.Lock()
	must(t, err)
	wantAlive(t, q, true)

	_, err = create(t, q.File()).Lock()
	wantIs(t, err, ErrLocked)
	if words := start(t, nil, "work", q.File()).finish(t)[0]; !strings.Contains(words, "["+ErrLocked.Error()+"]") {
		t.Errorf("another process says %q, want %q", words, ErrLocked)
	}

	must(t, lock.Unlock())
	wantAlive(t, q, false)
	lock, err = q.Lock()
	must(t, err)
	must(t, lock.Unlock())
}

func wantAlive(t *testing.T, q *Queue, want bool) {
	t.Helper()
	got, err := q.WorkerAlive()
	must(t, err)
	if got != want {
		t.Errorf("a worker is alive: %v, want %v", got, want)
	}
}

func TestDeadWorkersClaimsReturn(t *testing.T) {
	q := newQueue(t)
	all := paths("job", 3)
	add(t, q, all...)
	w := start(t, nil, "work", q.File())
	claimed := w.line(t)
	wantAlive(t, q, true)
	_, err := q.Lock()
	wantIs(t, err, ErrLocked)
	if got := rows(t, q)[claimed].State; got != Claimed {
		t.Fatalf("job is %q, want claimed", got)
	}
	add(t, q, claimed)

	w.kill()
	wantAlive(t, q, false)
	lock, err := q.Lock()
	must(t, err)
	defer lock.Unlock()
	if diff := cmp.Diff(all, claimAll(t, q)); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func TestClaimsReturnWithoutAFailure(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	claim(t, q)
	lock, err := q.Lock()
	must(t, err)
	defer lock.Unlock()
	if job := claim(t, q); job.Attempts != 0 {
		t.Errorf("job has %d attempts behind it, want none: it did not fail, its worker did", job.Attempts)
	}
}

func TestLookingForTheWorkerIsNotBeingOne(t *testing.T) {
	q := newQueue(t)
	for range 3 {
		start(t, nil, "probe", q.File()).line(t)
	}
	for range 50 {
		lock, err := q.Lock()
		if err != nil {
			t.Fatalf("%v, but others only look", err)
		}
		must(t, lock.Unlock())
	}
}

func TestBeatIsSeen(t *testing.T) {
	q := newQueue(t)
	lock, err := q.Lock()
	must(t, err)
	defer lock.Unlock()
	long := time.Now().Add(-24 * time.Hour)
	must(t, os.Chtimes(lockFile(q.File()), long, long))
	wantWorker(t, q, long)
	must(t, lock.Beat())
	wantWorker(t, q, time.Now())

	// So is that a worker starts.
	must(t, lock.Unlock())
	must(t, os.Chtimes(lockFile(q.File()), long, long))
	lock, err = q.Lock()
	must(t, err)
	defer lock.Unlock()
	wantWorker(t, q, time.Now())
}

func wantWorker(t *testing.T, q *Queue, want time.Time) {
	t.Helper()
	id, err := Identify(q.File())
	must(t, err)
	if diff := id.Worker.Sub(want).Abs(); diff > time.Minute {
		t.Errorf("worker was alive at %v, want %v", id.Worker, want)
	}
}

func TestQueueIsWhatItsHooksExpect(t *testing.T) {
	file := filepath.Join(trouble.PublicDir(t), "state", "queue.db")
	want := ExpectedID(file)
	if _, err := Identify(file); err == nil {
		t.Error("a queue that is not there has an identity")
	} else {
		wantIs(t, err, fs.ErrNotExist)
	}
	q := create(t, file)
	id, err := Identify(file)
	must(t, err)
	if id.ID != want || id.UID != os.Geteuid() || id.GID != os.Getegid() {
		t.Errorf("identity is %+v, want ID %s and our own user", id, want)
	}
	if diff := cmp.Diff(q.Identity(), id); diff != "" {
		t.Errorf("the queue knows itself by another identity (-queue +file):\n%s", diff)
	}
	if id.Worker.After(time.Now()) || time.Since(id.Worker) > time.Minute {
		t.Errorf("worker was alive at %v, want the time of creation", id.Worker)
	}
}

func TestExpectedIDIsOfThisHostAndFile(t *testing.T) {
	host, err := os.Hostname()
	must(t, err)
	// Roots that hooks of an older release made before there was a queue are named
	// by this: it can't be changed.
	digest := sha256.Sum256([]byte("larder queue\x00" + host + "\x00/a/queue.db"))
	if got, want := ExpectedID("/a/queue.db"), fmt.Sprintf("%x", digest[:16]); got != want {
		t.Errorf("ID is %s, want %s", got, want)
	}
	if ExpectedID("/a/queue.db") == ExpectedID("/b/queue.db") {
		t.Error("two queues have one ID")
	}
}

func TestMovedQueueKeepsItsID(t *testing.T) {
	dir := trouble.PublicDir(t)
	q := create(t, filepath.Join(dir, "old", "queue.db"))
	must(t, q.Close())
	must(t, os.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "new")))
	moved := create(t, filepath.Join(dir, "new", "queue.db"))
	if got, want := moved.Identity().ID, q.Identity().ID; got != want {
		t.Errorf("ID is %s, want %s", got, want)
	}
}

func TestIdentifyIsNotLedAstray(t *testing.T) {
	id := strings.Repeat("a", 32) + "\n"
	for name, plant := range map[string]func(t *testing.T, lock string){
		"link": func(t *testing.T, lock string) {
			must(t, os.WriteFile(lock+".target", []byte(id), 0o644))
			must(t, os.Symlink(lock+".target", lock))
		},
		"pipe":      func(t *testing.T, lock string) { must(t, syscall.Mkfifo(lock, 0o644)) },
		"directory": func(t *testing.T, lock string) { must(t, os.Mkdir(lock, 0o755)) },
		"empty":     func(t *testing.T, lock string) { must(t, os.WriteFile(lock, nil, 0o644)) },
		"path":      func(t *testing.T, lock string) { must(t, os.WriteFile(lock, []byte("../../../../etc\n"), 0o644)) },
		"long":      func(t *testing.T, lock string) { must(t, os.WriteFile(lock, []byte(id+id), 0o644)) },
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(trouble.PublicDir(t), "queue.db")
			plant(t, lockFile(file))
			if id, err := Identify(file); err == nil {
				t.Errorf("identity is %+v, want an error", id)
			}
			if _, err := Create(t.Context(), file); err == nil {
				t.Error("Create succeeded, want an error")
			}
			if _, err := os.Stat(file); err == nil {
				t.Error("Create made a database, want nothing")
			}
		})
	}
}

func TestTwoNamesAreOneQueue(t *testing.T) {
	dir := trouble.PublicDir(t)
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	first := create(t, filepath.Join(dir, "link", "queue.db")) // before there is a database
	must(t, os.Symlink("real/queue.db", filepath.Join(dir, "other.db")))
	lock, err := first.Lock()
	must(t, err)
	defer lock.Unlock()
	for _, name := range []string{"link/queue.db", "real/queue.db", "other.db", "real/../link/queue.db"} {
		q := create(t, filepath.Join(dir, name))
		if q.File() != first.File() || q.Identity().ID != first.Identity().ID {
			t.Errorf("%s is %s, want %s", name, q.File(), first.File())
		}
		_, err := q.Lock()
		wantIs(t, err, ErrLocked)
	}
}

func TestLinkToNothingIsNoQueue(t *testing.T) {
	dir := trouble.PublicDir(t)
	link := filepath.Join(dir, "queue.db")
	must(t, os.Symlink(filepath.Join(dir, "elsewhere"), link))
	for name, open := range openers {
		if err := open(link); err == nil {
			t.Errorf("%s succeeded, want an error", name)
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("directory has %v, want only the link", entries)
	}
}

func TestProcessesThatMakeTheSameQueueMakeOne(t *testing.T) {
	for range 5 {
		file := filepath.Join(trouble.PublicDir(t), "queue.db")
		var all []*process
		for range 6 {
			p := start(t, nil, "create", file)
			p.line(t)
			all = append(all, p)
		}
		for _, p := range all {
			must(t, p.stdin.Close())
		}
		var ids []string
		for _, p := range all {
			ids = append(ids, p.finish(t)...)
		}
		if diff := cmp.Diff(slices.Repeat([]string{ExpectedID(file)}, len(all)), ids); diff != "" {
			t.Errorf("processes say (-want +got):\n%s", diff)
		}
		if got := len(rows(t, create(t, file))); got != 6 {
			t.Errorf("%d rows, want 6", got)
		}
		if left, _ := filepath.Glob(file + "-lock.*"); len(left) > 0 {
			t.Errorf("left over: %q", left)
		}
	}
}
