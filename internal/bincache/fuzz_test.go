package bincache

import (
	"bytes"
	"encoding/base64"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// FuzzParseNarInfo asserts that what can be read is written so that it reads the
// same: an entry that is found present is what Nix will find. go-nix reads less than
// Nix does, and more, but what it reads as well it has to read as we do.
func FuzzParseNarInfo(f *testing.F) {
	f.Add([]byte(fullText))
	for _, field := range []string{"StorePath", "URL", "Compression", "FileSize", "NarHash", "NarSize", "References", "Deriver", "Sig", "CA"} {
		f.Add([]byte(edit(field, "")))
		f.Add([]byte(edit(field, field+": \n")))
		f.Add([]byte(edit(field, field+": \r\t \n")))
		f.Add([]byte(edit(field, "junk\n"+field+":x\n")))
	}
	f.Add([]byte(edit("NarHash", "NarHash: sha256:"+strings.Repeat("A", 32)+strings.Repeat("\r", 12)+"\n")))
	f.Add([]byte(edit("StorePath", "StorePath: /nix//store/../store/"+refHello+"/\n")))
	f.Add([]byte(edit("NarSize", "NarSize: 9223372036854775807\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := ParseNarInfo(text)
		if err != nil {
			return
		}
		must(t, n.Check())
		back, err := ParseNarInfo(n.Format())
		must(t, err)
		if diff := cmp.Diff(n, back, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-read +written and read again):\n%s", diff)
		}
		if path.IsAbs(n.URL) || slices.Contains(strings.Split(n.URL, "/"), "..") {
			t.Errorf("URL %q leads out of the cache", n.URL)
		}
		united, added := WithSignatures(n, text, []string{"fuzz:AAAA"})
		if signed, err := ParseNarInfo(united); err != nil || added > 1 || !slices.Contains(signed.Sigs, "fuzz:AAAA") || !signed.SameContents(n) || signed.URL != n.URL || signed.CA != n.CA {
			t.Errorf("signed, it is %v\n%s", err, united)
		}
		asGoNixReads(t, n, text)
	})
}

// asGoNixReads compares with another parser, if it reads a text too.
func asGoNixReads(t *testing.T, n *NarInfo, text []byte) {
	t.Helper()
	other, err := narinfo.Parse(bytes.NewReader(text))
	if err != nil || other.Check() != nil {
		return
	}
	// It takes no care of what is missing, empty, given twice, or not as Nix writes it.
	if again, err := ParseNarInfo([]byte(other.String())); err != nil || len(n.Sigs) == 0 && len(other.Signatures) > 0 {
		return
	} else if diff := cmp.Diff(n, again, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(NarInfo{}, "FileHash", "FileSize", "Compression", "Sigs", "CA", "Deriver")); diff != "" {
		t.Errorf("(-read here +read by go-nix):\n%s\n%s", diff, text)
	}
}

// FuzzCacheInfo asserts that what a cache says of itself is one store directory.
func FuzzCacheInfo(f *testing.F) {
	for _, text := range []string{
		"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n", "WantMassQuery: 1\r\nStoreDir:/nix/store\r\nPriority: 40\r\n", "", "\n", "StoreDir",
		"StoreDir: /nix/store\nStoreDir: /gnu/store\n", "Priority: \n", "Priority: 99999999999\n", "Priority: -5x\n", "Priority: +-1\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		asked, told := &Cache{storeDir: storeDir}, &Cache{}
		err, errTold := asked.parseInfo(text), told.parseInfo(text)
		if err == nil && asked.storeDir != storeDir {
			t.Errorf("the store directory became %q", asked.storeDir)
		}
		if err == nil && (errTold != nil || told.storeDir != storeDir) {
			t.Errorf("%q, %v; want %s, which will do", told.storeDir, errTold, storeDir)
		}
		if errTold == nil && strings.ContainsAny(told.storeDir, "\n") {
			t.Errorf("the store directory is %q", told.storeDir)
		}
	})
}

// FuzzSignatureState asserts that no signature and no key is believed but the right one.
func FuzzSignatureState(f *testing.F) {
	secret, public, err := signature.GenerateKeypair("key", zeros{})
	if err != nil {
		f.Fatal(err)
	}
	n := full
	n.CA = ""
	sigs, err := n.Sign([]signature.SecretKey{secret})
	if err != nil {
		f.Fatal(err)
	}
	right := sigs[0]
	for _, sig := range []string{right, strings.TrimRight(right, "="), "key:", "key:AAAA", ":AAAA", "key:" + strings.Repeat("A", 86) + "==", sig, "key:\r\n" + right[4:], ""} {
		f.Add(sig)
	}
	f.Fuzz(func(t *testing.T, sig string) {
		n := n
		n.Sigs = []string{sig}
		if checkSig(sig) != nil {
			return
		}
		state := n.SignatureState([]signature.PublicKey{public})
		name, value, _ := strings.Cut(sig, ":")
		bytesOf := func(value string) []byte {
			data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			must(t, err)
			return data
		}
		same := name == "key" && bytes.Equal(bytesOf(value), bytesOf(right[len("key:"):]))
		if same != (state == Valid) {
			t.Errorf("%q is %s", sig, state)
		}
		if parsed, err := signature.ParseSignature(sig); err == nil && public.Verify(n.Fingerprint(), parsed) && state != Valid {
			t.Errorf("go-nix believes %q, which is %s", sig, state)
		}
	})
}

// zeros are what makes the same key every time.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// FuzzRunTimes asserts that a record's time is written as it was, and not later.
func FuzzRunTimes(f *testing.F) {
	f.Add(int64(0), 12.5)
	f.Add(noon.Unix(), 1e9)
	f.Fuzz(func(t *testing.T, unix int64, seconds float64) {
		ended := time.Unix(unix, 0).UTC()
		if ended.Year() < 1 || ended.Year() > 9999 || ended.IsZero() || !(seconds >= 0 && seconds <= 1e9) {
			return
		}
		r := Run{Ended: ended, Added: []RunEntry{{Path: hello, Build: time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)}}}
		back, err := parseRun(r.format(), storeDir)
		must(t, err)
		if diff := cmp.Diff(r, back, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
	})
}
