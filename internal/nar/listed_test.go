package nar

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const someListing = `{"root":{"entries":{"a":{"narOffset":400,"size":3,"type":"regular"},"b":{"target":"a","type":"symlink"},` +
	`"c":{"entries":{},"type":"directory"},"d":{"executable":true,"narOffset":800,"size":0,"type":"regular"}},"type":"directory"},"version":1}`

func sumOf(t testing.TB, text string) ListingSum {
	t.Helper()
	sum, err := ReadListing(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return sum
}

func TestListingsThatSayTheSameAreTheSame(t *testing.T) {
	want := sumOf(t, someListing)
	for _, same := range [][2]string{
		{`"narOffset":400,"size":3,"type":"regular"`, `"type":"regular","size":3,"executable":false,"narOffset":400`}, // Nix 2.8
		{`,"version":1`, ``},
		{`"version":1`, `"version":1,"later":[{"a":[]}]`},
		{`:`, " :\n"},
	} {
		if got := sumOf(t, strings.ReplaceAll(someListing, same[0], same[1])); got != want {
			t.Errorf("%s in place of %s: it says something else", same[1], same[0])
		}
	}
	for _, other := range [][2]string{
		{`"size":3`, `"size":4`}, {`400`, `401`}, {`"a":{`, `"aa":{`}, {`"target":"a"`, `"target":"b"`}, {`"executable":true,`, ``},
		{`"c":{"entries":{},"type":"directory"},`, ``}, {`"b"`, `"\u0061\u0062"`},
	} {
		if got := sumOf(t, strings.Replace(someListing, other[0], other[1], 1)); got == want {
			t.Errorf("%s in place of %s: it says the same", other[1], other[0])
		}
	}
}

func TestWhatIsNoListingIsRefused(t *testing.T) {
	for _, bad := range [][2]string{
		{someListing, ``}, {someListing, `[]`}, {someListing, `{}`}, {someListing, `null`}, {`}`, ``}, {`"version":1`, `"version":2`},
		{`"version":1`, `"version":"1"`}, {`"version":1}`, `"version":1}{}`}, {`"type":"symlink"`, `"type":"device"`},
		{`"size":3`, `"size":-3`}, {`"size":3`, `"size":3.5`}, {`"size":3,`, ``}, {`"narOffset":400,`, ``}, {`"size":3`, `"size":3,"size":3`},
		{`"executable":true`, `"executable":"yes"`}, {`"a":{`, `"../a":{`}, {`"a":{`, `"..":{`}, {`"a":{`, `"":{`}, {`"entries":{}`, `"entries":[]`},
		{`"target":"a"`, `"target":7`}, {`{}`, strings.Repeat(`{"x":{"type":"directory","entries":`, 1000) + `{}` + strings.Repeat(`}}`, 1000)},
	} {
		text := strings.Replace(someListing, bad[0], bad[1], 1)
		if _, err := ReadListing(strings.NewReader(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%.100s in place of %.100s: %v", bad[1], bad[0], err)
		}
	}
	broken := errors.New("broken")
	if _, err := ReadListing(io.MultiReader(strings.NewReader(someListing[:50]), iotest.ErrReader(broken))); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
		t.Errorf("a file that can't be read: %v", err)
	}
}

// FuzzListedNAR has whatever is a NAR say the same in its listing and by itself.
func FuzzListedNAR(f *testing.F) {
	nar, _, err := list(f, f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(nar)
	f.Fuzz(func(t *testing.T, nar []byte) {
		var listing bytes.Buffer
		r := NewReader(bytes.NewReader(nar))
		r.Listing = NewListing(&listing)
		_, _, err := r.Copy(io.Discard)
		if err == nil {
			err = r.Listing.Close()
		}
		sum, sumErr := SumOf(bytes.NewReader(nar))
		if (err == nil) != (sumErr == nil) {
			t.Fatalf("listing: %v, sum: %v", err, sumErr)
		}
		if err == nil && sum != sumOf(t, listing.String()) {
			t.Errorf("%s says something else than the NAR", listing.Bytes())
		}
	})
}

// FuzzReadListing has nothing be taken for a listing that is not JSON.
func FuzzReadListing(f *testing.F) {
	f.Add(someListing)
	f.Add(strings.ReplaceAll(someListing, ":", " : "))
	f.Add(`{"root":{"type":"symlink","target":"\ud800"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ReadListing(strings.NewReader(text)); err == nil && !json.Valid([]byte(text)) {
			t.Errorf("%q is taken for a listing", text)
		}
	})
}
