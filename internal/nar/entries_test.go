package nar

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

func TestCaseHack(t *testing.T) {
	for _, test := range []struct {
		name, want string
	}{
		{"a", "a"},
		{"a~nix~case~hack~1", "a"},
		{"a~nix~case~hack~1~nix~case~hack~2", "a"},
		{"a~nix~case~hack", "a~nix~case~hack"},
	} {
		if got := (entry{name: test.name}).archiveName(true); got != test.want {
			t.Errorf("archive name of %q is %q, want %q", test.name, got, test.want)
		}
		if got := (entry{name: test.name}).archiveName(false); got != test.name {
			t.Errorf("without the hack, archive name of %q is %q, want %q", test.name, got, test.name)
		}
	}
}

// TestDumpWithCaseHackIsWhatNixWrites has what Nix makes of one directory with "a",
// "A" and more on a Mac, and of names that only look like it.
func TestDumpWithCaseHackIsWhatNixWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	directory(map[string]tree{
		"A":                                 file("1"),
		"a~nix~case~hack~1":                 directory(map[string]tree{"x~nix~case~hack~": symlink("x~nix~case~hack~1")}),
		"a-":                                file("sorts before the one above, and after what is left of it"),
		"B~nix~case~hack":                   file("not all of the suffix"),
		"b~nix~case~hack~1~nix~case~hack~2": file("the first one counts"),
		"~nix~case~hack~3":                  file("nothing is left"),
	}).create(t, path)
	for _, on := range []bool{true, false} {
		d := Dumper{CaseHack: &on}
		var buf bytes.Buffer
		if _, err := d.Dump(t.Context(), &buf, path); err != nil {
			t.Fatal(err)
		}
		diff(t, fmt.Sprint("nix-store with the hack ", on), buf.Bytes(), nixDump(t, path, "--option", "use-case-hack", fmt.Sprint(on)))
	}
	diff(t, "Dump on its own", dump(t, path), nixDump(t, path))

	directory(nil).create(t, filepath.Join(path, "a"))
	d := Dumper{CaseHack: new(true)}
	_, err := d.Dump(t.Context(), io.Discard, path)
	// Which of them is told of first is a matter of the directory.
	want := regexp.MustCompile(`^dump .*/x: "a(~nix~case~hack~1)?" and "a(~nix~case~hack~1)?" have the same name in a nar$`)
	if err == nil || !want.MatchString(err.Error()) {
		t.Errorf("error is %v, want one like %v", err, want)
	}
}

func TestSortEntries(t *testing.T) {
	for _, test := range []struct {
		name     string
		caseHack bool
		names    []string
		want     []string
		err      string
	}{
		{
			name:  "bytes",
			names: []string{"b", "a.b", "\xff", "a", "B", "a-b", "..data"},
			want:  []string{"..data", "B", "a", "a-b", "a.b", "b", "\xff"},
		},
		{
			name:  "listed twice",
			names: []string{"b", "a", "b"},
			want:  []string{"a", "b"},
		},
		{
			name:  "hack is off",
			names: []string{"a~nix~case~hack~1", "aa", "a"},
			want:  []string{"a", "aa", "a~nix~case~hack~1"},
		},
		{
			name:     "by what is left of the name",
			caseHack: true,
			names:    []string{"ab", "a~nix~case~hack~1", "A", "aa"},
			want:     []string{"A", "a~nix~case~hack~1", "aa", "ab"},
		},
		{
			name:     "collision",
			caseHack: true,
			names:    []string{"a~nix~case~hack~1", "b", "a~nix~case~hack~2"},
			err:      `"a~nix~case~hack~1" and "a~nix~case~hack~2" have the same name in a nar`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var entries []entry
			for _, name := range test.names {
				entries = append(entries, entry{name: name})
			}
			entries, err := sortEntries(entries, test.caseHack)
			if err != nil {
				if err.Error() != test.err {
					t.Errorf("error is %v, want %s", err, test.err)
				}
				return
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.name)
			}
			if test.err != "" || !slices.Equal(got, test.want) {
				t.Errorf("sorted is %q, want %q and error %q", got, test.want, test.err)
			}
		})
	}
}
