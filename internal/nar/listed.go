package nar

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MaxListing is the largest listing that is read: nobody has a path of some million files.
const MaxListing = 256 << 20

// A ListingSum stands for what a listing says. Two are equal if the listings say the same,
// in whatever order, as Nix's versions differ in it.
type ListingSum struct {
	parts [4]uint64
	files int
}

// add adds what is said of one file.
func (s *ListingSum) add(name, kind string, n listed) {
	h := sha256.Sum256(fmt.Appendf(nil, "%q %s %t %d %d %q", name, kind, n.executable, n.size, n.offset, n.target))
	for i := range s.parts {
		s.parts[i] += binary.LittleEndian.Uint64(h[8*i:])
	}
	s.files++
}

// ReadListing reads a listing, as Nix writes it, and returns what it says. The error wraps
// [ErrFormat] if it is none. Memory does not depend on how much it lists.
func ReadListing(r io.Reader) (sum ListingSum, err error) {
	p := &listingParser{d: json.NewDecoder(io.LimitReader(r, MaxListing))}
	p.d.UseNumber()
	root := false
	err = p.object(func(key string) error {
		switch key {
		case "root":
			if root {
				return p.bad("root is there twice")
			}
			root = true
			return p.node("", 0)
		case "version":
			if n, err := p.number(); err != nil || n != 1 {
				return p.bad("version is %d, want 1", n)
			}
			return nil
		}
		return p.skip()
	})
	if err == nil && !root {
		err = p.bad("it has no root")
	}
	if err == nil {
		if _, end := p.d.Token(); end != io.EOF {
			err = p.bad("something is behind its end")
		}
	}
	return p.sum, err
}

// SumOf reads a NAR, and returns what a listing of it has to say. The error wraps [ErrNotText]
// if it can have none.
func SumOf(r io.Reader) (ListingSum, error) {
	out, in := io.Pipe()
	defer out.Close()
	go func() {
		from := NewReader(r)
		from.Listing = NewListing(in)
		_, _, err := from.Copy(io.Discard)
		if err == nil {
			err = from.Listing.Close()
		}
		in.CloseWithError(err)
	}()
	return ReadListing(out)
}

// listed is what a listing says of a file.
type listed struct {
	executable   bool
	size, offset uint64
	target       string
}

type listingParser struct {
	d   *json.Decoder
	sum ListingSum
}

func (p *listingParser) bad(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", ErrFormat, p.d.InputOffset(), fmt.Sprintf(format, args...))
}

// token returns the next part of the JSON. Errors of the file are returned as they are.
func (p *listingParser) token() (json.Token, error) {
	t, err := p.d.Token()
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, new(*json.SyntaxError)) {
		err = p.bad("%v", err)
	}
	return t, err
}

// object reads an object, and has its values read.
func (p *listingParser) object(value func(key string) error) error {
	t, err := p.token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return p.bad("%v is where an object should be", t)
	}
	for p.d.More() {
		if t, err = p.token(); err != nil {
			return err
		}
		key, _ := t.(string)
		if err := value(key); err != nil {
			return err
		}
	}
	_, err = p.token()
	return err
}

// skip reads a value that means nothing to us.
func (p *listingParser) skip() error {
	for depth := 0; ; {
		t, err := p.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

func (p *listingParser) number() (uint64, error) {
	t, err := p.token()
	if err != nil {
		return 0, err
	}
	text, _ := t.(json.Number)
	n, err := strconv.ParseUint(string(text), 10, 63)
	if err != nil {
		return 0, p.bad("%v is no size", t)
	}
	return n, nil
}

// text reads a string.
func (p *listingParser) text() (string, error) {
	t, err := p.token()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", p.bad("%v is no text", t)
	}
	return s, nil
}

// node reads what is said of a file.
func (p *listingParser) node(name string, depth int) error {
	if depth > maxDepth {
		return p.bad("more than %d directories inside each other", maxDepth)
	}
	var n listed
	kind, has := "", make(map[string]bool, 4)
	err := p.object(func(key string) (err error) {
		if has[key] {
			return p.bad("%q is there twice", key)
		}
		has[key] = true
		switch key {
		case "type":
			kind, err = p.text()
		case "target":
			n.target, err = p.text()
		case "size":
			n.size, err = p.number()
		case "narOffset":
			n.offset, err = p.number()
		case "executable":
			var t json.Token
			if t, err = p.token(); err == nil {
				var ok bool
				if n.executable, ok = t.(bool); !ok {
					err = p.bad("%v is neither true nor false", t)
				}
			}
		case "entries":
			err = p.object(func(entry string) error {
				if entry == "" || entry == "." || entry == ".." || strings.ContainsAny(entry, "/\x00") {
					return p.bad("%.100q can't be the name of a file", entry)
				}
				return p.node(name+"/"+entry, depth+1)
			})
		default:
			err = p.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case kind == "regular" && has["size"] && has["narOffset"], kind == "symlink" && has["target"], kind == "directory" && has["entries"]:
		p.sum.add(name, kind, n)
		return nil
	}
	return p.bad("%q is no type of file, or lacks what that has", kind)
}
