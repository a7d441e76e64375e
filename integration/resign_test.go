package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// signedCache is a cache of which everything is signed by a key, but for sources, with
// the key's files.
type signedCache struct {
	*larder
	top            string // input-addressed
	source, text   string // content-addressed, as is the fixed output
	fixed          string
	secret, public string
}

// newSignedCache makes one with the key old-1.
func newSignedCache(t *testing.T, n nix) *signedCache {
	t.Helper()
	l := &larder{machine: newMachine(t, n), cache: filepath.Join(tempDir(t), "cache")}
	c := &signedCache{larder: l, source: l.addSource(t, "source")}
	c.secret, c.public = l.newKey(t, "old-1")
	c.top = l.build(t, chain("2")...)[1]
	c.text = l.run(t, "nix-instantiate", "--eval", "--expr", `builtins.toFile "text" "some text"`, "--read-write-mode")
	c.text = strings.Trim(c.text, `"`)
	c.fixed = l.build(t, "--expr", `import /larder/graphs/derive.nix "fixed" { outputHashAlgo = "sha256";
		outputHash = builtins.hashString "sha256" "fixed\n"; } "echo fixed > $out"`)[0]
	l.push(t, "--signing-key-file", c.secret, c.top)
	l.push(t, c.source, c.text, c.fixed)
	l.signedBy(t, []string{c.source, c.text, c.fixed})
	return c
}

// A reader substitutes into one store after the other, which are all empty.
type reader struct {
	*machine
	stores int
}

func newReader(t *testing.T, n nix) *reader {
	t.Helper()
	return &reader{machine: newMachine(t, n, "require-sigs = true", "trusted-public-keys =")}
}

// takes fails the test if a client with some keys takes a path from a cache and should
// not, or the other way round.
func (r *reader) takes(t *testing.T, want bool, what, cache, path string, keys ...string) {
	t.Helper()
	r.stores++
	store := fmt.Sprintf("local?root=/root/store-%d", r.stores)
	_, stderr, exit := r.tryRun(t, "nix-store", "--store", store, "--realise", "--max-jobs", "0", "--option", "substituters", "file://"+cache,
		"--option", "trusted-public-keys", strings.Join(keys, " "), path)
	if took := exit == 0; took != want {
		t.Errorf("%s: with the keys %q %s is taken: %t, want %t: %s", what, keys, path, took, want, stderr)
	}
}

// A key is retired: every entry goes from the old to the new one, and clients follow.
func TestClientsAcceptExactlyWhatLarderHasSigned(t *testing.T) {
	t.Parallel()
	c := newSignedCache(t, nixes[0])
	before := filepath.Join(tempDir(t), "before")
	c.run(t, "cp", "-r", c.cache, before)
	secret, public := c.newKey(t, "new-1")
	_, other := c.newKey(t, "new-1") // of the same name
	paths := len(c.cached(t))
	sign := []string{"larder", "sign", "--json", "--cache", c.cache, "--signing-key-file", secret, "--drop-key", "old-1", "--trusted-public-key", c.public}
	fields := []string{"cache", "dry_run", "entries", "changed", "added", "dropped", "untrusted", "unsigned", "damaged", "realisations", "realisations_changed"}
	number := func(n int) json.Number { return json.Number(fmt.Sprint(n)) }
	written := files(t, c.cache)
	for _, dryRun := range []bool{true, false} {
		args := sign
		if dryRun {
			args = append(sign[:len(sign):len(sign)], "--dry-run")
		}
		if r := object(t, c.run(t, args...), fields...); r["entries"] != number(paths) || r["changed"] != number(2) || r["added"] != number(2) ||
			r["dropped"] != number(2) || r["untrusted"] != number(paths-2) || r["unsigned"] != number(0) || r["dry_run"] != dryRun {
			t.Errorf("sign says %v", r)
		}
		if dryRun {
			unchanged(t, "a dry run", written, files(t, c.cache))
		}
	}
	written = files(t, c.cache)
	if r := object(t, c.run(t, sign...), fields...); r["changed"] != number(0) {
		t.Errorf("the second time sign says %v", r)
	}
	unchanged(t, "a cache that is signed", written, files(t, c.cache))
	c.verify(t)
	checkWhole(t, c.cache)

	// tampered returns a cache in which somebody has changed the entry of top.
	tampered := func(from, to string) string {
		t.Helper()
		dir := filepath.Join(tempDir(t), "cache")
		c.run(t, "cp", "-r", c.cache, dir)
		file := filepath.Join(dir, filepath.Base(c.top)[:32]+".narinfo")
		text, err := os.ReadFile(file)
		must(t, err)
		var changed []string
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, from) {
				line = to
			}
			changed = append(changed, line)
		}
		must(t, os.WriteFile(file, []byte(strings.Join(changed, "")), 0o644))
		return dir
	}
	source := narInfoLines(t, c.cache, c.source)
	bad := map[string]string{
		"another NAR":       tampered("NarHash: ", "NarHash: "+source["NarHash"]+"\n"),
		"another size":      tampered("NarSize: ", "NarSize: "+source["NarSize"]+"1\n"),
		"no references":     tampered("References: ", "References: \n"),
		"other references":  tampered("References: ", "References: "+filepath.Base(c.source)+"\n"),
		"another path":      tampered("StorePath: ", "StorePath: "+c.top+"-\n"),
		"another's content": tampered("Sig: ", "CA: "+source["CA"]+"\n"),
		"no signature":      tampered("Sig: ", ""),
		"another's sig":     tampered("Sig: ", "Sig: "+strings.Replace(narInfoLines(t, before, c.top)["Sig"], "old-1", "new-1", 1)+"\n"),
	}
	good := map[string]string{
		"another deriver": tampered("Deriver: ", "Deriver: "+filepath.Base(c.top)+".drv\n"),
		"another field":   tampered("Deriver: ", "Unknown: field\n"),
	}
	for _, n := range nixes {
		t.Run("to "+n.name, func(t *testing.T) {
			t.Parallel()
			r := newReader(t, n)
			r.takes(t, true, "before, the old key", before, c.top, c.public)
			r.takes(t, false, "before, the new key", before, c.top, public)
			r.takes(t, true, "the new key", c.cache, c.top, public)
			r.takes(t, true, "both keys", c.cache, c.top, c.public, public)
			r.takes(t, false, "the dropped key", c.cache, c.top, c.public)
			r.takes(t, false, "another key of the name", c.cache, c.top, other)
			r.takes(t, false, "no key", c.cache, c.top)
			for what, path := range map[string]string{"a source": c.source, "a text": c.text, "a fixed output": c.fixed} {
				r.takes(t, true, what, c.cache, path)
				r.takes(t, true, what, c.cache, path, other)
			}
			for what, cache := range bad {
				r.takes(t, false, what, cache, c.top, public)
			}
			for what, cache := range good {
				r.takes(t, true, what, cache, c.top, public)
			}
		})
	}
}

