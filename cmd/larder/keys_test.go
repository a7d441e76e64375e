package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// A keyTest is a place where larder init is run, without Nix.
type keyTest struct{ dir string }

func newKeyTest(t *testing.T) keyTest {
	t.Helper()
	k := keyTest{t.TempDir()}
	t.Setenv("NIX_STATE_DIR", filepath.Join(k.dir, "no-nix"))
	t.Setenv("LARDER_CACHE", "")
	t.Setenv("LARDER_QUEUE", filepath.Join(k.dir, "queue.db"))
	t.Setenv(keyFileVariable, "")
	t.Setenv(keyVariable, "")
	return k
}

// init runs larder init, and returns what it prints, and with what code it exits.
func (k keyTest) init(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errors bytes.Buffer
	args = append([]string{"larder", "init", "--watch-only", "--json", "--cache", filepath.Join(k.dir, "cache")}, args...)
	code = run(t.Context(), args, strings.NewReader(""), &out, &errors)
	return out.String(), errors.String(), code
}

// publicKeys runs larder init, and returns the public keys that it prints.
func (k keyTest) publicKeys(t *testing.T, args ...string) []string {
	t.Helper()
	stdout, stderr, code := k.init(t, args...)
	if code != 0 {
		t.Fatalf("%q exits with %d: %s", args, code, stderr)
	}
	var r initReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	if trusted := strings.HasSuffix(r.Substituter, "?trusted=true"); trusted != (len(r.PublicKeys) == 0) {
		t.Errorf("%q: substituter is %s with keys %q", args, r.Substituter, r.PublicKeys)
	}
	return r.PublicKeys
}

// file writes a file and returns its name.
func (k keyTest) file(t *testing.T, name, text string, mode fs.FileMode) string {
	t.Helper()
	name = filepath.Join(k.dir, name)
	must(t, os.WriteFile(name, []byte(text), 0o600))
	must(t, os.Chmod(name, mode))
	return name
}

// key makes a key, and a file with it.
func (k keyTest) key(t *testing.T, name string) (file string, secret signature.SecretKey, public string) {
	t.Helper()
	secret, pub, err := signature.GenerateKeypair(name, nil)
	must(t, err)
	return k.file(t, name, secret.String(), 0o600), secret, pub.String()
}

