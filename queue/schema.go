package queue

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed sql/schema/*.sql
var schemaFiles embed.FS

// applicationID marks an SQLite file as a queue: "lard".
const applicationID = 0x6c617264

// newest is the version of the schema: how many files there are. (Counting them would
// be noticed in every hook.)
const newest = 2

// versionSQL asks whose database it is, which version of the schema, and whether
// there is anything in it. That is one question, or somebody who makes the queue
// at this moment would come between.
const versionSQL = "select application_id, user_version, (select count(*) from sqlite_schema) from pragma_application_id, pragma_user_version"

// schema returns the migrations, oldest first.
func schema() []string {
	entries, err := fs.ReadDir(schemaFiles, "sql/schema")
	if err != nil {
		panic(err) // embedded: it is there, or this was not compiled
	}
	var files []string
	for _, e := range entries {
		text, err := fs.ReadFile(schemaFiles, "sql/schema/"+e.Name())
		if err != nil {
			panic(err)
		}
		files = append(files, string(text))
	}
	return files
}

// migrate brings the schema up to date. Version n of the database is the result
// of the first n files in sql/schema, which are never edited once released.
//
// A database from a newer release is refused: guessing could lose jobs.
func migrate(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()

	version, err := schemaVersion(ctx, tx)
	files := schema()
	if err != nil || version == len(files) {
		return err
	}
	for i, text := range files[version:] {
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("schema version %d: %w", version+i+1, err)
		}
	}
	pragmas := fmt.Sprintf("pragma application_id = %d; pragma user_version = %d", applicationID, len(files))
	if _, err := tx.ExecContext(ctx, pragmas); err != nil {
		return err
	}
	return tx.Commit()
}

// schemaVersion returns the version of a queue's schema: 0 if the database is new.
func schemaVersion(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (int, error) {
	var app, tables int64
	var version int
	if err := db.QueryRowContext(ctx, versionSQL).Scan(&app, &version, &tables); err != nil {
		return 0, err
	}
	switch {
	case version == 0 && tables > 0, version > 0 && app != applicationID:
		return 0, ErrNotQueue
	case version > newest:
		return 0, tooNew(int64(version))
	}
	return version, nil
}

// checkSchema is migrate for those who may not change the schema.
func checkSchema(app, version int64) error {
	switch {
	case version > 0 && app != applicationID:
		return ErrNotQueue
	case version > newest:
		return tooNew(version)
	case version < newest:
		return fmt.Errorf("schema version %d is older than this program's %d, and only a worker may change it", version, newest)
	}
	return nil
}

func tooNew(version int64) error {
	return fmt.Errorf("schema version %d is %w's %d", version, ErrTooNew, newest)
}
