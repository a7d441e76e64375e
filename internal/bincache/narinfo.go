package bincache

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"
)

// A NarInfo says what a store path is, and where its NAR is.
type NarInfo struct {
	StorePath   string   // full path
	URL         string   // the NAR, relative to the cache
	Compression string   // such as "zstd" or "none"
	FileHash    Hash     // of the NAR as it lies in the cache
	FileSize    int64    // bytes
	NarHash     Hash     // of the NAR itself
	NarSize     int64    // bytes
	References  []string // base names of store paths, sorted
	Deriver     string   // base name, or "" if unknown
	Sigs        []string // name:base64, sorted
	CA          string   // content address, or ""
}

// A Hash is a SHA-256.
type Hash [32]byte

// String returns the hash as Nix writes it: sha256: and 52 digits in base 32.
func (h Hash) String() string { return "sha256:" + h.Digits() }

// Digits returns the hash in Nix's base 32, which is how it stands in file names.
func (h Hash) Digits() string { return nixbase32.EncodeToString(h[:]) }

// Format returns the text of a .narinfo file.
//
// It follows NarInfo::to_string in Nix's src/libstore/nar-info.cc: this order of
// fields, one space behind each colon even before an empty value (Nix's parser
// skips it unseen), and a line feed at the end.
func (n *NarInfo) Format() []byte {
	b := make([]byte, 0, 1<<10) // as most have room in
	line := func(name, value string) { b = append(append(append(append(b, name...), ": "...), value...), '\n') }
	line("StorePath", n.StorePath)
	line("URL", n.URL)
	line("Compression", n.Compression)
	known := n.FileHash != (Hash{}) // others may have left it out, or one of them
	if known {
		line("FileHash", n.FileHash.String())
	}
	if known || n.FileSize != 0 {
		line("FileSize", strconv.FormatInt(n.FileSize, 10))
	}
	line("NarHash", n.NarHash.String())
	line("NarSize", strconv.FormatInt(n.NarSize, 10))
	line("References", strings.Join(n.References, " "))
	if n.Deriver != "" {
		line("Deriver", n.Deriver)
	}
	for _, sig := range n.Sigs {
		line("Sig", sig)
	}
	if n.CA != "" {
		line("CA", n.CA)
	}
	return b
}

// Check returns an error if Nix could not read what Format writes: such an entry
// must never be published.
func (n *NarInfo) Check() error {
	text := n.Format()
	back, err := ParseNarInfo(text)
	if err != nil {
		return err
	}
	if !bytes.Equal(back.Format(), text) {
		return errors.New("narinfo would not read back as it is written")
	}
	return nil
}

// ParseNarInfo reads the text of a .narinfo file as Nix does (NarInfo::NarInfo in
// src/libstore/nar-info.cc), and refuses what any supported Nix refuses.
func ParseNarInfo(text []byte) (*NarInfo, error) {
	n := &NarInfo{}
	var haveHash bool
	rest := string(text)
	for rest != "" {
		// To Nix a line without a colon is the beginning of the next one, which so has a
		// name that means nothing to it; and it skips what is behind the colon unseen.
		name, after, ok := strings.Cut(rest, ":")
		if !ok {
			return nil, fmt.Errorf("parse narinfo: line %.100q has no colon", rest)
		}
		if isField(name) && after != "" && after[0] != ' ' {
			return nil, fmt.Errorf("parse narinfo: %s has no space behind the colon", name)
		}
		var value string
		if ok = after != ""; ok {
			value, rest, ok = strings.Cut(after[1:], "\n")
		}
		if !ok {
			return nil, errors.New("parse narinfo: last line is cut off")
		}
		if err := n.set(name, value); err != nil {
			return nil, fmt.Errorf("parse narinfo: %s: %w", name, err)
		}
		haveHash = haveHash || name == "NarHash"
	}
	switch {
	case n.StorePath == "":
		return nil, errors.New("parse narinfo: StorePath is missing")
	case n.URL == "":
		return nil, errors.New("parse narinfo: URL is missing")
	case !haveHash:
		return nil, errors.New("parse narinfo: NarHash is missing")
	case n.NarSize == 0:
		return nil, errors.New("parse narinfo: NarSize is missing")
	}
	if n.Compression == "" {
		n.Compression = "bzip2"
	}
	return n, nil
}

// isField tells whether a name is that of a field which set reads.
func isField(name string) bool {
	switch name {
	case "StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "Sig", "CA":
		return true
	}
	return false
}

