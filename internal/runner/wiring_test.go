package runner

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixclient"
)

const (
	cache = "file:///cache?trusted=true"
	key   = "ci-1:cSWAATisHE3fbFAzKAJ+QJZ1jF4Ksfkz/nC6gLqvCio="
)

func TestNixIsToldWhatItTakesFromTheUser(t *testing.T) {
	settings := func(pairs ...any) map[string]any {
		m := map[string]any{"substituters": []string{"https://cache.nixos.org/"}}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1]
		}
		return m
	}
	everything := []string{"extra-substituters = " + cache, "fallback = true"}
	for name, tt := range map[string]struct {
		access   nixclient.Access
		trusted  bool
		apart    bool
		settings map[string]any
		wish     Wish
		lines    []string
		hook     bool
		inStore  bool
		next     string
		notes    []string // words in them
	}{
		"without a daemon": {
			access: nixclient.Local, trusted: true, settings: settings(),
			lines: everything, hook: true,
		},
		"a Nix that would build what is quick": {
			access: nixclient.Local, trusted: true, settings: settings("always-allow-substitutes", false),
			lines: append(everything[:2:2], "always-allow-substitutes = true"), hook: true,
		},
		"with a hook that is there": {
			access: nixclient.Local, trusted: true, settings: settings("post-build-hook", "/other/hook"),
			lines: everything, hook: true, next: "/other/hook",
		},
		"with a key": {
			access: nixclient.Local, trusted: true, settings: settings("trusted-public-keys", []string{"other-1:AAAA"}),
			wish:  Wish{PublicKeys: []string{key, "other-1:AAAA"}},
			lines: append(everything[:2:2], "extra-trusted-public-keys = "+key), hook: true,
		},
		"only to read": {
			access: nixclient.Local, trusted: true, settings: settings("post-build-hook", "/other/hook"), wish: Wish{Keep: false, Substituter: cache},
			lines: everything,
		},
		"trusted by a daemon": {
			access: nixclient.Daemon, trusted: true, settings: settings(),
			lines: everything, hook: true, inStore: true,
		},
		"trusted by a daemon that sees everything": {
			access: nixclient.Daemon, trusted: true, settings: settings(),
			lines: everything, hook: true,
		},
		"a daemon in another container": {
			access: nixclient.Daemon, trusted: true, apart: true, settings: settings(),
			lines: everything, inStore: true, notes: []string{"another container"},
		},
		"not trusted": {
			access: nixclient.Daemon, settings: settings("always-allow-substitutes", false, "post-build-hook", "/other/hook"),
			lines: nil, inStore: true, notes: []string{"does not trust you", "trusted-substituters = " + cache},
		},
		"not trusted, but allowed": {
			access: nixclient.Daemon, settings: settings("trusted-substituters", []string{cache}, "always-allow-substitutes", false),
			lines: everything, inStore: true, notes: []string{"does not trust you"},
		},
		"not trusted, and there already": {
			access: nixclient.Daemon, settings: settings("substituters", []string{cache}),
			lines: []string{"fallback = true"}, inStore: true, notes: []string{"does not trust you"},
		},
		"not trusted, with a key that the daemon does not know": {
			access: nixclient.Daemon, settings: settings("trusted-substituters", []string{cache}), wish: Wish{PublicKeys: []string{key}},
			lines: everything, inStore: true, notes: []string{"does not trust you", "extra-trusted-public-keys = " + key},
		},
		"not trusted, with a key that the daemon knows": {
			access: nixclient.Daemon, settings: settings("trusted-substituters", []string{cache}, "trusted-public-keys", []string{key}),
			wish:  Wish{PublicKeys: []string{key}},
			lines: everything, inStore: true, notes: []string{"does not trust you"},
		},
		"a Nix that may not find the cache": {
			access: nixclient.Local, trusted: true, settings: settings(), wish: Wish{Substituter: "file:///a%20b", Keep: true},
			lines: []string{"extra-substituters = file:///a%20b", "fallback = true"}, hook: true, notes: []string{"a space, a % or letters"},
		},
		"a Nix that finds it": {
			access: nixclient.Local, trusted: true, settings: settings("always-allow-substitutes", false), wish: Wish{Substituter: "file:///a%20b", Keep: true},
			lines: []string{"extra-substituters = file:///a%20b", "fallback = true", "always-allow-substitutes = true"}, hook: true,
		},
		"another machine's store": {
			access: nixclient.Elsewhere, trusted: true, settings: settings("store", "ssh-ng://other"),
			lines: everything, notes: []string{"ssh-ng://other"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := nixclient.New(tt.settings)
			c.Access, c.Trusted, c.Apart = tt.access, tt.trusted, tt.apart
			if tt.inStore && !tt.apart {
				c.DaemonPID = 1 // what it sees is not known
			}
			wish := tt.wish
			if wish.Substituter == "" {
				wish.Substituter, wish.Keep = cache, true
			}
			w := Wire(c, wish)
			if diff := cmp.Diff(tt.lines, w.Lines); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if w.Hook != tt.hook || w.InStore != tt.inStore || w.Next != tt.next {
				t.Errorf("hook %v, in store %v, next %q; want %v, %v, %q", w.Hook, w.InStore, w.Next, tt.hook, tt.inStore, tt.next)
			}
			if len(w.Notes) != len(tt.notes) {
				t.Fatalf("notes are %q, want some with %q", w.Notes, tt.notes)
			}
			for i, note := range w.Notes {
				if !strings.Contains(note, tt.notes[i]) {
					t.Errorf("note is %q, want %q in it", note, tt.notes[i])
				}
			}
		})
	}
}

func TestNixConfigIsAppendedTo(t *testing.T) {
	w := Wiring{Hook: true, Lines: []string{"fallback = true"}}
	for before, want := range map[string]string{
		"":                  "fallback = true\npost-build-hook = /hook\n",
		"sandbox = false":   "sandbox = false\nfallback = true\npost-build-hook = /hook\n",
		"sandbox = false\n": "sandbox = false\nfallback = true\npost-build-hook = /hook\n",
	} {
		if got := w.NixConfig(before, "/hook"); got != want {
			t.Errorf("after %q it is %q, want %q", before, got, want)
		}
	}
	w.Hook = false
	if got, want := w.NixConfig("", ""), "fallback = true\n"; got != want {
		t.Errorf("without a hook it is %q, want %q", got, want)
	}
}

func TestSettingsCanHaveWordsWithOneBlankBetween(t *testing.T) {
	for value, want := range map[string]bool{
		"/home/ci/hook": true, "/home/a b/hook": true, `/it's "it"/%20/hook`: true,
		"/home/a  b/hook": false, "/home/a\tb/hook": false, "/home/a\nb/hook": false, "/home/a /hook": true,
		"/home/hook ": false, "/job #3/hook": false, "/job#3/hook": false,
	} {
		if got := CanSet(value); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
