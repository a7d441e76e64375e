package nixstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

func init() { parts["read as nobody"] = readAsNobody }

// readAsNobody is a child that may read the database, but not write its directory.
func readAsNobody(args []string) error {
	if err := trouble.BecomeNobody(); err != nil {
		return err
	}
	s, err := Open(Dirs{Store: args[0], State: args[1]}, time.Second)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Info(context.Background(), args[2])
	if wantErr := args[3] == "refused"; wantErr != errors.Is(err, fs.ErrPermission) || !wantErr && err != nil {
		return fmt.Errorf("read as nobody: %v; want it to be %s", err, args[3])
	}
	return nil
}

func TestOthersReadTheStoreIfNixLetsThem(t *testing.T) {
	trouble.NeedRoot(t)
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	must(t, os.Chmod(filepath.Dir(filepath.Dir(nix.Dir)), 0o755)) // so that nobody gets there
	read := func(want string) {
		t.Helper()
		must(t, trouble.Command(t, "read as nobody", nix.Dir, nix.State, source, want).Run())
	}
	if _, err := os.Stat(filepath.Join(nix.State, "db", "db.sqlite-wal")); err != nil {
		read("refused") // Nix before 2.22 has taken its log away
	}
	// While somebody has the database open, there is a log.
	s := openStore(t, nix)
	_, err := s.Info(t.Context(), source)
	must(t, err)
	read("allowed")
}
