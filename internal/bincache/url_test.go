package bincache

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/nixtest"
)

func TestCacheIsNamedByURLOrDirectory(t *testing.T) {
	here, err := filepath.Abs(".")
	must(t, err)
	for arg, want := range map[string]string{
		"file:///cache":                      "/cache",
		"file:///cache/":                     "/cache",
		"file:///a/../cache":                 "/cache",
		"file:///cache?trusted=true":         "/cache",
		"file:///cache?compression=xz&a=b":   "/cache",
		"file:///with%20space":               "/with space",
		"file:///what%3F":                    "/what?",
		"file:///100%25":                     "/100%",
		"file:///number#1":                   "/number#1",
		"file:///caf%C3%A9":                  "/café",
		"file:///café":                       "/café",
		"/cache":                             "/cache",
		"/cache/":                            "/cache",
		"/100%/what?":                        "/100%/what?",
		"cache":                              filepath.Join(here, "cache"),
		"./cache":                            filepath.Join(here, "cache"),
		"file:///cache%2Fsub":                "/cache/sub",
		"file:///cache/build?store=/s&x=%20": "/cache/build",
	} {
		if got, err := ParseURL(arg); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", arg, got, err, want)
		}
	}
}

func TestCacheElsewhereIsRefused(t *testing.T) {
	for _, arg := range []string{
		"", "s3://bucket", "s3://bucket/prefix?region=eu", "https://cache.nixos.org", "ssh://host/cache", "FILE:///cache",
		"file://cache", "file://localhost/cache", "file://./cache", "file://", "file:///%zz", "file:/cache", "file:cache",
	} {
		if dir, err := ParseURL(arg); err == nil {
			t.Errorf("%q was read as directory %q", arg, dir)
		}
	}
}

var directories = []string{
	"/cache", "/a/b/c", "/with space", "/100%", "/%20", "/what?", "/a?b=c&d", "/number#1", "/café", "/日本", "/a:b@c", "/semi;colon",
	"/plus+", "/quote'\"", "/back\\slash", "/[brackets]", "/tilde~", "/not\xffutf8", "/tab\t", "/",
}

func TestURLOfADirectoryIsReadBack(t *testing.T) {
	for _, dir := range directories {
		for _, u := range []string{URL(dir), SubstituterURL(dir)} {
			if got, err := ParseURL(u); got != dir || err != nil {
				t.Errorf("%q has URL %s, which is %q, %v", dir, u, got, err)
			}
			if parsed, err := url.Parse(u); err != nil || parsed.Scheme != "file" || parsed.Host != "" || parsed.Path != dir {
				t.Errorf("%q has URL %s, which is %+v, %v", dir, u, parsed, err)
			}
			if strings.ContainsAny(u, " \t\n") {
				t.Errorf("%q has URL %q, which is several words in nix.conf", dir, u)
			}
		}
	}
}

// TestNixFindsACacheByItsURL leaves out what Nix 2.8 can't find: it takes escapes
// for what they look like.
func TestNixFindsACacheByItsURL(t *testing.T) {
	s := nixtest.New(t)
	top := t.TempDir()
	path := s.Add(t, "source", "source")
	for _, dir := range directories {
		if dir == "/" || strings.Contains(URL(dir), "%") {
			continue
		}
		dir = filepath.Join(top, dir)
		c, err := Create(dir, s.Dir, Options{})
		must(t, err)
		defer c.Close()
		s.Run(t, "nix", "copy", "--to", URL(dir)+"?compression=none", path)
		if _, err := c.Entry(path); err != nil {
			t.Errorf("Nix copied %s to another place than %q: %v", path, dir, err)
		}
	}
}

func FuzzURLOfADirectoryIsReadBack(f *testing.F) {
	for _, dir := range directories {
		f.Add(dir)
	}
	f.Fuzz(func(t *testing.T, dir string) {
		dir = filepath.Clean("/" + dir)
		if got, err := ParseURL(URL(dir)); got != dir || err != nil {
			t.Errorf("%q has URL %s, which is %q, %v", dir, URL(dir), got, err)
		}
	})
}
