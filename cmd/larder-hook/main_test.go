package main

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/hooktest"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestOutputsAreQueuedWhenTheHookReturns(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		s.env["OUT_PATHS"] = s.Path("a") + " " + s.Path("b")
		hooktest.WantSays(t, s.run(t), "")
		s.WantRows(t, s.Path("a"), s.Path("b"))
		s.WantRoots(t, s.Path("a"), s.Path("b"))
	})
}

func TestProgramNeedsNoLibraries(t *testing.T) {
	f, err := elf.Open(program)
	must(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("program has a %v segment: it is not static", p.Type)
		}
	}
}

func TestTroubleIsOneLineAndNoFailure(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		newer := func(t *testing.T, s *site) {
			s.exec(t, "pragma user_version = 77")
		}
		for name, test := range map[string]struct {
			spoil func(t *testing.T, s *site)
			args  []string
			says  string
			rows  int
			roots int
		}{
			"missing":        {func(t *testing.T, s *site) { must(t, os.Remove(s.File)) }, nil, "no such file", 0, 1},
			"no directory":   {func(t *testing.T, s *site) { must(t, os.RemoveAll(filepath.Dir(s.File))) }, nil, "no such file", 0, 1},
			"newer":          {newer, nil, "schema version 77 is newer than this program's", -1, 1},
			"corrupt":        {func(t *testing.T, s *site) { s.garble(t) }, nil, "the queue is corrupt", -1, 1},
			"no identity":    {func(t *testing.T, s *site) { must(t, os.WriteFile(s.File+"-lock", nil, 0o644)) }, nil, "holds no queue ID", -1, 0},
			"not ours":       {func(t *testing.T, s *site) { s.uid = nobody }, nil, "permission denied", 0, 0},
			"no arguments":   {nil, []string{"--verbose", "--queue"}, `argument "--verbose" ignored; argument "--queue" ignored`, 1, 1},
			"bad deadline":   {nil, []string{"--deadline", "soon"}, `deadline "soon" ignored`, 1, 1},
			"no time":        {nil, []string{"--deadline", "-1s"}, `deadline "-1s" ignored`, 1, 1},
			"bad variable":   {func(t *testing.T, s *site) { s.env["LARDER_HOOK_DEADLINE"] = "7" }, nil, `deadline "7" ignored`, 1, 1},
			"much at once":   {newer, []string{"-x", "--deadline=x"}, `argument "-x" ignored; deadline "x" ignored: want something like 250ms; open queue`, -1, 1},
			"nothing at all": {func(t *testing.T, s *site) { clear(s.env) }, nil, "neither DRV_PATH nor OUT_PATHS is set", 0, 0},
			"no Nix": {func(t *testing.T, s *site) {
				s.env["DRV_PATH"] = s.Path("x.drv")
			}, nil, "open Nix database: ", 1, 1},
			"a book": {func(t *testing.T, s *site) {
				s.env["OUT_PATHS"] += " /" + strings.Repeat("x", 100<<10)
			}, nil, "…", 1, 1},
			"a library": {func(t *testing.T, s *site) {
				s.env["OUT_PATHS"] += strings.Repeat(" /x", 40<<10)
			}, []string{"--deadline", "10s"}, "and 40957 more", 1, 1}, // much to read on a busy machine
			"forgotten": {func(t *testing.T, s *site) {
				then := time.Now().Add(-8 * 24 * time.Hour)
				must(t, os.Chtimes(s.File+"-lock", then, then))
			}, nil, "no worker since", 1, 0},
		} {
			t.Run(name, func(t *testing.T) {
				s := newSite(t)
				must(t, s.Open(t).Close())
				if test.spoil != nil {
					test.spoil(t, s)
				}
				hooktest.WantSays(t, s.run(t, test.args...), test.says)
				s.WantRoots(t, slices.Repeat([]string{s.Path("a")}, test.roots)...)
				if test.rows >= 0 { // else nobody can read them
					s.WantRows(t, slices.Repeat([]string{s.Path("a")}, test.rows)...)
				}
			})
		}
	})
}

func (s *site) exec(t *testing.T, statement string) {
	t.Helper()
	db := s.raw(t)
	_, err := db.Exec(statement)
	must(t, err)
	must(t, db.Close())
}

func (s *site) garble(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(s.File, []byte(strings.Repeat("garbage ", 1000)), 0o644))
}

func TestArgumentsMayBeWrittenBothWays(t *testing.T) {
	for i, args := range [][]string{{"--queue", "$Q"}, {"--queue=$Q"}, {"--deadline=10s", "--queue", "$Q"}, {"--deadline", "10s", "--queue=$Q"}} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s, _ := newSiteWithQueue(t)
			s.env["LARDER_QUEUE"] = "/nowhere"
			for i, arg := range args {
				args[i] = strings.ReplaceAll(arg, "$Q", s.File)
			}
			hooktest.WantSays(t, s.run(t, args...), "")
			s.WantRows(t, s.Path("a"))
		})
	}
}

func TestQueueIsTheOneBesideTheProgramsName(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		delete(s.env, "LARDER_QUEUE")
		installed := filepath.Join(s.Dir, "bin", "larder-hook")
		must(t, os.Mkdir(filepath.Dir(installed), 0o755))
		must(t, os.Symlink(program, installed)) // the name counts, not what it leads to
		must(t, os.WriteFile(installed+".queue", []byte(s.File+"\n"), 0o644))
		cmd := s.command(t)
		cmd.Path, cmd.Args[0] = installed, installed
		hooktest.WantSays(t, finish(t, cmd), "")
		s.WantRows(t, s.Path("a"))
	})
}

func TestQueueIsTheUsersOwnByDefault(t *testing.T) {
	trouble.NeedRoot(t)
	for name, env := range map[string]string{"XDG_STATE_HOME": ".", "HOME": "../.."} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.uid = nobody
			delete(s.env, "LARDER_QUEUE")
			s.File = filepath.Join(s.Dir, ".local", "state", "larder", "queue.db")
			s.env[name] = filepath.Join(s.Dir, ".local", "state", env)
			must(t, s.Open(t).Close())
			must(t, os.Mkdir(s.State, 0o755))
			for _, file := range []string{filepath.Dir(s.File), s.File, s.File + "-lock", s.State} {
				must(t, os.Chown(file, nobody, nobody))
			}
			hooktest.WantSays(t, s.run(t), "")
			s.WantRows(t, s.Path("a"))
			s.WantRoots(t, s.Path("a"))
		})
	}
}
