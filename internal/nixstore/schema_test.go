package nixstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nix-larder/larder/internal/nixtest"
)

func setSchema(t testing.TB, nix *nixtest.Store, version string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(nix.State, "db", "schema"), []byte(version), 0o644))
}

// wantSchema fails the test if err does not say that the schema's version is 11.
func wantSchema(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "version 11, want 10") {
		t.Errorf("error is %v, want ErrUnavailable with both versions", err)
	}
}

// TestNewSchemaIsNoticedWithinAMinute has a store that is never idle.
func TestNewSchemaIsNoticedWithinAMinute(t *testing.T) {
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nix)
		_, err := s.Info(t.Context(), source)
		must(t, err)
		setSchema(t, nix, "11")
		for begin := time.Now(); err == nil; time.Sleep(time.Second) {
			if time.Since(begin) > 61*time.Second {
				t.Fatal("it is still read as if nothing had happened")
			}
			_, err = s.Info(t.Context(), source)
		}
		wantSchema(t, err)
		_, err = s.Registrations(t.Context(), 0, 10)
		wantSchema(t, err)
		setSchema(t, nix, "10")
		if _, err = s.Info(t.Context(), source); err != nil {
			t.Errorf("when it is the known one again: %v", err)
		}
	})
}

func TestNewSchemaIsNoticedAtOnceWithoutALog(t *testing.T) {
	nix := withoutLog(t)
	source := nix.Add(t, "source", "source")
	s := openStore(t, nix)
	_, err := s.Info(t.Context(), source)
	must(t, err)
	setSchema(t, nix, "11")
	_, err = s.Info(t.Context(), source)
	wantSchema(t, err)
	setSchema(t, nix, "10")
	_, err = s.Info(t.Context(), source)
	must(t, err)
}

// TestTablesThatAreGoneAreUnavailable has a schema that changes before its version
// does.
func TestTablesThatAreGoneAreUnavailable(t *testing.T) {
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	s := openStore(t, nix)
	info, err := s.Info(t.Context(), source)
	must(t, err)
	for _, table := range []string{"ValidPaths", "Refs", "DerivationOutputs"} {
		execSQL(t, nix, "alter table "+table+" rename to Other")
		_, read := s.Info(t.Context(), source)
		_, list := s.Registrations(t.Context(), 0, 10)
		for _, err := range []error{read, list} {
			if errors.Is(err, ErrNotValid) || err != nil && !errors.Is(err, ErrUnavailable) {
				t.Errorf("without %s: %v, want ErrUnavailable", table, err)
			}
		}
		if read == nil && list == nil {
			t.Errorf("without %s nothing is wrong", table)
		}
		execSQL(t, nix, "alter table Other rename to "+table)
		again, err := s.Info(t.Context(), source)
		if err != nil || again.NarHash != info.NarHash {
			t.Errorf("with %s again: %v", table, err)
		}
	}
}