// narInfoLines returns the fields of an entry.
func narInfoLines(t *testing.T, cache, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cache, filepath.Base(path)[:32]+".narinfo"))
	must(t, err)
	fields := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		fields[name] = value
	}
	return fields
}

// Nix and larder sign a cache that Nix has made, each a copy of its own.
func TestLarderSignsACacheAsNixDoes(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		top, source := m.build(t, standardGraph)[0], m.addSource(t, "source")
		dir := tempDir(t)
		theirs, ours := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
		first, _ := m.newKey(t, "first-1")
		m.run(t, "nix", "copy", "--to", "file://"+theirs+"?secret-key="+first, top, source)
		m.run(t, "cp", "-r", theirs, ours)
		secret, public := m.newKey(t, "second-1")
		m.run(t, "nix", "store", "sign", "--store", "file://"+theirs, "--key-file", secret, "--all")
		m.run(t, "larder", "sign", "--cache", ours, "--signing-key-file", secret)
		for path := range entries(t, theirs) {
			want, got := narInfoText(t, theirs, path), narInfoText(t, ours, path)
			if got != want {
				t.Errorf("Nix writes\n%slarder writes\n%s", want, got)
			}
		}
		m.run(t, "nix", "store", "verify", "--store", "file://"+ours, "--all", "--sigs-needed", "1", "--option", "trusted-public-keys", public)
		// Nix adds to what larder has signed, and larder drops what Nix has signed.
		third, _ := m.newKey(t, "third-1")
		m.run(t, "nix", "store", "sign", "--store", "file://"+ours, "--key-file", third, "--all")
		m.run(t, "larder", "sign", "--cache", ours, "--drop-key", "first-1", "--drop-key", "third-1", top)
		l := &larder{machine: m, cache: ours}
		l.signedBy(t, m.closure(t, top), "second-1")
		l.signedBy(t, []string{source}, "first-1", "second-1", "third-1")
	})
}

func narInfoText(t *testing.T, cache, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cache, filepath.Base(path)[:32]+".narinfo"))
	must(t, err)
	return string(text)
}

// A signature that came into Nix's database later is worth as much as one that was there.
func TestSignaturesOfTheDatabaseComeWithAPush(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		l.push(t, top)
		secret, public := l.newKey(t, "late-1")
		l.run(t, "nix", "store", "sign", "--key-file", secret, "--recursive", top)
		paths := l.closure(t, top)
		if out := l.push(t, top); !strings.HasSuffix(out, fmt.Sprintf(", and signed %d that were there", len(paths))) {
			t.Errorf("push says %q", out)
		}
		l.signedBy(t, paths, "late-1")
		newReader(t, n).takes(t, true, "signed later", l.cache, top, public)
	})
}
