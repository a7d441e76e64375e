package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// env returns a getenv that knows only the given variables.
func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestHookSettingsAreFoundWhereNixLooks(t *testing.T) {
	dir := t.TempDir()
	system := write(t, dir+"/etc/nix.conf", "sandbox = false\npost-build-hook = /a # mine\ninclude more.conf\n!include missing.conf\n")
	more := write(t, dir+"/etc/more.conf", "  post-build-hook   =   /b\n# post-build-hook = /no\ninclude nix.conf\n")
	home := write(t, dir+"/home/.config/nix/nix.conf", "post-build-hook = /c\n")
	xdg := write(t, dir+"/xdg/nix/nix.conf", "post-build-hook = /d\n")
	other := write(t, dir+"/other.conf", "post-build-hook = /e\n")
	none := write(t, dir+"/none.conf", "post-build-hook =\npost-build-hook-timeout = 1\n")
	spaces := write(t, dir+"/spaces.conf", "post-build-hook = /with   space\n")

	base := map[string]string{"NIX_CONF_DIR": dir + "/etc", "HOME": dir + "/home"}
	for _, tt := range []struct {
		name string
		vars map[string]string
		want []hookSetting
	}{
		{"files", nil, []hookSetting{{system, "/a"}, {more, "/b"}, {home, "/c"}}},
		{"XDG", map[string]string{"XDG_CONFIG_HOME": dir + "/xdg"}, []hookSetting{{system, "/a"}, {more, "/b"}, {xdg, "/d"}}},
		{"named", map[string]string{"NIX_USER_CONF_FILES": other + ":" + dir + "/nowhere"}, []hookSetting{{system, "/a"}, {more, "/b"}, {other, "/e"}}},
		{"the first counts most", map[string]string{"NIX_USER_CONF_FILES": spaces + ":" + none + ":" + other},
			[]hookSetting{{system, "/a"}, {more, "/b"}, {other, "/e"}, {none, ""}, {spaces, "/with space"}}},
		{"environment", map[string]string{"NIX_CONFIG": "cores = 1\npost-build-hook = /f"},
			[]hookSetting{{system, "/a"}, {more, "/b"}, {home, "/c"}, {"the environment's NIX_CONFIG", "/f"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vars := map[string]string{}
			for _, from := range []map[string]string{base, tt.vars} {
				for name, value := range from {
					vars[name] = value
				}
			}
			got, _, err := hookSettings(env(vars))
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("hookSettings = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestUseCaseHackIsWhatNixMakesOfIt(t *testing.T) {
	dir := t.TempDir()
	on := write(t, dir+"/on.conf", "use-case-hack = true\n")
	off := write(t, dir+"/off.conf", "use-case-hack = true # not yet\nuse-case-hack=true\nuse-case-hack = false\n")
	for _, tt := range []struct {
		files, config string
		want          string
	}{
		{dir + "/none", "", "<nil>"},
		{on, "", "true"},
		{off, "", "false"},
		{on + ":" + off, "", "true"}, // the first one counts
		{off + ":" + on, "", "false"},
		{off, "use-case-hack = yes", "true"},
	} {
		got, err := useCaseHack(env(map[string]string{"NIX_CONF_DIR": dir, "NIX_USER_CONF_FILES": tt.files, "NIX_CONFIG": tt.config}))
		text := "<nil>"
		if got != nil {
			text = fmt.Sprint(*got)
		}
		if err != nil || text != tt.want {
			t.Errorf("with the files %s and NIX_CONFIG=%q it is %s, %v, want %s", tt.files, tt.config, text, err, tt.want)
		}
	}
}

func TestParseStatTakesAnyName(t *testing.T) {
	const fields = " 99 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 12345 20 21"
	for name, want := range map[string]process{
		"42 (nix-daemon) S" + fields: {42, "nix-daemon", 99, 123460 * time.Millisecond},
		"7 (a) (b) c) R" + fields:    {7, "a) (b) c", 99, 123460 * time.Millisecond},
	} {
		if got, err := parseStat(name); err != nil || got != want {
			t.Errorf("parseStat(%q) = %+v, %v, want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "1", "1 (x", "1 (x) S 1 2 3", "x (y) S" + fields} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestParseStatReadsThisProcess(t *testing.T) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Skip("no /proc here")
	}
	p, err := parseStat(string(text))
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootTime()
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(boot.Add(p.sinceBoot)); p.pid != os.Getpid() || age < -50*time.Millisecond || age > time.Hour {
		t.Errorf("this process is %+v, started %v ago; its ID is %d", p, age, os.Getpid())
	}
}
