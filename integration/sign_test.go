package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// signedBy fails the test if the entries of some paths have other signatures than by
// keys of these names.
func (l *larder) signedBy(t *testing.T, paths []string, names ...string) {
	t.Helper()
	all := entries(t, l.cache)
	for _, path := range paths {
		if n, ok := all[path]; !ok || !slices.Equal(n.signers, names) {
			t.Errorf("%s is signed by %q, want %q", path, n.signers, names)
		}
	}
}

// addSource adds a file to the store as an evaluation would.
func (m *machine) addSource(t *testing.T, name string) string {
	t.Helper()
	return m.run(t, "sh", "-euc", "echo "+name+" > "+name+"; nix-store --add "+name)
}

// The public key that init prints is all that readers need.
func TestReadersWithThePublicKeyTakeWhatIsSignedAndNothingElse(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--generate-key", "key", "--key-name", "ci-1")
		if len(l.conf) != 3 || l.conf[1] != "extra-substituters = file://"+l.cache {
			t.Fatalf("init prints %q", l.conf)
		}
		key, ok := strings.CutPrefix(l.conf[2], "extra-trusted-public-keys = ")
		if !ok || !strings.HasPrefix(key, "ci-1:") {
			t.Fatalf("init prints %q", l.conf)
		}
		source, top := l.addSource(t, "source"), l.build(t, standardGraph)[0]
		l.drain(t)
		l.signedBy(t, l.cached(t), "ci-1")
		_, other := l.newKey(t, "ci-1") // of the same name
		for _, n := range nixes {
			t.Run("to "+n.name, func(t *testing.T) {
				t.Parallel()
				fresh := newMachine(t, n, append([]string{"require-sigs = true"}, l.conf[1:]...)...)
				fresh.run(t, "nix-store", "--realise", "--max-jobs", "0", top)
				fresh.run(t, "nix-store", "--verify", "--check-contents")
				fresh.run(t, "nix", "store", "verify", "--store", "file://"+l.cache, "--all")
				for what, keys := range map[string][]string{"no key": nil, "another key": {other}} {
					if stderr, ok := substitutes(t, n, top, keys, "file://"+l.cache); ok {
						t.Errorf("with %s: substituted: %s", what, stderr)
					}
					if stderr, ok := substitutes(t, n, source, keys, "file://"+l.cache); !ok {
						t.Errorf("with %s: a source is not substituted: %s", what, stderr)
					}
				}
			})
		}
	})
}

// Each of the two can use what the other has made.
func TestKeyPairIsOneThatNixWouldMake(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n, "--generate-key", "ours")
		public := l.run(t, "cat", "ours.pub")
		if got := l.run(t, "sh", "-c", "nix key convert-secret-to-public < ours"); got != public {
			t.Errorf("Nix says that the public key is %s, want %s", got, public)
		}
		if got := l.conf[2]; got != "extra-trusted-public-keys = "+public {
			t.Errorf("init prints %s, want %s", got, public)
		}
		path := l.buildOne(t, "built")
		l.run(t, "nix", "store", "sign", "--key-file", "ours", path)
		l.run(t, "nix", "store", "verify", "--option", "trusted-public-keys", public, "--sigs-needed", "1", path)

		theirs, public := l.newKey(t, "theirs-1")
		if conf := l.lines(t, "larder", "init", "--generate-key", theirs); conf[2] != "extra-trusted-public-keys = "+public {
			t.Errorf("init prints %q, want %s", conf, public)
		}
	})
}

