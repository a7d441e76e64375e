package integration

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// commandsOfAQueue are all that work for one.
var commandsOfAQueue = []string{"status", "retry", "drain", "daemon", "uninstall", "init --cache /root/cache"}

// badQueues are what commands find in place of a queue, by the script that makes
// it in the directory of one.
var badQueues = map[string]struct {
	script string
	refusal
}{
	"missing":             {"rm queue.db*", refusal{1, "no such file", "larder init --cache DIR"}},
	"garbage":             {"echo garbage > queue.db", refusal{1, "the queue is corrupt", "move the file away"}},
	"damaged":             {"rm -f queue.db-wal queue.db-shm; dd if=/dev/urandom of=queue.db bs=100 seek=1 count=200 conv=notrunc", refusal{1, "the queue is corrupt", "move the file away"}},
	"cut short":           {"rm -f queue.db-wal queue.db-shm; truncate --size $(($(stat --format %s queue.db) / 3)) queue.db", refusal{1, "the queue is corrupt", "move the file away"}},
	"of a newer larder":   {"printf '\\143' | dd of=queue.db bs=1 seek=63 conv=notrunc", refusal{1, "schema version 99 is newer than this program's", "a newer larder made this queue"}},
	"without an identity": {"echo nobody > queue.db-lock", refusal{1, "holds no queue ID", ""}},
}

func TestEveryCommandRefusesABadQueue(t *testing.T) {
	t.Parallel()
	for name, bad := range badQueues {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLarder(t, nixes[0])
			l.buildOne(t, "built")
			l.run(t, "sh", "-euc", "cd /var/lib/larder; "+bad.script)
			for _, command := range commandsOfAQueue {
				if name == "missing" && strings.HasPrefix(command, "init") {
					continue
				}
				t.Run(command, func(t *testing.T) {
					cache := files(t, l.cache)
					bad.changesNothing(t, l.machine, append([]string{"larder"}, strings.Fields(command)...)...)
					unchanged(t, "cache", cache, files(t, l.cache))
				})
			}
		})
	}
}

// Somebody else's database, or any other file, is left as it is, and alone.
func TestEveryCommandLeavesOtherFilesAlone(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.run(t, "sh", "-euc", "mkdir /srv /srv/other /srv/text; echo 'dear diary' > /srv/text/diary")
	db, err := sql.Open("sqlite3", "file:"+l.host("/srv/other/places.db"))
	must(t, err)
	_, err = db.Exec("create table places (name text); insert into places values ('here')")
	must(t, err)
	must(t, db.Close())
	for file, r := range map[string]refusal{
		"/srv/other/places.db": {1, "not a larder queue", "choose another file with --queue FILE"},
		"/srv/text/diary":      {1, "not a", ""},
	} {
		for _, command := range commandsOfAQueue {
			t.Run(file+" "+command, func(t *testing.T) {
				before, err := os.ReadFile(l.host(file))
				must(t, err)
				r.changesNothing(t, l.machine, append([]string{"larder"}, strings.Fields(command+" --queue "+file)...)...)
				after, err := os.ReadFile(l.host(file))
				must(t, err)
				if !slices.Equal(before, after) {
					t.Error("the file was changed")
				}
			})
		}
		beside, err := os.ReadDir(filepath.Dir(l.host(file)))
		must(t, err)
		if len(beside) != 1 {
			t.Errorf("beside %s there are now %v", file, beside)
		}
	}
}

func TestQueueServesOneCache(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.buildOne(t, "built")
	r := refusal{1, "belongs to cache file://" + l.cache + ", not file:///root/another", "leave --cache out"}
	for _, command := range []string{"daemon", "drain", "init"} {
		t.Run(command, func(t *testing.T) {
			r.changesNothing(t, l.machine, "larder", command, "--cache", "/root/another")
			r.changesNothing(t, l.with("LARDER_CACHE=file:///root/another"), "larder", command)
		})
	}
	// In whichever form its own one is written, it is the same.
	for _, form := range []string{l.cache, l.cache + "/", "file://" + l.cache, "file://" + l.cache + "?trusted=true"} {
		l.run(t, "larder", "drain", "--cache", form)
	}
}

func TestOthersMayNotTouchAUsersQueue(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	l.buildOne(t, "built")
	someone := l.as(alice).with("NIX_REMOTE=")
	for _, command := range []string{"retry", "drain", "daemon", "uninstall", "init"} {
		t.Run(command, func(t *testing.T) {
			refusal{1, "permission denied", "owner"}.changesNothing(t, someone, "larder", command, "--queue", l.queue)
		})
	}
	// To look is not to touch.
	if out := someone.run(t, "larder", "status", "--queue", l.queue); !strings.Contains(out, "waiting  1\n") {
		t.Errorf("status says %q", out)
	}
}

func TestUserWithoutAHomeHasNoDefaultQueue(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0]).as(alice).with("HOME=", "XDG_STATE_HOME=relative")
	for _, command := range []string{"status", "drain", "init --cache /tmp/x"} {
		refusal{1, "HOME is not set", "--queue"}.changesNothing(t, m, append([]string{"larder"}, strings.Fields(command)...)...)
	}
}
