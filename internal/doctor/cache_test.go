package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

// publish makes an entry, with the fields that change sets, and returns it.
func (s *site) publish(t *testing.T, name string, change func(n *bincache.NarInfo)) *bincache.NarInfo {
	t.Helper()
	cache, err := bincache.Open(s.Cache, s.Dirs.Store)
	must(t, err)
	defer cache.Close()
	hash := bincache.Hash([]byte(fmt.Sprintf("%032s", name)))
	n := &bincache.NarInfo{
		StorePath: s.Dirs.Store + "/" + hash.Digits()[:32] + "-" + name, URL: "nar/" + name + ".nar", Compression: "none",
		FileHash: hash, FileSize: 3, NarHash: hash, NarSize: 3, References: []string{},
	}
	if change != nil {
		change(n)
	}
	nar, err := cache.CreateTemp()
	must(t, err)
	_, err = nar.WriteString("nar")
	must(t, err)
	must(t, cache.PublishNar(nar, n.URL))
	info, err := cache.TempNarInfo(n)
	must(t, err)
	_, err = cache.PublishNarInfo(t.Context(), info, n.StorePath)
	must(t, err)
	return n
}

func TestCacheThatIsNoneIsFound(t *testing.T) {
	s := newSite(t)
	must(t, os.RemoveAll(s.Cache))
	f := s.finds(t, checkCache, Problem, "is not there")
	if !strings.HasPrefix(f.Run[0], "larder init --cache "+s.Cache) {
		t.Errorf("type %q", f.Run)
	}
	queued := s.Queue
	s.Queue = nil
	s.isFine(t, checkCache) // larder run makes it
	s.Queue = queued

	must(t, os.MkdirAll(filepath.Join(s.Cache, "homework"), 0o755))
	s.finds(t, checkCache, Problem, "something else than a cache")
	must(t, os.WriteFile(filepath.Join(s.Cache, "nix-cache-info"), []byte("StoreDir: /gnu/store\n"), 0o644))
	s.finds(t, checkCache, Problem, "another store directory")
	must(t, os.RemoveAll(s.Cache))
	must(t, os.WriteFile(s.Cache, nil, 0o644))
	s.finds(t, checkCache, Problem, "something else than a cache")
}

// Archives and CI providers drop empty directories.
func TestDirectoriesThatACacheHasLostAreFound(t *testing.T) {
	s := newSite(t)
	s.isFine(t, checkCache)
	for dir, say := range map[string]string{
		"nar": "has lost its nar", "log": "has lost its log", "realisations": "has no realisations", "build-trace-v2": "has no build-trace-v2, which only some",
	} {
		must(t, os.RemoveAll(filepath.Join(s.Cache, dir)))
		s.cures(t, checkCache, s.finds(t, checkCache, Warning, say))
	}
	must(t, os.RemoveAll(filepath.Join(s.Cache, "realisations")))
	must(t, os.RemoveAll(filepath.Join(s.Cache, "build-trace-v2")))
	s.cures(t, checkCache, s.finds(t, checkCache, Warning, "has lost its realisations, build-trace-v2"))
	trouble.NeedRoot(t)
	must(t, os.RemoveAll(filepath.Join(s.Cache, "build-trace-v2")))
	if f := inChild(t, "nobody", "cache", s.Cache); f.Severity != Warning {
		t.Errorf("for those who may not make what their Nix does not know: %s", show([]Finding{f}))
	}
	must(t, os.MkdirAll(filepath.Join(s.Cache, "build-trace-v2"), 0o755))
	must(t, os.RemoveAll(filepath.Join(s.Cache, "log")))
	if f := inChild(t, "nobody", "cache", s.Cache); f.Severity != Problem {
		t.Errorf("for those who may not make it: %s", show([]Finding{f}))
	}
}