// From the moment that there is a key, what larder comes to is signed, and a sync comes
// to all that the rules want.
func TestUnsignedCacheIsSignedLater(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		before, pushed := m.buildOne(t, "before"), m.buildOne(t, "pushed")
		l := &larder{machine: m.with(patient), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
		l.run(t, "larder", "init", "--watch-only", "--cache", l.cache)
		l.push(t, before, pushed)
		items := l.build(t, chain("3")...)
		l.drain(t)
		all := slices.Sorted(slices.Values(append(items, before, pushed)))
		equalPaths(t, "cache", l.cached(t), all)
		l.signedBy(t, all)
		secret, key := l.newKey(t, "late-1")
		url := "file://" + l.cache
		if _, ok := substitutes(t, n, items[2], []string{key}, url); ok {
			t.Error("substituted without a signature")
		}

		if out := l.push(t, "--signing-key-file", secret, pushed); !strings.HasSuffix(out, ", and signed 1 that were there") {
			t.Errorf("push says %q", out)
		}
		l.signedBy(t, []string{pushed}, "late-1")
		// A job's closure is signed as a whole.
		top := l.build(t, chain("4")...)[3]
		text, err := os.ReadFile(secret)
		must(t, err)
		l.with("LARDER_SIGNING_KEY="+string(text)).run(t, "larder", "drain")
		l.signedBy(t, append(items, pushed, top), "late-1")
		equalPaths(t, "a sync without the key", l.planned(t), nil)
		equalPaths(t, "a sync with it", l.with("LARDER_SIGNING_KEY_FILE="+secret).lines(t, "larder", "sync", "--dry-run"), []string{before})

		// A key that the queue remembers signs what came since init by itself, and the
		// rest when all of the store is looked at.
		l.run(t, "larder", "init", "--signing-key-file", secret)
		l.drain(t)
		l.signedBy(t, []string{before})
		l.syncs(t, []string{before}, slices.Sorted(slices.Values(append(all, top))))
		l.signedBy(t, append(all, top), "late-1")
		if stderr, ok := substitutes(t, n, top, []string{key}, url); !ok {
			t.Error(stderr)
		}

		// Now that is so from the start.
		second, _ := l.newKey(t, "more-1")
		l.run(t, "larder", "init", "--signing-key-file", second)
		l.drain(t)
		l.signedBy(t, append(all, top), "late-1", "more-1")
		written := files(t, l.cache)
		l.push(t, "--signing-key-file", secret, "--signing-key-file", second, top)
		l.push(t, top)
		unchanged(t, "a cache in which all is signed", written, files(t, l.cache))
	})
}

// What the store has now is not what the entry has, and will not be.
func TestSyncDoesNotComeBackToAnotherBuild(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--watch-only")
	build := func() string {
		return l.build(t, "--expr", `import /larder/graphs/derive.nix "random" { } "head -c 16 /dev/urandom > $out"`)[0]
	}
	path := build()
	l.drain(t)
	was := l.query(t, "--hash", path)
	l.run(t, "nix-store", "--option", "substituters", "", "--delete", path)
	l.unconfigure(t)
	if build(); slices.Equal(l.query(t, "--hash", path), was) {
		t.Fatal("it is the same build")
	}
	l.run(t, "larder", "init", "--generate-key", "key")
	equalPaths(t, "larder sync --dry-run", l.planned(t), nil)
	if out, stderr, exit := l.tryRun(t, "larder", "push", path); exit != 0 || !strings.Contains(stderr, "kept another build") || strings.Contains(out, "signed") {
		t.Errorf("push: exit %d, %q, %s", exit, out, stderr)
	}
	l.signedBy(t, []string{path})
}

func TestDaemonSignsFromTheMomentThatItIsGivenAKey(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	d := l.startWorker(t, "--poll", "100ms")
	path := l.buildOne(t, "built")
	d.waitFor(t, "copied job")
	l.signedBy(t, []string{path})
	secret, _ := l.newKey(t, "ci-1")
	l.run(t, "larder", "init", "--signing-key-file", secret)
	d.waitFor(t, "settings have changed")
	eventually(t, "the signature", func() bool { return slices.Equal(entries(t, l.cache)[path].signers, []string{"ci-1"}) })
	d.waitFor(t, "copied=0 signed=1")
	l.buildOne(t, "later")
	l.drain(t)
	l.signedBy(t, l.cached(t), "ci-1")
}

// Signatures that came with a path stay, whoever else signs it.
func TestSignaturesOfOthersAreKept(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		c := newSignedChain(t, n)
		c.run(t, "larder", "init", "--skip-signed-by", "")
		one, oneKey := c.newKey(t, "one-1")
		two, twoKey := c.newKey(t, "two-1")
		c.run(t, "larder", "drain", "--signing-key-file", one)
		c.signedBy(t, c.items[:1], "left-1", "one-1")
		c.signedBy(t, c.items[1:2], "left-10", "one-1")
		c.signedBy(t, c.items[2:], "one-1")
		c.with("LARDER_SIGNING_KEY_FILE="+two+":"+one).run(t, "larder", "push", c.items[3])
		c.signedBy(t, c.items[:1], "left-1", "one-1", "two-1")
		c.signedBy(t, c.items[1:2], "left-10", "one-1", "two-1")
		c.signedBy(t, c.items[2:], "one-1", "two-1")
		for _, key := range []string{oneKey, twoKey} {
			if stderr, ok := substitutes(t, n, c.items[3], []string{key}, "file://"+c.cache); !ok {
				t.Errorf("with %s: %s", key, stderr)
			}
		}
		if stderr, ok := substitutes(t, n, c.items[0], []string{c.left.key}, "file://"+c.cache); !ok {
			t.Errorf("with the upstream's key: %s", stderr)
		}
	})
}

