package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/queue"
)

const (
	generateFlag = "generate-key"
	keyNameFlag  = "key-name"
)

func generateFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: generateFlag, Usage: "make a secret key in `FILE`, and its public key in FILE.pub, and sign with it; a key that is there is used as it is"},
		&cli.StringFlag{Name: keyNameFlag, Usage: "the `NAME` of the key that --generate-key makes", DefaultText: "larder-HOST-1"},
	}
}

// initKeys puts the files of the command line's keys into settings. It returns all
// keys, and a function that writes those files that are new; until then nothing is
// made.
func initKeys(c *cli.Context, s *queue.Settings) (keys []signature.SecretKey, write func() error, err error) {
	files, err := keyFiles(c, *s)
	if err != nil {
		return nil, nil, err
	}
	pair, err := newKeyPair(c)
	if err != nil {
		return nil, nil, err
	}
	if pair != nil {
		// As if it were the flag's, beside what else the flag names.
		if !c.IsSet(keyFileFlag) {
			files = nil
		}
		files = append(files, pair.file)
	}
	for i := range files {
		if files[i], err = filepath.Abs(files[i]); err != nil {
			return nil, nil, fmt.Errorf("find signing key: %w", err)
		}
	}
	if s.SigningKeyFiles, err = formatKeyFiles(files); err != nil {
		return nil, nil, err
	}
	keys, err = keysIn(c, files)
	return keys, pair.write, err
}

// A keyPair is a secret key and the file that it is in, or that is to be made for it,
// with the public key beside it.
type keyPair struct {
	file    string
	key     signature.SecretKey
	private bool // the file is to be made
	public  bool // and that of the public key
}

// newKeyPair returns the key that the command line wants to be made, or nil.
func newKeyPair(c *cli.Context) (*keyPair, error) {
	if c.String(generateFlag) == "" {
		if c.IsSet(keyNameFlag) {
			return nil, usageError("--key-name is of no use without --generate-key", "larder init --generate-key FILE makes a key")
		}
		return nil, nil
	}
	file, err := filepath.Abs(c.String(generateFlag))
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	p := &keyPair{file: file}
	_, err = os.Lstat(file)
	p.private = errors.Is(err, fs.ErrNotExist)
	if p.private {
		err = p.generate(c)
	} else if err == nil {
		err = p.take(c)
	}
	if err == nil {
		err = p.checkPublic()
	}
	return p, orHint(err, "choose another file with --generate-key FILE, in a directory that is there")
}

// generate makes a key, but no files. The keyring has it as if it had been read.
func (p *keyPair) generate(c *cli.Context) error {
	name := c.String(keyNameFlag)
	if !c.IsSet(keyNameFlag) {
		name = defaultKeyName()
	}
	if err := checkKeyName(name); err != nil {
		return usageError(err.Error(), "for example --key-name "+defaultKeyName())
	}
	if info, err := os.Stat(filepath.Dir(p.file)); err != nil || !info.IsDir() {
		return withHint(fmt.Errorf("make signing key: %s is not a directory", filepath.Dir(p.file)), "mkdir -p "+filepath.Dir(p.file))
	}
	err := canMake(p.file)
	if err == nil {
		p.key, _, err = signature.GenerateKeypair(name, nil)
	}
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	keyringOf(c).read[p.file] = p.key
	return nil
}

// take takes the key that is there.
func (p *keyPair) take(c *cli.Context) (err error) {
	if p.key, err = readKey(p.file, keyLog(c)); err != nil {
		return err
	}
	keyringOf(c).read[p.file] = p.key
	fmt.Fprintf(c.App.ErrWriter, "larder: key %s is in %s already, and used as it is\n", p.key.ToPublicKey().Name, p.file)
	return nil
}

// checkPublic finds out whether there is a public key. One of another key may be all
// that is left of that one, so it is not overwritten.
func (p *keyPair) checkPublic() error {
	text, err := os.ReadFile(p.file + ".pub")
	if errors.Is(err, fs.ErrNotExist) {
		p.public = true
		return nil
	}
	if err == nil && strings.TrimSpace(string(text)) != p.key.ToPublicKey().String() {
		err = fmt.Errorf("%s.pub is there, and is another key's", p.file)
	}
	if err != nil {
		return withHint(fmt.Errorf("make signing key: %w", err), "move it away, or choose another file with --generate-key FILE")
	}
	return nil
}

// write makes those files that are to be made. A nil keyPair has none.
func (p *keyPair) write() error {
	if p == nil {
		return nil
	}
	if p.private {
		if err := writeNew(p.file, p.key.String(), 0o600); err != nil {
			return fmt.Errorf("make signing key: %w", err)
		}
	}
	if p.public {
		if err := writeNew(p.file+".pub", p.key.ToPublicKey().String(), 0o644); err != nil {
			return fmt.Errorf("make signing key: %w", err)
		}
	}
	return nil
}

// writeNew writes a file that must not be there, like Nix without a line feed.
func writeNew(name, text string, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		os.Remove(name) // half a key is none
	}
	return err
}

// defaultKeyName returns a name that no other machine's key should have.
func defaultKeyName() string {
	host, err := os.Hostname()
	if err != nil || host == "" || strings.HasPrefix(host, "localhost") {
		host = strings.ToLower(rand.Text()[:8])
	}
	return "larder-" + strings.Map(func(r rune) rune {
		if checkKeyName(string(r)) != nil {
			return '-'
		}
		return r
	}, host) + "-1"
}
