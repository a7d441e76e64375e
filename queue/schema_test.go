package queue

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/trouble"
)

// released has the hash of every file of the schema. A file that was released is
// in somebody's queue: it is never edited, only followed by another.
var released = map[string]string{
	"01.sql": "0daee883634eee1b7ea5a9a2b7e73ac812e19fa98f6d2037a3ba9b26e34b7163",
	"02.sql": "845c458a4915abcbe349c9ad8d661e4522246071ad83517756b4fc5bdd5d2ca3",
}

func TestSchemaFilesAreNeverEdited(t *testing.T) {
	got := make(map[string]string)
	entries, err := fs.ReadDir(schemaFiles, "sql/schema")
	must(t, err)
	for _, e := range entries {
		text, err := fs.ReadFile(schemaFiles, "sql/schema/"+e.Name())
		must(t, err)
		got[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(text))
	}
	if diff := cmp.Diff(released, got); diff != "" {
		t.Errorf("files (-released +here):\n%s", diff)
	}
}

func TestQueueOfEveryVersionIsBroughtUpToDate(t *testing.T) {
	for version := range len(schema()) + 1 {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			q := newQueue(t)
			want := definitions(t, q.db)
			file := q.File() + "-old"
			db := raw(t, file)
			for _, text := range schema()[:version] {
				_, err := db.Exec(text)
				must(t, err)
			}
			if version > 0 {
				_, err := db.Exec(fmt.Sprintf("pragma application_id = %d; pragma user_version = %d", applicationID, version))
				must(t, err)
			}
			must(t, db.Close())

			old := create(t, file)
			if diff := cmp.Diff(want, definitions(t, old.db)); diff != "" {
				t.Errorf("schema (-new +migrated):\n%s", diff)
			}
			var app, user, tables int
			must(t, old.db.QueryRow(versionSQL).Scan(&app, &user, &tables))
			if app != applicationID || user != len(schema()) {
				t.Errorf("version is %d of %#x, want %d of %#x", user, app, len(schema()), applicationID)
			}
		})
	}
}

// TestOldQueueKeepsWhatIsInIt has a queue of the first release, with jobs in every
// state.
func TestOldQueueKeepsWhatIsInIt(t *testing.T) {
	file := filepath.Join(trouble.PublicDir(t), "queue.db")
	_, err := identify(file)
	must(t, err)
	db := raw(t, file)
	_, err = db.Exec(schema()[0] + fmt.Sprintf(`
		insert into settings values ('cache', 'file:///cache'), ('compression', 'zstd:3');
		insert into jobs values
			(3, '%[2]s', '%[1]s', 'waiting', 0, 2, 1000, 9000, 'disk full'),
			(5, '%[3]s', '',      'claimed', 1, 0, 2000, 2000, ''),
			(8, '%[4]s', '%[1]s', 'dead',    0, 7, 3000, 3000, 'hash mismatch');
		pragma application_id = %[5]d; pragma user_version = 1`,
		path("x.drv"), path("failed"), path("claimed"), path("dead"), applicationID))
	must(t, err)
	must(t, db.Close())

	q := create(t, file)
	want := map[string]Row{
		path("failed"): {
			Path: path("failed"), Drv: path("x.drv"), State: Waiting, Attempts: 2,
			Added: time.UnixMilli(1000), Due: time.UnixMilli(9000), Error: "disk full",
		},
		path("claimed"): {Path: path("claimed"), State: Claimed, Added: time.UnixMilli(2000), Due: time.UnixMilli(2000)},
		path("dead"): {
			Path: path("dead"), Drv: path("x.drv"), State: Dead, Attempts: 7,
			Added: time.UnixMilli(3000), Due: time.UnixMilli(3000), Error: "hash mismatch",
		},
	}
	if diff := cmp.Diff(want, rows(t, q)); diff != "" {
		t.Errorf("jobs (-before +after):\n%s", diff)
	}
	again(t, q)
	settings, err := q.Settings(t.Context())
	must(t, err)
	if diff := cmp.Diff(Settings{Cache: "file:///cache", Compression: "zstd:3"}, settings); diff != "" {
		t.Errorf("settings (-before +after):\n%s", diff)
	}
	// And it works like a new one.
	wantCursor(t, q, nil)
	setCursor(t, q, Cursor{})
	must(t, q.Advance(t.Context(), 0, registrations(1, 1), []string{path("new")}, nil))
	lock, err := q.Lock()
	must(t, err)
	defer lock.Unlock()
	if diff := cmp.Diff([]string{path("claimed"), path("failed"), path("new")}, claimAll(t, q)); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func definitions(t *testing.T, db *sql.DB) (all []string) {
	t.Helper()
	rows, err := db.Query("select coalesce(sql, name) from sqlite_schema order by 1")
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var text string
		must(t, rows.Scan(&text))
		all = append(all, text)
	}
	must(t, rows.Err())
	return all
}

var parameter = regexp.MustCompile(`:(\w+)`)

func TestStatementsReadIndexesOnly(t *testing.T) {
	q := newQueue(t)
	for name, statement := range map[string]string{
		"claim":     claimSQL,
		"find":      findSQL,
		"counts":    countsSQL,
		"done":      doneSQL,
		"drop":      dropSQL,
		"missing":   missingSQL,
		"next_due":  nextDueSQL,
		"reclaim":   reclaimSQL,
		"release":   releaseSQL,
		"retry":     retrySQL,
		"retry_all": retryAllSQL,
	} {
		t.Run(name, func(t *testing.T) {
			steps := plan(t, q.db, statement)
			text := strings.Join(steps, "\n")
			if strings.Contains(text, "SCAN jobs") || strings.Contains(text, "TEMP B-TREE") {
				t.Errorf("all jobs are read, or sorted:\n%s", text)
			}
			if !strings.Contains(text, "SEARCH jobs") {
				t.Errorf("nothing is looked for:\n%s", text)
			}
		})
	}
}

// plan returns what SQLite would do.
func plan(t *testing.T, db *sql.DB, statement string) (steps []string) {
	t.Helper()
	var args []any
	seen := make(map[string]bool)
	for _, match := range parameter.FindAllStringSubmatch(statement, -1) {
		if name := match[1]; !seen[name] {
			seen[name] = true
			args = append(args, sql.Named(name, "1"))
		}
	}
	rows, err := db.Query("explain query plan "+statement, args...)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		must(t, rows.Scan(&id, &parent, &unused, &detail))
		steps = append(steps, detail)
	}
	must(t, rows.Err())
	return steps
}

func TestNewestIsTheNumberOfSchemaFiles(t *testing.T) {
	if got := len(schema()); got != newest {
		t.Errorf("%d files in sql/schema, want %d", got, newest)
	}
}