// Without its key larder copies nothing, rather than what nobody would take.
func TestJobsWaitForTheKey(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--generate-key", "key")
	path := l.buildOne(t, "built")
	l.run(t, "mv", "key", "away")
	r := refusal{1, "read signing key: open /root/key: no such file", "--signing-key-file"}
	for _, command := range []string{"drain", "daemon", "sync", "init"} {
		r.changesNothing(t, l.machine, "larder", command)
	}
	r.changesNothing(t, l.machine, "larder", "push", path)
	equalPaths(t, "queue", l.queued(t), []string{path})
	l.run(t, "mv", "away", "key")
	l.drain(t)
	l.nothingLeft(t)
	if len(entries(t, l.cache)[path].signers) != 1 {
		t.Error("it is not signed")
	}
}

// A file that can be read once is enough, as in a shell's <(…).
func TestKeyMayComeThroughAPipe(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	secret, _ := l.newKey(t, "ci-1")
	l.run(t, "sh", "-euc", "cat "+secret+" | larder drain --signing-key-file /dev/stdin")
	l.signedBy(t, []string{path}, "ci-1")
}

// However a key is given, its text is where it was before, and nowhere else.
func TestNobodySeesTheKey(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n).with(patient)
		secret, _ := m.newKey(t, "ci-1")
		text, err := os.ReadFile(secret)
		must(t, err)
		must(t, os.Chmod(secret, 0o644)) // so that it is talked of
		_, data, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
		// Whatever larder starts would tell.
		must(t, os.Mkdir(m.host("/root/bin"), 0o755))
		writeScript(t, m.host("/root/bin/nix-store"), `env >> /root/environments; exec /usr/bin/nix-store "$@"`)
		var said strings.Builder
		try := func(m *machine, args ...string) {
			t.Helper()
			stdout, stderr, _ := m.with("PATH=/root/bin:"+machinePATH).tryRun(t, append([]string{"larder"}, args...)...)
			said.WriteString(stdout + stderr)
		}
		inFile, inEnv := m.with("LARDER_SIGNING_KEY_FILE="+secret), m.with("LARDER_SIGNING_KEY="+string(text))
		cache := filepath.Join(tempDir(t), "cache")
		for name, m := range map[string]*machine{"by-file": inFile, "itself": inEnv} {
			try(m, "init", "--cache", cache)
			path := m.buildOne(t, name)
			for _, args := range [][]string{
				{"sync"}, {"sync", "--json", "--dry-run"}, {"status"}, {"status", "--json"}, {"drain", "--json"}, {"push", path},
				{"push", "--json", path}, {"explain", path}, {"daemon", "--nonsense"}, {"nonsense"}, {"push", "/etc/passwd"},
				{"push", "--cache", "/etc/passwd", path}, {"drain", "--signing-key-file", "/etc/passwd"}, {"retry"},
			} {
				try(m, args...)
			}
			d := m.start(t, "larder", "daemon")
			d.waitFor(t, "msg=ready")
			d.stop(t)
			said.WriteString(d.stdout.String() + d.stderr.String())
		}
		if !strings.Contains(said.String(), "others may read a secret key") {
			t.Error("nobody said that others may read the key")
		}
		if text, err := os.ReadFile(m.host("/root/environments")); err != nil || !strings.Contains(string(text), "LARDER_HOOK_DEADLINE") {
			t.Errorf("what larder started did not tell its environment: %v", err)
		}
		for i := 0; i+16 <= len(data)/2; i += 8 { // the other half is the public key
			part := data[i : i+16]
			if strings.Contains(said.String(), part) {
				t.Fatalf("larder says %s", &said)
			}
			for _, dir := range []string{cache, m.host("/var"), m.host("/root"), m.host("/nix"), m.host("/etc")} {
				if file := containing(t, dir, part); file != "" {
					t.Fatalf("the key is in %s", file)
				}
			}
		}
	})
}

// containing returns a file below a directory that has a text in it, or "".
func containing(t *testing.T, dir, text string) (found string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), text) {
			found = path
		}
		return err
	}))
	return found
}