func TestFilesThatReadersMayNotReadAreFound(t *testing.T) {
	for _, spoil := range []func(cache string, n *bincache.NarInfo) (string, os.FileMode){
		func(cache string, n *bincache.NarInfo) (string, os.FileMode) {
			return filepath.Join(cache, n.URL), 0o600
		},
		func(cache string, n *bincache.NarInfo) (string, os.FileMode) {
			return filepath.Join(cache, filepath.Base(n.StorePath)[:32]+".narinfo"), 0o640
		},
		func(cache string, n *bincache.NarInfo) (string, os.FileMode) {
			return filepath.Join(cache, "nar"), 0o700
		},
		func(cache string, n *bincache.NarInfo) (string, os.FileMode) { return cache, 0o750 },
	} {
		s := newSite(t)
		n := s.publish(t, "entry", nil)
		s.isFine(t, checkCache)
		file, mode := spoil(s.Cache, n)
		must(t, os.Chmod(file, mode))
		s.cures(t, checkCache, s.finds(t, checkCache, Problem, "may be read by fewer"))
	}
	// What a group shares is meant to be closed to others.
	s := newSite(t)
	must(t, os.RemoveAll(s.Cache))
	c, err := bincache.Create(s.Cache, s.Dirs.Store, bincache.Options{Mode: 0o640})
	must(t, err)
	must(t, c.Close())
	s.publish(t, "entry", nil)
	s.isFine(t, checkCache)
}

func TestDirectoryThatReadersMayNotEnterIsFound(t *testing.T) {
	s := newSite(t)
	must(t, os.Chmod(s.dir, 0o700))
	s.isFine(t, checkCache) // a home is like that, and root goes anywhere
	onNFS := func(context.Context, *Setup) []Finding { return s.closedToRoot("NFS") }
	s.cures(t, onNFS, s.finds(t, onNFS, Warning, "not everybody may enter "+s.dir))

	trouble.NeedRoot(t)
	must(t, os.Chmod(s.dir, 0o700))
	f := inChild(t, "nobody", "cache", s.Cache)
	if f.Severity != Problem || !strings.Contains(f.What, "permission denied") || !strings.Contains(f.Run[0], "chmod a+x "+s.dir) {
		t.Errorf("nobody finds %s", show([]Finding{f}))
	}
}

func TestDamagedEntriesAreFound(t *testing.T) {
	s := newSite(t)
	n := s.publish(t, "entry", nil)
	s.publish(t, "other", nil)
	must(t, os.Remove(filepath.Join(s.Cache, n.URL)))
	f := s.finds(t, checkCache, Problem, n.URL+" is missing")
	if !strings.Contains(f.Advice, "larder verify --queue "+s.Queue.File+" lists") {
		t.Errorf("advice is %q", f.Advice)
	}
	s.do(t, f)
	s.finds(t, checkCache, Warning, n.URL+" is missing") // builds go on
	must(t, os.Remove(filepath.Join(s.Cache, filepath.Base(n.StorePath)[:32]+".narinfo")))
	s.isFine(t, checkCache)
}

func TestCacheThatNixDoesNotReadFromIsFound(t *testing.T) {
	s := newSite(t)
	plain := bincache.URL(s.Cache)
	link := filepath.Join(s.dir, "link")
	must(t, os.Symlink(s.Cache, link))
	for substituter, what := range map[string]string{
		"https://cache.nixos.org":        "does not read from the cache",
		"file:///elsewhere?trusted=true": "does not read from the cache",
		plain + "/?trusted=true":         "by another name",
		plain + "?trusted=1":             "by another name",
		plain + "?priority=1":            "by another name",
		"file://" + link:                 "by another name",
	} {
		s.configure(t, map[string]any{"substituters": []string{substituter}})
		f := s.finds(t, checkSubstituter, Warning, what)
		s.cures(t, checkSubstituter, f)
	}
	// Nix takes it for a whole store, which it makes.
	for _, bare := range []string{s.Cache, s.Cache + "?trusted=true"} {
		s.configure(t, map[string]any{"substituters": []string{bare, bincache.SubstituterURL(s.Cache)}})
		f := s.finds(t, checkSubstituter, Problem, "without file://")
		if f.NixConf[0] != "extra-substituters = "+bincache.SubstituterURL(s.Cache) {
			t.Errorf("nix.conf %q", f.NixConf)
		}
	}
	must(t, os.MkdirAll(filepath.Join(s.Cache, "nix", "store"), 0o755))
	if f := s.finds(t, checkSubstituter, Problem, "without file://"); !strings.Contains(f.Advice, filepath.Join(s.Cache, "nix")) {
		t.Errorf("advice is %q", f.Advice)
	}
}

