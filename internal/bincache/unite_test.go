package bincache

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// TestSignaturesOfManyEntriesAreUnitedAtOnce has several add to all entries at the
// same time, some together and some one by one.
func TestSignaturesOfManyEntriesAreUnitedAtOnce(t *testing.T) {
	c := newCache(t)
	all := []*NarInfo{publish(t, c, hello, "hello"), publish(t, c, libc, "libc")}
	signed := func(key int) (batch []*NarInfo) {
		for _, n := range all {
			s := *n
			s.Sigs = []string{fmt.Sprintf("key-%d:QUFB", key)}
			batch = append(batch, &s)
		}
		return batch
	}
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			if added, err := c.UniteSignatures(t.Context(), signed(i)); err != nil || added != 2 {
				t.Errorf("added %d, %v; want 2", added, err)
			}
		})
		writers.Go(func() {
			if added, err := c.AddSignatures(t.Context(), signed(i + 8)[0]); err != nil || !added {
				t.Errorf("added is %v, %v", added, err)
			}
		})
	}
	writers.Wait()
	for path, want := range map[string]int{hello: 16, libc: 8} {
		have, err := c.Entry(path)
		must(t, err)
		if len(have.Sigs) != want || !slices.IsSorted(have.Sigs) {
			t.Errorf("signatures of %s are %q, want %d", path, have.Sigs, want)
		}
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

func TestNothingIsAddedToOtherContents(t *testing.T) {
	c := newCache(t)
	n := *publish(t, c, hello, "hello")
	n.Sigs = []string{"a:QUFB"}
	damaged := *publish(t, c, libc, "libc")
	damaged.Sigs = n.Sigs
	must(t, os.Remove(filepath.Join(c.Path(), damaged.URL)))
	other, missing := n, n
	other.NarHash = sum("other")
	missing.StorePath = storeDir + "/" + refLibc[:31] + "0-missing"
	before := snapshot(t, c.Path())
	if added, err := c.UniteSignatures(t.Context(), []*NarInfo{&other, &missing, &damaged}); added != 0 || err != nil {
		t.Errorf("added %d, %v; want nothing", added, err)
	}
	if after := snapshot(t, c.Path()); len(after) != len(before) || after["./"+narInfoName(hello)] != before["./"+narInfoName(hello)] {
		t.Errorf("something was changed: %v", after)
	}
}

// A narinfo of another Nix keeps what is not understood, and does not get what it has
// not.
func TestSignaturesLeaveTheRestOfANarInfoAlone(t *testing.T) {
	const head, tail = "StorePath: " + hello + "\nURL: nar/x\nOther: field\nNarHash: sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\nNarSize: 1\nReferences: \n", "CA: text:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\n"
	for _, c := range []struct{ text, want string }{
		{head + tail, head + "Sig: a:QUFB\nSig: b:QUFB\n" + tail},
		{head, head + "Sig: a:QUFB\nSig: b:QUFB\n"},
		{head + "Sig: b:QUFB\nSig: c:QUFB\n" + tail, head + "Sig: a:QUFB\nSig: b:QUFB\nSig: c:QUFB\n" + tail},
		{head + "Sig: b:QUFB\nSig: a:QUFB\n" + tail, head + "Sig: b:QUFB\nSig: a:QUFB\n" + tail},
	} {
		n, err := ParseNarInfo([]byte(c.text))
		must(t, err)
		got, added := WithSignatures(n, []byte(c.text), []string{"a:QUFB", "b:QUFB"})
		if string(got) != c.want {
			t.Errorf("is\n%s, want\n%s", got, c.want)
		}
		if want := 2 - len(slices.DeleteFunc(n.Sigs, func(sig string) bool { return sig == "c:QUFB" })); added != want {
			t.Errorf("added %d, want %d", added, want)
		}
	}
}

// TestSignaturesAreAddedToTextThatIsNotMadeOfLines has lines that Nix takes for one.
func TestSignaturesAreAddedToTextThatIsNotMadeOfLines(t *testing.T) {
	text := bytes.Replace(narInfo(hello, "hello").Format(), []byte("References: \n"), []byte("References: \njunk\nSig: "+sig+"\nalso\nX-Y:z\n"), 1)
	n, err := ParseNarInfo(text)
	must(t, err)
	if len(n.Sigs) != 0 {
		t.Fatalf("Nix does not see %q", n.Sigs)
	}
	united, added := WithSignatures(n, text, []string{sig})
	back, err := ParseNarInfo(united)
	if err != nil || added != 1 || len(back.Sigs) != 1 {
		t.Errorf("%d added, %v:\n%s", added, err, united)
	}
}
