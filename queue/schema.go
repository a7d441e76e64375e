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

	files := schema()
	var app, version int
	err = tx.QueryRowContext(ctx, "select application_id, user_version from pragma_application_id, pragma_user_version").Scan(&app, &version)
	if err != nil {
		return err
	}
	switch {
	case version == 0:
		var tables int
		if err := tx.QueryRowContext(ctx, "select count(*) from sqlite_schema").Scan(&tables); err != nil {
			return err
		}
		if tables > 0 {
			return ErrNotQueue
		}
	case app != applicationID:
		return ErrNotQueue
	case version > len(files):
		return tooNew(version)
	case version == len(files):
		return nil
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

// checkSchema is migrate for those who may not change the schema.
func checkSchema(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "pragma user_version").Scan(&version); err != nil {
		return err
	}
	switch want := len(schema()); {
	case version > want:
		return tooNew(version)
	case version < want:
		return fmt.Errorf("schema version %d is older than this program's %d, and only a worker may change it", version, want)
	}
	return nil
}

func tooNew(version int) error {
	return fmt.Errorf("schema version %d is %w's %d", version, ErrTooNew, len(schema()))
}
