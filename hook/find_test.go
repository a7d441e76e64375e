package hook

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func TestQueueIsFoundInThisOrder(t *testing.T) {
	dir := t.TempDir()
	argv0 := filepath.Join(dir, "larder-hook")
	must(t, os.WriteFile(argv0+".queue", []byte(dir+"/beside.db\n"), 0o644))
	userDefault, err := queue.DefaultFile(os.Geteuid(), func(string) string { return "/home/x" })
	must(t, err)
	for name, test := range map[string]struct {
		flag, env, argv0 string
		want             string
	}{
		"flag":          {dir + "/flag.db", dir + "/env.db", argv0, dir + "/flag.db"},
		"environment":   {"", dir + "/env.db", argv0, dir + "/env.db"},
		"beside":        {"", "", argv0, dir + "/beside.db"},
		"nobody beside": {"", "", filepath.Join(dir, "other-hook"), userDefault},
		"found in PATH": {"", "", "larder-hook", userDefault},
		"no name":       {"", "", "", userDefault},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(dir) // where a name that is not absolute would be found
			env := map[string]string{"LARDER_QUEUE": test.env, "HOME": "/home/x", "XDG_STATE_HOME": "/home/x"}
			c := Config{Argv0: test.argv0, Queue: test.flag, Getenv: func(name string) string { return env[name] }}
			got, err := c.findQueue()
			must(t, err)
			if got != test.want {
				t.Errorf("queue is %s, want %s", got, test.want)
			}
		})
	}
}

func TestQueueHasItsOneNameForTheHookToo(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	link := filepath.Join(s.Dir, "link.db")
	must(t, os.Symlink("queue/queue.db", link))
	t.Chdir(s.Dir)
	for i, name := range []string{link, "queue/../queue/queue.db", "./link.db"} {
		s.env["LARDER_QUEUE"] = name
		must(t, s.RootDir().RemoveAll())
		hooktest.WantSays(t, s.run(t, s.Path(string(rune('a'+i)))), "")
		s.WantRoots(t, s.Path(string(rune('a'+i))))
	}
	s.WantRows(t, s.Path("a"), s.Path("b"), s.Path("c"))
}

func TestFileBesideMustNameAQueue(t *testing.T) {
	for name, plant := range map[string]func(file string) error{
		"empty":     func(file string) error { return os.WriteFile(file, nil, 0o644) },
		"relative":  func(file string) error { return os.WriteFile(file, []byte("queue.db\n"), 0o644) },
		"directory": func(file string) error { return os.Mkdir(file, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			delete(s.env, "LARDER_QUEUE")
			c := s.config()
			c.Argv0 = filepath.Join(s.Dir, "larder-hook")
			must(t, plant(c.Argv0+".queue"))
			hooktest.WantSays(t, says(Run(t.Context(), c)), "find queue: ")
		})
	}
}

func TestRootsHookServesAUsersQueue(t *testing.T) {
	s := usersSite(t)
	makeAs(t, s, nobody)
	hooktest.WantSays(t, s.runAs(t, 0, s.Path("a")), "")
	s.WantRoots(t, s.Path("a"))
	wantOwner(t, nobody, s.File, s.File+"-wal", s.File+"-shm", s.File+"-lock", s.rootPath(), s.rootPath()+"/queue")

	// The user goes on: to root no difference, to root's hook none either.
	hooktest.WantSays(t, s.runAs(t, nobody, s.Path("b")), "")
	s.WantRoots(t, s.Path("a"), s.Path("b"))
	s.WantRows(t, s.Path("a"), s.Path("b"))
}

func TestRootsHookDoesNotGoWhereTheUserCouldNot(t *testing.T) {
	s := usersSite(t)
	makeAs(t, s, nobody)
	// The user has put a link to root's own queue where his was.
	secret := filepath.Join(s.Dir, "secret", "queue.db")
	q, err := queue.Create(t.Context(), secret)
	must(t, err)
	must(t, q.Close())
	must(t, os.Chmod(filepath.Dir(secret), 0o700))
	must(t, os.Remove(s.File))
	must(t, os.Link(secret, s.File)) // as good as a link that appears at the last moment
	hooktest.WantSays(t, s.runAs(t, 0, s.Path("a")), fs.ErrPermission.Error())

	s.File = secret
	s.WantRows(t)
}

func TestRootsHookBecomesTheOwnerOfAQueueToBe(t *testing.T) {
	s := usersSite(t)
	hooktest.WantSays(t, s.runAs(t, 0, s.Path("a")), "no such file")
	s.WantRoots(t, s.Path("a"))
	wantOwner(t, nobody, s.rootPath())

	// And of one that has lost its lock file: its directory is the user's.
	makeAs(t, s, nobody)
	must(t, os.Remove(s.File+"-lock"))
	hooktest.WantSays(t, s.runAs(t, 0, s.Path("b")), "")
	s.WantRoots(t, s.Path("a"), s.Path("b"))
	wantOwner(t, nobody, s.File, s.File+"-wal", s.File+"-shm")
}

func TestUsersHookCanNotReachRootsQueue(t *testing.T) {
	trouble.NeedRoot(t)
	s, _ := newSiteWithQueue(t)
	hooktest.WantSays(t, s.runAs(t, nobody, s.Path("a")), fs.ErrPermission.Error())
	s.WantRows(t)
	s.WantRoots(t)
}

// usersSite is a site whose queue's directory is a user's.
func usersSite(t *testing.T) *site {
	t.Helper()
	trouble.NeedRoot(t)
	s := newSite(t)
	must(t, os.Mkdir(filepath.Dir(s.File), 0o755))
	must(t, os.Chown(filepath.Dir(s.File), nobody, nobody))
	return s
}

// makeAs makes a site's queue, and gives it away.
func makeAs(t *testing.T, s *site, uid int) {
	t.Helper()
	q, err := queue.Create(t.Context(), s.File)
	must(t, err)
	must(t, q.Close())
	for _, suffix := range []string{"", "-lock"} {
		must(t, os.Chown(s.File+suffix, uid, uid))
	}
}

func (s *site) rootPath() string {
	return filepath.Join(s.State, "gcroots", "larder", queue.ExpectedID(s.File))
}

func wantOwner(t *testing.T, uid uint32, files ...string) {
	t.Helper()
	for _, file := range files {
		info, err := os.Lstat(file)
		must(t, err)
		if got := info.Sys().(*syscall.Stat_t).Uid; got != uid {
			t.Errorf("%s belongs to user %d, want %d", file, got, uid)
		}
	}
}
