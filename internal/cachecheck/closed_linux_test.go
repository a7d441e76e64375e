package cachecheck

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

func init() { parts["mend as nobody"] = mendAsNobody }

// mendAsNobody mends a cache, and prints what became of what.
func mendAsNobody(args []string) error {
	if err := trouble.BecomeNobody(); err != nil {
		return err
	}
	cache, refused := bincache.Open(args[0], "")
	if refused != nil { // to change it
		var err error
		if cache, err = bincache.OpenReadOnly(args[0], ""); err != nil {
			return err
		}
	}
	defer cache.Close()
	c := Checker{Cache: cache, Contents: true}
	report, err := c.Check(context.Background())
	if err != nil {
		return err
	}
	became := make(map[string]string)
	if refused != nil {
		for _, p := range report.Problems {
			became[p.File] = string(p.Kind) + " left"
		}
		return json.NewEncoder(os.Stdout).Encode(became)
	}
	repairs, err := (&Mender{Cache: cache, Closed: true}).Mend(context.Background(), report.Problems)
	if err != nil {
		return err
	}
	for _, r := range repairs {
		became[r.File] = string(r.Kind) + " " + string(r.Action)
	}
	return json.NewEncoder(os.Stdout).Encode(became)
}

// give makes all of the cache nobody's, who may look into the directories above.
func (r *trial) give(t *testing.T) {
	t.Helper()
	for dir := filepath.Dir(r.dir); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, filepath.WalkDir(r.dir, func(file string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(file, 65534, 65534))
	}))
}

func (r *trial) mendsAsNobody(t *testing.T) map[string]string {
	t.Helper()
	out, err := trouble.Command(t, "mend as nobody", r.dir).Output()
	must(t, err)
	var became map[string]string
	must(t, json.Unmarshal(out, &became))
	return became
}

func TestWhatMayNotBeReadIsLeft(t *testing.T) {
	trouble.NeedRoot(t)
	s := newSite(t)
	for what, close := range map[string]func(r *trial) (file string, named string){
		"all NARs": func(r *trial) (string, string) { return filepath.Join(r.dir, "nar"), "nar" },
		"a NAR": func(r *trial) (string, string) {
			return r.narFile(t, "left"), "nar/" + filepath.Base(r.narFile(t, "left"))
		},
		"a narinfo": func(r *trial) (string, string) { return r.narInfoFile("left"), filepath.Base(r.narInfoFile("left")) },
		"records":   func(r *trial) (string, string) { return filepath.Join(r.dir, ".larder/runs"), ".larder/runs" },
		"pins": func(r *trial) (string, string) {
			must(t, r.cache.Pin(t.Context(), "pin", time.Now(), 1, r.paths["top"]))
			return filepath.Join(r.dir, ".larder/pins"), ".larder/pins"
		},
		"a pin": func(r *trial) (string, string) {
			must(t, r.cache.Pin(t.Context(), "pin", time.Now(), 1, r.paths["top"]))
			return filepath.Join(r.dir, ".larder/pins/pin"), ".larder/pins/pin"
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := s.trial(t)
			file, named := close(r)
			r.give(t)
			must(t, errors.Join(os.Chown(file, 0, 0), os.Chmod(file, 0o700)))
			before := r.snapshot(t)
			became := r.mendsAsNobody(t)
			if len(became) != 1 || became[named] != "unreadable left" {
				t.Errorf("became %q, want %s left", became, named)
			}
			if after := r.snapshot(t); len(after) != len(before) {
				t.Errorf("%d files are left of %d", len(after), len(before))
			}
		})
	}
	t.Run("all of it", func(t *testing.T) {
		r := s.trial(t)
		r.give(t)
		must(t, errors.Join(os.Chown(r.dir, 0, 0), os.Chmod(r.dir, 0o700)))
		if out, err := trouble.Command(t, "mend as nobody", r.dir).Output(); err == nil {
			t.Errorf("no error, but %s", out)
		}
	})
}

// An entry that can't be read may need what is damaged.
func TestNothingIsWithdrawnWhileANarInfoMayNotBeRead(t *testing.T) {
	trouble.NeedRoot(t)
	r := newSite(t).trial(t)
	r.give(t)
	must(t, errors.Join(os.Chown(r.narInfoFile("top"), 0, 0), os.Chmod(r.narInfoFile("top"), 0o600)))
	must(t, os.Remove(r.narFile(t, "left")))
	became := r.mendsAsNobody(t)
	if len(became) != 2 || became[filepath.Base(r.narInfoFile("left"))] != "nar left" || became[filepath.Base(r.narInfoFile("top"))] != "unreadable left" {
		t.Errorf("became %q", became)
	}
	must(t, os.Chown(r.narInfoFile("top"), 65534, 65534))
	r.mendsAsNobody(t)
	r.isWell(t, "base", "right", "source", "twin")
}