// telling is the part of a key's text that nobody may see.
func telling(secret signature.SecretKey) string {
	_, text, _ := strings.Cut(secret.String(), ":")
	return text[:16]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsNoSecretKeyIsRefusedAndNotShown(t *testing.T) {
	k := newKeyTest(t)
	good, secret, public := k.key(t, "good-1")
	_, data, _ := strings.Cut(secret.String(), ":")
	_, other, _ := k.key(t, "good-1x")
	_, otherData, _ := strings.Cut(other.String(), ":")
	again := k.file(t, "again", "good-1:"+otherData, 0o600)
	for name, bad := range map[string]struct {
		text          string // of the file, unless there are arguments
		args          []string
		env           string // of the variable with a key
		code          int
		problem, hint string
	}{
		"public":         {text: public, code: 1, problem: "it is a public key", hint: "only the secret key can sign"},
		"empty":          {text: " \n", code: 1, problem: "it is empty", hint: "name the right file"},
		"no name":        {text: data, code: 1, problem: "not a secret key", hint: "name the right file"},
		"empty name":     {text: ":" + data, code: 1, problem: "not a secret key", hint: "name the right file"},
		"name of two":    {text: "good 1:" + data, code: 1, problem: "one word", hint: "name the right file"},
		"cut off":        {text: secret.String()[:60], code: 1, problem: "not a secret key", hint: "name the right file"},
		"no base64":      {text: "good-1:" + data[:30] + "*" + data[31:], code: 1, problem: "not a secret key", hint: "name the right file"},
		"two":            {text: secret.String() + "\n" + other.String(), code: 1, problem: "not a secret key", hint: "name the right file"},
		"of two halves":  {text: "good-1:" + data[:44] + otherData[44:], code: 1, problem: "halves", hint: "name the right file"},
		"missing":        {args: []string{"--signing-key-file", k.dir + "/missing"}, code: 1, problem: "no such file", hint: "name the right file"},
		"directory":      {args: []string{"--signing-key-file", k.dir}, code: 1, problem: "is a directory", hint: "name the right file"},
		"of one name":    {args: []string{"--signing-key-file", good, "--signing-key-file", again}, code: 1, problem: "two signing keys have the name good-1", hint: "another name"},
		"for a file":     {args: []string{"--signing-key-file", secret.String()}, code: 2, problem: "looks like the key itself", hint: "put the key into a file"},
		"half a file":    {args: []string{"--signing-key-file", secret.String()[:60]}, code: 2, problem: "looks like the key itself", hint: "put the key into a file"},
		"from a slash":   {args: []string{"--signing-key-file", "good-1:/" + data[1:50]}, code: 2, problem: "looks like the key itself", hint: "put the key into a file"},
		"to be made":     {args: []string{"--generate-key", secret.String()}, code: 2, problem: "looks like the key itself", hint: "put the key into a file"},
		"in the name":    {args: []string{"--generate-key", k.dir + "/new", "--key-name", secret.String()}, code: 2, problem: "one word", hint: "--key-name larder-"},
		"only a name":    {args: []string{"--key-name", "new-1"}, code: 2, problem: "--generate-key", hint: "larder init --generate-key"},
		"nowhere":        {args: []string{"--generate-key", k.dir + "/nowhere/new"}, code: 1, problem: "nowhere is not a directory", hint: "mkdir -p"},
		"variable":       {env: secret.String()[:60], code: 1, problem: "read LARDER_SIGNING_KEY: it is not a secret key", hint: "LARDER_SIGNING_KEY_FILE"},
		"file for a key": {env: good, code: 1, problem: "read LARDER_SIGNING_KEY: it is not a secret key", hint: "LARDER_SIGNING_KEY_FILE"},
		"variable and file": {args: []string{"--signing-key-file", again}, env: secret.String(), code: 1,
			problem: "two signing keys have the name good-1", hint: "another name"},
	} {
		t.Run(name, func(t *testing.T) {
			if bad.text != "" {
				bad.args = []string{"--signing-key-file", k.file(t, "bad", bad.text, 0o600)}
			}
			before, err := os.ReadDir(k.dir)
			must(t, err)
			t.Setenv(keyVariable, bad.env)
			stdout, stderr, code := k.init(t, bad.args...)
			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
			if code != bad.code || stdout != "" || len(lines) != 2 || !strings.HasPrefix(lines[0], "larder: error: ") || !strings.HasPrefix(lines[1], "larder: hint: ") {
				t.Fatalf("exits with %d, want %d, and prints %q, %q", code, bad.code, stdout, stderr)
			}
			if !strings.Contains(lines[0], bad.problem) || !strings.Contains(lines[1], bad.hint) {
				t.Errorf("says %q, want %q and %q", lines, bad.problem, bad.hint)
			}
			for _, secret := range []signature.SecretKey{secret, other} {
				if strings.Contains(stderr, telling(secret)) {
					t.Errorf("shows a key: %s", stderr)
				}
			}
			if after, err := os.ReadDir(k.dir); err != nil || len(after) != len(before) {
				t.Errorf("made something: %v before, %v after, %v", before, after, err)
			}
		})
	}
	// The list of the environment is as dangerous.
	t.Setenv(keyFileVariable, secret.String())
	if _, stderr, code := k.init(t); code != 2 || strings.Contains(stderr, telling(secret)) || !strings.Contains(stderr, "looks like the key itself") {
		t.Errorf("%s exits with %d and says %s", keyFileVariable, code, stderr)
	}
}

func TestKeysAreThoseOfTheFlagElseTheEnvironmentElseTheQueue(t *testing.T) {
	k := newKeyTest(t)
	one, oneSecret, onePublic := k.key(t, "one-1")
	two, _, twoPublic := k.key(t, "two-1")
	_, threeSecret, threePublic := k.key(t, "three-1")
	t.Chdir(k.dir)
	check := func(step string, want []string, args ...string) {
		t.Helper()
		if got := k.publicKeys(t, args...); !slices.Equal(got, want) {
			t.Errorf("%s: keys are %q, want %q", step, got, want)
		}
	}
	check("nothing", nil)
	check("flag, relative", []string{onePublic}, "--signing-key-file", "one-1")
	t.Chdir("/")
	check("queue", []string{onePublic})
	check("two of the flag", []string{twoPublic, onePublic}, "--signing-key-file", two, "--signing-key-file", one)
	check("queue has both", []string{twoPublic, onePublic})
	t.Setenv(keyFileVariable, two+":"+one+"::"+two)
	check("environment", []string{twoPublic, onePublic})
	check("flag before environment", []string{onePublic}, "--signing-key-file", one)
	check("none by the flag", nil, "--signing-key-file", "")
	t.Setenv(keyFileVariable, two)
	check("environment again", []string{twoPublic})
	t.Setenv(keyFileVariable, "")
	check("empty variable", []string{twoPublic})
	t.Setenv(keyVariable, " "+threeSecret.String()+"\n")
	check("key itself", []string{twoPublic, threePublic})
	check("key itself was not remembered", []string{twoPublic})
	t.Setenv(keyVariable, oneSecret.String())
	check("twice the same", []string{twoPublic, onePublic}, "--signing-key-file", two, "--signing-key-file", one)
}

// What larder starts is no business of the key's.
func TestKeyIsTakenOutOfTheEnvironment(t *testing.T) {
	k := newKeyTest(t)
	_, secret, _ := k.key(t, "one-1")
	t.Setenv(keyVariable, secret.String())
	var out bytes.Buffer
	run(t.Context(), []string{"larder", "--version"}, strings.NewReader(""), &out, &out)
	for _, v := range os.Environ() {
		if strings.Contains(v, telling(secret)) || strings.HasPrefix(v, keyVariable+"=") {
			t.Errorf("environment still has %s", v)
		}
	}
}

func TestKeyThatOthersMayReadIsWarnedOf(t *testing.T) {
	k := newKeyTest(t)
	file, secret, _ := k.key(t, "one-1")
	for mode, warned := range map[fs.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true, 0o622: false} {
		must(t, os.Chmod(file, mode))
		_, stderr, code := k.init(t, "--signing-key-file", file)
		warns := strings.Contains(stderr, "level=WARN msg=\"others may read a secret key\" file="+file)
		if code != 0 || warns != warned || strings.Contains(stderr, telling(secret)) {
			t.Errorf("mode %v: exit %d, says %s", mode, code, stderr)
		}
	}
}

func TestGeneratedKeyIsNeverOverwritten(t *testing.T) {
	k := newKeyTest(t)
	t.Chdir(k.dir)
	public := k.publicKeys(t, "--generate-key", "key", "--key-name", "mine-1")
	if len(public) != 1 || !strings.HasPrefix(public[0], "mine-1:") {
		t.Fatalf("public keys are %q", public)
	}
	file := filepath.Join(k.dir, "key")
	check := func(what string) {
		t.Helper()
		secret, err := os.ReadFile(file)
		must(t, err)
		key, err := signature.LoadSecretKey(string(secret))
		if err != nil || key.ToPublicKey().String() != public[0] || key.String() != string(secret) {
			t.Errorf("%s: secret key of %s is %v, want %s", what, key.ToPublicKey(), err, public)
		}
		if text, err := os.ReadFile(file + ".pub"); err != nil || string(text) != public[0] {
			t.Errorf("%s: public key is %q, %v; want %s", what, text, err, public)
		}
		for name, mode := range map[string]fs.FileMode{file: 0o600, file + ".pub": 0o644} {
			if info, err := os.Stat(name); err != nil || info.Mode() != mode {
				t.Errorf("%s: %s has mode %v: %v", what, name, info.Mode(), err)
			}
		}
		if got := k.publicKeys(t); !slices.Equal(got, public) {
			t.Errorf("%s: queue has %q, want %q", what, got, public)
		}
	}
	check("made")
	_, stderr, code := k.init(t, "--generate-key", file, "--key-name", "other-1")
	if code != 0 || !strings.Contains(stderr, "larder: key mine-1 is in "+file+" already, and used as it is\n") {
		t.Errorf("a second time: exit %d, %s", code, stderr)
	}
	check("a second time")
	must(t, os.Remove(file+".pub"))
	k.publicKeys(t, "--generate-key", file)
	check("without its public key")

	for name, files := range map[string]map[string]string{
		"something else":                  {"key": "shopping list"},
		"a public key":                    {"key": public[0]},
		"the public key of another":       {"key.pub": "other-1:" + strings.Repeat("A", 43) + "="},
		"the public key of what was lost": {"key.pub": public[0], "key": ""},
	} {
		t.Run(name, func(t *testing.T) {
			was, err := os.ReadFile(file)
			must(t, err)
			pub, err := os.ReadFile(file + ".pub")
			must(t, err)
			for name, text := range files {
				must(t, os.WriteFile(name, []byte(text), 0o600))
			}
			if text, ok := files["key"]; ok && text == "" {
				must(t, os.Remove("key"))
			}
			if _, stderr, code := k.init(t, "--generate-key", file); code != 1 || !strings.Contains(stderr, "larder: hint: ") || strings.Contains(stderr, "shopping") {
				t.Errorf("exit %d, %s", code, stderr)
			}
			for name, text := range files {
				if now, err := os.ReadFile(name); text != "" && (err != nil || string(now) != text) {
					t.Errorf("%s is now %q: %v", name, now, err)
				}
			}
			must(t, os.WriteFile(file, was, 0o600))
			must(t, os.WriteFile(file+".pub", pub, 0o600))
		})
	}
}

func TestGeneratedKeyIsNamedAfterTheMachine(t *testing.T) {
	k := newKeyTest(t)
	public := k.publicKeys(t, "--generate-key", filepath.Join(k.dir, "key"))
	name, _, _ := strings.Cut(public[0], ":")
	if !strings.HasPrefix(name, "larder-") || !strings.HasSuffix(name, "-1") || len(name) < len("larder-x-1") {
		t.Errorf("name is %q", name)
	}
	// Beside it, others may be named.
	file, _, other := k.key(t, "other-1")
	if got := k.publicKeys(t, "--signing-key-file", file, "--generate-key", filepath.Join(k.dir, "key")); !slices.Equal(got, []string{other, public[0]}) {
		t.Errorf("keys are %q", got)
	}
}

// FuzzParseKey asserts that what is read as a secret key makes signatures that its public
// key verifies, and that no error has any of what may be a secret in it.
func FuzzParseKey(f *testing.F) {
	secret, public, err := signature.GenerateKeypair("cache.example.org-1", bytes.NewReader(make([]byte, 64)))
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{secret.String(), secret.String() + "\n", public.String(), "", ":", "a:", ":AAAA", "a#:" + strings.TrimPrefix(secret.String(), "cache.example.org-1:"), secret.String()[:60]} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := parseKey(text)
		if err != nil {
			if _, value, _ := strings.Cut(strings.TrimSpace(text), ":"); len(value) > 10 && strings.Contains(err.Error(), value) {
				t.Errorf("the error has the key in it: %v", err)
			}
			return
		}
		sig, err := key.Sign(nil, "text")
		if err != nil || !key.ToPublicKey().Verify("text", sig) || key.ToPublicKey().Verify("other", sig) {
			t.Errorf("a signature by %q is not right: %v", text, err)
		}
		if _, err := signature.ParsePublicKey(key.ToPublicKey().String()); err != nil {
			t.Errorf("nobody can read the public key of %q: %v", text, err)
		}
	})
}