func (n *NarInfo) set(name, value string) (err error) {
	switch name {
	case "StorePath":
		n.StorePath, err = path.Clean(value), checkBaseName(path.Base(value))
	case "URL":
		n.URL, err = value, checkURL(value)
	case "Compression":
		n.Compression, err = value, checkCompression(value)
	case "FileHash":
		n.FileHash, err = parseHash(value)
	case "FileSize":
		n.FileSize, err = parseSize(value)
	case "NarHash":
		n.NarHash, err = parseHash(value)
	case "NarSize":
		n.NarSize, err = parseSize(value)
	case "References":
		if len(n.References) > 0 {
			return errors.New("given twice")
		}
		return n.setReferences(value)
	case "Deriver":
		n.Deriver = ""
		if value != "unknown-deriver" {
			n.Deriver, err = value, checkBaseName(value)
		}
	case "Sig":
		n.Sigs, err = append(n.Sigs, value), checkSig(value)
	case "CA":
		if n.CA != "" {
			return errors.New("given twice")
		}
		n.CA, err = value, checkCA(value)
	}
	return err // other fields are of other releases, and left out
}

// setReferences splits a line with spaces in it, of which there may be several.
func (n *NarInfo) setReferences(value string) error {
	n.References = make([]string, 0, strings.Count(value, " ")+1)
	begin := 0
	for i := 0; i <= len(value); i++ {
		if i < len(value) && value[i] != ' ' {
			continue
		}
		if ref := value[begin:i]; ref != "" {
			if err := checkBaseName(ref); err != nil {
				return err
			}
			n.References = append(n.References, ref)
		}
		begin = i + 1
	}
	return nil
}

const maxBaseName = hashLen + len("-") + 211

// Every character of every name of every entry that is looked at is looked up here: a
// regular expression takes most of the time of a look.
var (
	digitOf [256]byte // in Nix's base 32; noDigit for what is none
	inName  [256]bool // what the name of a store path is made of
)

const noDigit = 0xff

func init() {
	for i := range digitOf {
		digitOf[i] = noDigit
	}
	for i, c := range []byte(nixbase32.Alphabet) {
		digitOf[c] = byte(i)
	}
	for _, c := range []byte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?=") {
		inName[c] = true
	}
}

func checkBaseName(name string) error {
	if len(name) <= hashLen+1 || len(name) > maxBaseName || name[hashLen] != '-' {
		return notBaseName(name)
	}
	for i := range hashLen {
		if digitOf[name[i]] == noDigit {
			return notBaseName(name)
		}
	}
	for i := hashLen + 1; i < len(name); i++ {
		if !inName[name[i]] {
			return notBaseName(name)
		}
	}
	return nil
}

func notBaseName(name string) error { return fmt.Errorf("%.250q is not <hash>-<name>", name) }

// checkURL refuses what would lead out of the cache, and what Nix since 2.34.7
// takes for an attempt at it.
func checkURL(url string) error {
	wrong := url == "" || path.IsAbs(url)
	for segment := range strings.SplitSeq(url, "/") {
		wrong = wrong || segment == "." || segment == ".."
	}
	if wrong {
		return fmt.Errorf("%q is not a file of this cache", url)
	}
	return nil
}

// compressions are the methods that Nix has names for (src/libutil/compression.cc).
var compressions = []string{
	"", "none", "br", "bzip2", "compress", "grzip", "gzip", "lrzip", "lz4", "lzip", "lzma", "lzop", "xz", "zstd",
}

func checkCompression(method string) error {
	if !slices.Contains(compressions, method) {
		return fmt.Errorf("%q is not a compression that Nix knows", method)
	}
	return nil
}

// checkSig refuses what is not name:base64. Like Nix it does without the padding.
func checkSig(sig string) error {
	name, value, _ := strings.Cut(sig, ":")
	_, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if name == "" || value == "" || err != nil {
		return fmt.Errorf("%q is not name:base64", sig)
	}
	return nil
}

// checkCA refuses what is not method:algorithm:hash, and the method for which Nix has to
// be told to use it.
func checkCA(ca string) error {
	if ca == "" {
		return nil
	}
	method, _, err := parseCA(ca)
	if method == "fixed:git:" {
		return fmt.Errorf("%q is experimental", ca)
	}
	return err
}

func parseSize(value string) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a size", value)
	}
	return n, nil
}

func parseHash(value string) (Hash, error) {
	if digits, ok := strings.CutPrefix(value, "sha256:"); ok {
		if h, ok := decodeHash(digits); ok {
			return h, nil // as nearly all are
		}
	}
	h, err := nixhash.ParseAny(value, nil)
	if err != nil {
		return Hash{}, err
	}
	if h.Algo() != nixhash.SHA256 || len(h.Digest()) != len(Hash{}) {
		return Hash{}, fmt.Errorf("%q is not a SHA-256", value)
	}
	return Hash(h.Digest()), nil
}

// decodeHash reads a hash in Nix's base 32: five bits a digit, the last ones first. It
// tells whether it is one.
func decodeHash(digits string) (h Hash, ok bool) {
	if len(digits) != (len(h)*8+4)/5 {
		return h, false
	}
	for n := range len(digits) {
		digit := digitOf[digits[len(digits)-1-n]]
		if digit == noDigit {
			return h, false
		}
		i, shift := n*5/8, n*5%8
		h[i] |= digit << shift
		if high := digit >> (8 - shift); i+1 < len(h) {
			h[i+1] |= high
		} else if high != 0 {
			return h, false
		}
	}
	return h, true
}
