package nixstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const hash = "0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh"

func TestStorePathIsHashAndName(t *testing.T) {
	const dir = "/nix/store"
	for _, name := range []string{"-hello-2.12", "-hello.drv", "-a", "-A+-._?=9", "-.hidden", "-" + strings.Repeat("x", 211)} {
		path := dir + "/" + hash + name
		if err := CheckPath(dir, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if got := HashPart(path); got != hash {
			t.Errorf("hash of %s is %s", path, got)
		}
	}
	for _, path := range []string{
		"", "/", dir, dir + "/", hash + "-hello", "hello", "/gnu/store/" + hash + "-hello", dir + "2/" + hash + "-hello",
		dir + "/" + hash, dir + "/" + hash + "-", dir + "/" + hash + "hello", dir + "/" + hash[1:] + "-hello", dir + "/0" + hash + "-hello",
		dir + "/" + hash + "-" + strings.Repeat("x", 212), dir + "/" + strings.ToUpper(hash) + "-hello",
		dir + "/" + strings.Repeat("e", 32) + "-hello", dir + "/" + hash + "-hello/bin", dir + "/" + hash + "-hello/", dir + "//" + hash + "-hello",
		dir + "/./" + hash + "-hello", dir + "/" + hash + "-..//", dir + "/../store/" + hash + "-hello", dir + "/" + hash + "-he llo",
		dir + "/" + hash + "-hello\n", dir + "/" + hash + "-hello\x00", dir + "/" + hash + "-héllo", dir + "/" + hash + "-hello~", dir + "/.links",
		dir + "/" + hash + "-a:b", dir + "/" + hash + "-*", " " + dir + "/" + hash + "-hello",
	} {
		if CheckPath(dir, path) == nil {
			t.Errorf("%q is said to be a store path", path)
		}
	}
}

func FuzzCheckPath(f *testing.F) {
	for _, path := range []string{"/nix/store/" + hash + "-hello", "/nix/store/" + hash + "-..", "/nix/store//" + hash + "-a", "/nix/store/../" + hash + "-a"} {
		f.Add("/nix/store", path)
	}
	f.Add("", "/"+hash+"-hello")
	f.Fuzz(func(t *testing.T, dir, path string) {
		if CheckPath(dir, path) != nil {
			return
		}
		// Callers put such a path into file names and SQL without another look.
		name, ok := strings.CutPrefix(path, dir+"/")
		if !ok || filepath.Base(path) != name || strings.ContainsAny(name, "/\x00\n ") || name != filepath.Clean(name) || len(name) > 255 {
			t.Errorf("%q is said to be a store path of %q", path, dir)
		}
		if got := HashPart(path); len(got) != 32 || !strings.HasPrefix(name, got+"-") {
			t.Errorf("hash of %q is %q", path, got)
		}
		if filepath.IsAbs(dir) && filepath.Clean(dir) == dir && dir != "/" {
			if got, err := ParsePath(dir, path); got != path || err != nil {
				t.Errorf("%q is read as %q, %v", path, got, err)
			}
		}
	})
}

func TestPeopleNamePathsInManyWays(t *testing.T) {
	top := t.TempDir()
	store := filepath.Join(top, "real", "store")
	hello, link := filepath.Join(store, hash+"-hello"), filepath.Join(store, hash+"-link")
	must(t, os.MkdirAll(filepath.Join(hello, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(hello, "bin", "hello"), nil, 0o755))
	must(t, os.Symlink(hello, link)) // a store path may be a link
	must(t, os.Symlink("../outside", filepath.Join(hello, "out")))
	must(t, os.Symlink(hello, filepath.Join(top, "result")))
	must(t, os.Symlink(link, filepath.Join(top, "result-link")))
	must(t, os.Symlink(filepath.Join(link, "bin"), filepath.Join(top, "result-inside")))
	must(t, os.Symlink("result", filepath.Join(top, "again")))
	must(t, os.Symlink("real/../again", filepath.Join(top, "and-again")))
	must(t, os.Symlink(filepath.Join(top, "real"), filepath.Join(top, "dir")))
	must(t, os.Symlink("loop", filepath.Join(top, "loop")))
	must(t, os.Symlink(filepath.Join(top, "nowhere"), filepath.Join(top, "dangling")))
	gone := filepath.Join(store, hash+"-gone")
	must(t, os.Symlink(gone, filepath.Join(top, "result-gone")))
	t.Chdir(top)

	for arg, want := range map[string]string{
		hello:                                    hello,
		hello + "/":                              hello,
		hello + "/bin/hello":                     hello,
		hello + "/not/there":                     hello,
		hello + "/out/x":                         hello, // a link inside leads nowhere else
		link:                                     link,
		link + "/bin/hello":                      link,
		gone:                                     gone, // whether it is valid is another question
		"result":                                 hello,
		"./result":                               hello,
		"result/":                                hello,
		"result/bin/hello":                       hello,
		"result-link":                            link,
		"result-inside":                          link,
		"result-inside/hello":                    link,
		"result-gone":                            gone,
		"again":                                  hello,
		"and-again/bin":                          hello,
		"dir/store/" + hash + "-x":               filepath.Join(store, hash+"-x"),
		"real/store/../store/" + hash + "-hello": hello,
	} {
		if got, err := ParsePath(store, arg); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %s", arg, got, err, want)
		}
	}
	for _, arg := range []string{
		"", ".", "/", "missing", "loop", "dangling", "real", "real/store", store, store + "/.links", store + "/hello", store + "/" + hash,
		"real/store/" + hash, top, "dir",
	} {
		if got, err := ParsePath(store, arg); err == nil {
			t.Errorf("%q was read as %s", arg, got)
		}
	}
}
