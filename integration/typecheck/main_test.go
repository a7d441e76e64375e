package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyWhatDoesNotCompileThereIsFound(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"go.mod":          "module example.org/m\n\ngo 1.26.0\n",
		"good/a.go":       "package good\n\nimport \"os/user\"\n\n// int _ = 1;\nimport \"C\"\n\nvar _ = user.Current\n\nfunc F(n int) { C.whatever(n) }\n",
		"good/a_linux.go": "package good\n\nvar onLinux = notThere\n",
		"good/b_other.go": "//go:build !linux\n\npackage good\n\nvar elsewhere = true\n",
		"good/a_test.go":  "package good\n\nvar _ = elsewhere\n",
		"good/x_test.go":  "package good_test\n\nimport \"example.org/m/good\"\n\nvar _ = good.F\n",
		"bad/a.go":        "package bad\n\nimport (\n\t\"syscall\"\n\n\t_ \"example.org/m/bad/deep\"\n)\n\nvar _ = syscall.SOCK_CLOEXEC\n",
		"bad/a_test.go":   "package bad\n\nimport \"syscall\"\n\nvar _ = syscall.MS_BIND\n",
		"bad/deep/a.go":   "package deep\n\nvar X uint8 = 256\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		goos, pkg string
		want      []string
	}{
		{"darwin", "./good", nil},
		{"linux", "./good", []string{
			"good/a_linux.go:3:15: undefined: notThere",
			"good/a_test.go:3:9: undefined: elsewhere",
		}},
		{"darwin", "./bad", []string{
			"bad/a.go:9:17: undefined: syscall.SOCK_CLOEXEC",
			"bad/a_test.go:5:17: undefined: syscall.MS_BIND",
			"bad/deep/a.go:3:15: cannot use 256 (untyped int constant) as uint8 value in variable declaration (overflows)",
		}},
	} {
		problems, err := check(test.goos, "arm64", "", []string{test.pkg})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, problem := range problems {
			got = append(got, fmt.Sprint(problem))
		}
		var want []string
		for _, problem := range test.want {
			want = append(want, filepath.Join(dir, problem))
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s on %s (-want +got):\n%s", test.pkg, test.goos, diff)
		}
	}
}

func TestUnknownPackageIsAnError(t *testing.T) {
	if problems, err := check("darwin", "arm64", "", []string{"./none"}); err == nil {
		t.Errorf("problems are %v, and there is no error", problems)
	}
}
