package queue

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/trouble"
)

var background = context.Background()

// nobody is a user who owns nothing, and is not root.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// A test that needs a second process runs this binary again, with a verb.
const verbVar = "LARDER_TEST_VERB"

// verbs are what such a process can do with a queue.
var verbs = map[string]func(file string) error{
	"add":    verbAdd,
	"claim":  verbClaim,
	"create": verbCreate,
	"lock":   verbLock,
	"probe":  verbProbe,
	"work":   verbWork,
}

func TestMain(m *testing.M) {
	verb, ok := verbs[os.Getenv(verbVar)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := verb(os.Args[1]); err != nil {
		fmt.Println("error:", classify(err), err)
		os.Exit(1)
	}
	os.Exit(0) // like a hook: nothing is closed
}

// classify names the sentinel that err wraps.
func classify(err error) string {
	for _, is := range []error{
		ErrEmpty, ErrLocked, ErrTooNew, ErrNotQueue, ErrCorrupt, ErrRemote, fs.ErrNotExist, fs.ErrPermission,
	} {
		if errors.Is(err, is) {
			return "[" + is.Error() + "]"
		}
	}
	return "[]"
}

// verbAdd adds a path as a hook does.
func verbAdd(file string) error {
	q, err := OpenForHook(file, time.Minute)
	if err != nil {
		return err
	}
	return q.Add("", path(fmt.Sprint("process-", os.Getpid())))
}

// verbClaim claims all that is due and prints it.
func verbClaim(file string) error {
	q, err := Open(background, file)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if err := waitForParent(); err != nil {
		return err
	}
	for {
		job, err := q.Claim(background)
		if errors.Is(err, ErrEmpty) {
			return q.Close()
		}
		if err != nil {
			return err
		}
		fmt.Println(job.Path)
	}
}

func verbCreate(file string) error {
	fmt.Println("ready")
	if err := waitForParent(); err != nil {
		return err
	}
	q, err := Create(background, file)
	if err != nil {
		return err
	}
	fmt.Println(q.Identity().ID)
	return q.Add(background, "", path(fmt.Sprint("process-", os.Getpid())))
}

func verbLock(file string) error {
	q, err := Open(background, file)
	if err != nil {
		return err // not even looking is allowed
	}
	_, err = q.Lock()
	return err
}

// verbProbe asks without a pause whether a worker is alive.
func verbProbe(file string) error {
	q, err := Open(background, file)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		if _, err := q.WorkerAlive(); err != nil {
			return err
		}
	}
}

// verbWork claims one job and never finishes it.
func verbWork(file string) error {
	q, err := Open(background, file)
	if err != nil {
		return err
	}
	if _, err := q.Lock(); err != nil {
		return err
	}
	job, err := q.Claim(background)
	if err != nil {
		return err
	}
	fmt.Println(job.Path)
	return waitForParent()
}

// waitForParent returns when the parent closes our standard input.
func waitForParent() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// A process is this binary, doing what a verb says.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Scanner
}

// start starts a process, as another user if cred is not nil.
func start(t *testing.T, cred *syscall.Credential, verb, file string) *process {
	t.Helper()
	if cred != nil && os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	// The file may be where the other user can't reach it by name.
	cmd := exec.Command("/proc/self/exe", file)
	cmd.Env = append(os.Environ(), verbVar+"="+verb, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	p := &process{cmd: cmd, stdin: stdin, out: bufio.NewScanner(stdout)}
	t.Cleanup(p.kill)
	return p
}

// line returns the next line that the process prints.
func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("process ended without a word: %v", p.cmd.Wait())
	}
	return p.out.Text()
}

// finish lets the process go on to its end, and returns what it prints.
func (p *process) finish(t *testing.T) []string {
	t.Helper()
	p.stdin.Close() // (ignored) it may be closed already
	var lines []string
	for p.out.Scan() {
		lines = append(lines, p.out.Text())
	}
	if err := p.cmd.Wait(); err != nil && len(lines) == 0 {
		t.Fatalf("process failed without a word: %v", err)
	}
	return lines
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // (ignored) it may have ended
	_ = p.cmd.Wait()
}

// newQueue makes a queue in a directory that every user may read.
func newQueue(t *testing.T) *Queue {
	t.Helper()
	return create(t, filepath.Join(trouble.PublicDir(t), "queue.db"))
}

func create(t *testing.T, file string) *Queue {
	t.Helper()
	q, err := Create(t.Context(), file)
	must(t, err)
	t.Cleanup(func() { q.Close() })
	return q
}

// raw opens a queue's database without this package. It waits for nobody.
func raw(t *testing.T, file string) *sql.DB {
	t.Helper()
	dsn := url.URL{Scheme: "file", Path: file, RawQuery: "mode=rwc&_busy_timeout=0&_txlock=immediate"}
	db, err := sql.Open("sqlite3", dsn.String())
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

// path returns a store path.
func path(name string) string {
	return "/nix/store/" + strings.Repeat("0", 32) + "-" + name
}

func paths(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = path(fmt.Sprintf("%s-%04d", prefix, i))
	}
	return all
}

func add(t *testing.T, q *Queue, paths ...string) {
	t.Helper()
	must(t, q.Add(t.Context(), "", paths...))
}

func claim(t *testing.T, q *Queue) *Job {
	t.Helper()
	job, err := q.Claim(t.Context())
	must(t, err)
	return job
}

// claimAll claims until the queue has nothing to give, and returns the paths.
func claimAll(t *testing.T, q *Queue) []string {
	t.Helper()
	var all []string
	for {
		job, err := q.Claim(t.Context())
		if errors.Is(err, ErrEmpty) {
			return all
		}
		must(t, err)
		all = append(all, job.Path)
	}
}

// rows returns the queue's jobs, by name.
func rows(t *testing.T, q *Queue) map[string]Row {
	t.Helper()
	all := make(map[string]Row)
	for row, err := range q.Rows(t.Context()) {
		must(t, err)
		if _, twice := all[row.Path]; twice {
			t.Errorf("%s has two rows", row.Path)
		}
		all[row.Path] = row
	}
	return all
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantIs fails the test if err does not wrap want.
func wantIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}
