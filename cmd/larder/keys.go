package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/queue"
)

const (
	keyFileFlag     = "signing-key-file"
	keyFileVariable = "LARDER_SIGNING_KEY_FILE"
	keyVariable     = "LARDER_SIGNING_KEY"
)

// keyFlags are for all commands that sign. Not by the flag's EnvVars, for which an
// empty variable, such as a CI makes of a secret that it has not, is one that is set.
func keyFlags() []cli.Flag {
	return []cli.Flag{&cli.StringSliceFlag{
		Name:  keyFileFlag,
		Usage: "sign with the secret key in `FILE`, else in those that $" + keyFileVariable + " names, else in those of the queue; '' for none. A key itself, in $" + keyVariable + ", is used as well",
	}}
}

// A keyring has the keys of this process that are not in the queue's settings, and
// those that were read: a file may be a pipe, which can be read once.
type keyring struct {
	secret string // of the environment
	read   map[string]signature.SecretKey
}

// newKeyring takes the secret key out of the environment, where all that we start
// would find it.
func newKeyring() *keyring {
	secret := strings.TrimSpace(os.Getenv(keyVariable))
	os.Unsetenv(keyVariable)
	return &keyring{secret, make(map[string]signature.SecretKey)}
}

func keyringOf(c *cli.Context) *keyring { return c.App.Metadata["keys"].(*keyring) }

// signingKeys returns the keys that sign what is copied: those in the files of the
// command line, or else of the environment, or else of the queue's settings, and that
// which is in the environment itself. No error has any of a key's text in it.
func signingKeys(c *cli.Context, s queue.Settings) ([]signature.SecretKey, error) {
	files, err := keyFiles(c, s)
	if err != nil {
		return nil, err
	}
	return keysIn(c, files)
}

// keysIn returns the keys in some files, and that of the environment.
func keysIn(c *cli.Context, files []string) (keys []signature.SecretKey, err error) {
	ring := keyringOf(c)
	for _, file := range files {
		key, ok := ring.read[file]
		if !ok {
			if key, err = readKey(file, keyLog(c)); err != nil {
				return nil, err
			}
			ring.read[file] = key
		}
		if keys, err = addKey(keys, key); err != nil {
			return nil, err
		}
	}
	if ring.secret == "" {
		return keys, nil
	}
	key, err := parseKey(ring.secret)
	if err != nil {
		return nil, orHint(fmt.Errorf("read %s: %w", keyVariable, err), "it has a secret key itself, name:base64; "+keyFileVariable+" names a file")
	}
	return addKey(keys, key)
}

const trustedFlag = "trusted-public-key"

// trustedKeyFlag is for those who read what is signed. In the variable several have
// spaces between them.
func trustedKeyFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: trustedFlag, EnvVars: []string{"LARDER_TRUSTED_PUBLIC_KEY"}, Usage: "trust what is signed with `NAME:BASE64`, a public key as in trusted-public-keys"}
}

