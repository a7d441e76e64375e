package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"testing"
)

func TestSignaturesAreUnited(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "hello")
	add := func(want bool, sigs ...string) {
		t.Helper()
		signed := *n
		signed.Sigs = sigs
		if added, err := c.AddSignatures(t.Context(), &signed); err != nil || added != want {
			t.Errorf("add %q: %v, %v; want %v", sigs, added, err, want)
		}
	}
	add(false)
	add(true, "b:QUFB")
	add(true, "a:QUFB", "b:QUFB")
	add(false, "a:QUFB")
	have, err := c.Entry(hello)
	must(t, err)
	if want := []string{"a:QUFB", "b:QUFB"}; !slices.Equal(have.Sigs, want) {
		t.Errorf("signatures are %q, want %q", have.Sigs, want)
	}
}

// TestSignaturesOfSeveralWritersStayTogether has many add one each, at the same time.
func TestSignaturesOfSeveralWritersStayTogether(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "hello")
	var writers sync.WaitGroup
	for i := range 20 {
		writers.Go(func() {
			signed := *n
			signed.Sigs = []string{fmt.Sprintf("key-%d:QUFB", i)}
			if added, err := c.AddSignatures(t.Context(), &signed); err != nil || !added {
				t.Errorf("add %q: %v, %v", signed.Sigs, added, err)
			}
		})
	}
	writers.Wait()
	have, err := c.Entry(hello)
	must(t, err)
	if len(have.Sigs) != 20 {
		t.Errorf("%d signatures, want 20: %q", len(have.Sigs), have.Sigs)
	}
}

func TestSignaturesOfOtherContentsStayOut(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "hello")
	for name, change := range map[string]func(*NarInfo){
		"hash":       func(n *NarInfo) { n.NarHash = sum("other") },
		"size":       func(n *NarInfo) { n.NarSize++ },
		"references": func(n *NarInfo) { n.References = []string{refLibc} },
	} {
		other := *n
		other.Sigs = []string{"a:QUFB"}
		change(&other)
		if added, err := c.AddSignatures(t.Context(), &other); !errors.Is(err, ErrOtherContents) || added {
			t.Errorf("other %s: %v, %v", name, added, err)
		}
	}
	missing := narInfo(libc, "libc")
	missing.Sigs = []string{"a:QUFB"}
	if _, err := c.AddSignatures(t.Context(), missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no entry: %v", err)
	}
	if have, err := c.Entry(hello); err != nil || have.Sigs != nil {
		t.Errorf("entry is %+v, %v", have, err)
	}
}