func TestSubstituterThatTheDaemonRefusesIsFound(t *testing.T) {
	s := newSite(t)
	s.untrusted()
	s.System = asked(t, map[string]any{}, nil)
	s.cures(t, checkSubstituter, s.finds(t, checkSubstituter, Problem, "in your own settings"))

	s.forRun(t)
	s.finds(t, checkTrust, Warning, "does not trust you")
	s.cures(t, checkSubstituter, s.finds(t, checkSubstituter, Problem, "does not let you use the cache"))
	s.Nix.Trusted = true
	s.configure(t, map[string]any{"trusted-substituters": []string{}})
	s.isFine(t, checkSubstituter)
	s.isFine(t, checkTrust)
}

// A signer has a key.
type signer struct {
	secret signature.SecretKey
	public string
}

func newSigner(t *testing.T, name string) signer {
	t.Helper()
	secret, public, err := signature.GenerateKeypair(name, rand.Reader)
	must(t, err)
	return signer{secret, public.String()}
}

func (k signer) sign(t *testing.T) func(*bincache.NarInfo) {
	return func(n *bincache.NarInfo) {
		t.Helper()
		sig, err := k.secret.Sign(rand.Reader, n.Fingerprint())
		must(t, err)
		n.Sigs = append(n.Sigs, sig.String())
	}
}

func TestEntriesThatNixDoesNotBelieveAreFound(t *testing.T) {
	key := newSigner(t, "ours-1")
	forged := func(n *bincache.NarInfo) {
		key.sign(t)(n)
		n.NarHash[0]++
	}
	for name, test := range map[string]struct {
		entry func(*bincache.NarInfo)
		what  string
	}{
		"unsigned":       {nil, "1 entry of those looked at have no signature"},
		"by a stranger":  {newSigner(t, "theirs-1").sign(t), "by none of trusted-public-keys, but by theirs-1"},
		"changed since":  {forged, "signatures of 1 entry are invalid"},
		"of another key": {newSigner(t, "ours-1").sign(t), "signatures of 1 entry are invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.configure(t, map[string]any{"substituters": []string{bincache.URL(s.Cache)}, "trusted-public-keys": []string{key.public}})
			s.publish(t, "good", key.sign(t))
			s.isFine(t, checkKeys)
			s.publish(t, "bad", test.entry)
			f := s.finds(t, checkKeys, Problem, test.what)
			if name == "unsigned" {
				s.do(t, f)
			} else {
				s.configure(t, map[string]any{"substituters": []string{bincache.SubstituterURL(s.Cache)}})
			}
			if strings.Contains(test.what, "invalid") {
				s.finds(t, checkKeys, Warning, test.what) // used, but something is wrong
				return
			}
			s.isFine(t, checkKeys)
		})
	}
}

func TestSignaturesDoNotMatterWithoutRequireSigs(t *testing.T) {
	s := newSite(t)
	s.configure(t, map[string]any{"substituters": []string{bincache.URL(s.Cache)}})
	s.publish(t, "unsigned", nil)
	s.finds(t, checkKeys, Problem, "no signature")
	s.configure(t, map[string]any{"require-sigs": false})
	s.isFine(t, checkKeys)
}

func TestKeyThatNixDoesNotKnowIsFound(t *testing.T) {
	s := newSite(t)
	key, other := newSigner(t, "ours-1"), newSigner(t, "ours-1")
	s.PublicKeys = []string{key.public}
	s.configure(t, map[string]any{"substituters": []string{bincache.URL(s.Cache)}})
	s.publish(t, "entry", key.sign(t))
	s.cures(t, checkKeys, s.finds(t, checkKeys, Problem, "does not trust the cache's key ours-1"))

	s.configure(t, map[string]any{"trusted-public-keys": []string{other.public, key.public}})
	f := s.finds(t, checkKeys, Problem, "another key by the name ours-1")
	if !strings.Contains(f.Advice, "remove "+other.public) {
		t.Errorf("advice is %q", f.Advice)
	}
	s.configure(t, map[string]any{"trusted-public-keys": []string{}})
	s.forRun(t)
	s.isFine(t, checkKeys) // larder run tells Nix of it
	s.untrusted()
	s.finds(t, checkKeys, Problem, "does not trust the cache's key ours-1")
}

func TestKeyThatCantBeReadIsFound(t *testing.T) {
	s := newSite(t)
	s.KeyErr = errors.New("read signing key: open /key: no such file or directory")
	if f := s.finds(t, checkKeys, Problem, "open /key"); !strings.Contains(f.Advice, "--signing-key-file") {
		t.Errorf("advice is %q", f.Advice)
	}
}