// trustedKeys returns the public keys of the command line.
func trustedKeys(c *cli.Context) (keys []signature.PublicKey, err error) {
	for _, text := range strings.Fields(strings.Join(c.StringSlice(trustedFlag), " ")) {
		key, err := signature.ParsePublicKey(text)
		if err != nil {
			if isSecretLike(text) {
				text = "what is given" // it may be a secret one
			}
			return nil, usageError(fmt.Sprintf("%s is not a public key", text), "it looks like cache.example.org-1:IQ0Fz…=, as in trusted-public-keys")
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// addKey adds a key, unless it is there: it may come from two places.
func addKey(keys []signature.SecretKey, key signature.SecretKey) ([]signature.SecretKey, error) {
	public := key.ToPublicKey()
	for _, other := range keys {
		switch other := other.ToPublicKey(); {
		case other.String() == public.String():
			return keys, nil
		case other.Name == public.Name:
			return nil, withHint(fmt.Errorf("two signing keys have the name %s", public.Name), "Nix tells keys by their names: leave one of them out, or make it anew with another name")
		}
	}
	return append(keys, key), nil
}

// keyLog returns where to say what is odd about a key.
func keyLog(c *cli.Context) *slog.Logger {
	if c.Command.Name == "daemon" {
		return newLog(c.Bool("json"))
	}
	return stderrLog(c)
}

// keyFiles returns the files of the command line, the environment, or the settings.
func keyFiles(c *cli.Context, s queue.Settings) (files []string, err error) {
	list := os.Getenv(keyFileVariable)
	for _, name := range append(c.StringSlice(keyFileFlag), list, c.String(generateFlag)) {
		if isSecretLike(name) {
			return nil, usageError("what is named as the file of a signing key looks like the key itself",
				"put the key into a file, or into "+keyVariable+"; others may have seen this one")
		}
	}
	switch {
	case c.IsSet(keyFileFlag):
		files = c.StringSlice(keyFileFlag)
	case list != "":
		files = filepath.SplitList(list)
	case s.SigningKeyFiles != "":
		if err := json.Unmarshal([]byte(s.SigningKeyFiles), &files); err != nil {
			return nil, withHint(fmt.Errorf("read the queue's signing keys: %w", err), hintKeyFile)
		}
	}
	return slices.DeleteFunc(files, func(file string) bool { return file == "" }), nil
}

// secretLike is what a secret key in base 64 has, be it cut off, and no list of paths.
var secretLike = regexp.MustCompile(`[0-9A-Za-z+/]{86}==|:[0-9A-Za-z+][0-9A-Za-z+/]{39}`)

// pathLike is what such a key has behind its name if it begins with a slash, and a path
// without dots, dashes and spaces.
var pathLike = regexp.MustCompile(`^/[0-9A-Za-z+/]{39}`)

// isSecretLike tells whether what should name files has a secret key in it. What might be
// either is a file if it is there.
func isSecretLike(files string) bool {
	_, behind, _ := strings.Cut(files, ":")
	return secretLike.MatchString(files) || slices.ContainsFunc(strings.Split(behind, ":"), func(file string) bool {
		_, err := os.Stat(file)
		return pathLike.MatchString(file) && err != nil
	})
}

// formatKeyFiles returns files as the settings have them.
func formatKeyFiles(files []string) (string, error) {
	if len(files) == 0 {
		return "", nil
	}
	text, err := json.Marshal(files)
	return string(text), err
}

const hintKeyFile = "name the right file with --" + keyFileFlag + " FILE, which larder init remembers for the queue; '' is for none"

// maxKeyFile is more than any key has.
const maxKeyFile = 4096

func readKey(file string, log *slog.Logger) (signature.SecretKey, error) {
	text, mode, err := readSecret(file)
	if err != nil {
		return signature.SecretKey{}, withHint(fmt.Errorf("read signing key: %w", err), hintKeyFile)
	}
	key, err := parseKey(text)
	if err != nil {
		return key, orHint(fmt.Errorf("read signing key %q: %w", file, err), hintKeyFile)
	}
	if mode.IsRegular() && mode&0o044 != 0 {
		log.Warn("others may read a secret key", "file", file, "mode", fmt.Sprintf("%04o", mode.Perm()))
	}
	return key, nil
}

func readSecret(file string) (text string, mode fs.FileMode, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	return string(b), info.Mode(), err
}

// parseKey reads a secret key as Nix writes it: name:base64.
func parseKey(text string) (signature.SecretKey, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return signature.SecretKey{}, errors.New("it is empty")
	}
	if _, err := signature.ParsePublicKey(text); err == nil {
		return signature.SecretKey{}, withHint(errors.New("it is a public key"), "only the secret key can sign; the public one is for trusted-public-keys in nix.conf")
	}
	key, err := signature.LoadSecretKey(text)
	if err != nil {
		// Not what the library says: some day it may quote the text.
		return key, errors.New("it is not a secret key, want one line: name:base64")
	}
	if err := checkKeyName(key.ToPublicKey().Name); err != nil {
		return key, err
	}
	// The public key is the second half of the secret one. Nobody could verify what is
	// signed if it were another one's.
	sig, err := key.Sign(nil, "probe")
	if err != nil || !key.ToPublicKey().Verify("probe", sig) {
		return key, errors.New("it is damaged: its two halves do not belong together")
	}
	return key, nil
}

// checkKeyName refuses what nix.conf can't have in trusted-public-keys, or a narinfo
// in a signature. It does not say what it refuses: that may be anything.
func checkKeyName(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == ':' || r == '#' || unicode.IsSpace(r) || !unicode.IsGraphic(r) }) {
		return errors.New("the name of a key is one word, without : and #")
	}
	return nil
}
