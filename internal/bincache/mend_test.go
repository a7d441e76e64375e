package bincache

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDamagedNarIsRemovedOnlyIfItIsTheOneThatWasRead(t *testing.T) {
	c := newCache(t)
	n := publish(t, c, hello, "contents")
	was, err := c.StatNar(n.URL)
	must(t, err)
	must(t, temp(t, c, "mended!!").Replace(n.URL)) // as large as it was
	removed, err := c.RemoveNar(t.Context(), n.URL, was)
	must(t, err)
	if text, err := os.ReadFile(filepath.Join(c.Path(), n.URL)); removed || string(text) != "mended!!" {
		t.Errorf("removed is %v, and the NAR %q: %v", removed, text, err)
	}
	is, err := c.StatNar(n.URL)
	must(t, err)
	for _, want := range []bool{true, false} { // the second time it is gone
		removed, err = c.RemoveNar(t.Context(), n.URL, is)
		if must(t, err); removed != want {
			t.Errorf("removed is %v, want %v", removed, want)
		}
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("left is %q", left)
	}
	for _, name := range []string{infoFile, ".larder/lock", "../x", "nar/.keep"} {
		if _, err := c.StatNar(name); err == nil {
			t.Errorf("%s is a NAR", name)
		}
	}
}

func TestEntryNamesTheNarOfAnotherWithTheSameContentsOnly(t *testing.T) {
	c := newCache(t)
	n, other := publish(t, c, hello, "contents"), publish(t, c, libc, "other contents")
	must(t, c.replaceText(narInfoName(hello), append(n.Format(), "X-Foreign: yes\n"...)))
	if named, err := c.NameNar(t.Context(), HashPart(hello), other); named || err != nil {
		t.Errorf("named is %v, %v", named, err)
	}
	must(t, os.Remove(filepath.Join(c.Path(), n.URL)))
	again := *n
	again.StorePath, again.URL = libc, "nar/again.nar"
	if named, err := c.NameNar(t.Context(), HashPart(hello), &again); named || err == nil {
		t.Errorf("named is %v, %v", named, err)
	}
	must(t, c.PublishNar(temp(t, c, "contents"), again.URL))
	if named, err := c.NameNar(t.Context(), HashPart(hello), &again); !named || err != nil {
		t.Errorf("named is %v, %v", named, err)
	}
	want := *n
	want.URL = again.URL
	text, err := c.ReadFile(narInfoName(hello))
	if must(t, err); string(text) != string(want.Format())+"X-Foreign: yes\n" {
		t.Errorf("narinfo is %s", text)
	}
}

// What replaces a damaged narinfo keeps what others wrote, but not about other contents.
func TestMendedNarInfoKeepsWhatOthersWrote(t *testing.T) {
	for _, same := range []bool{true, false} {
		c := newCache(t)
		n := publish(t, c, hello, "contents")
		must(t, c.replaceText(narInfoName(hello), append(n.Format(), "Sig: "+sig+"\nX-Foreign: yes\n"...)))
		must(t, os.Remove(filepath.Join(c.Path(), n.URL)))
		text := "contents"
		if !same {
			text = "others"
		}
		now := narInfo(hello, text)
		now.URL = "nar/again.nar"
		must(t, c.PublishNar(temp(t, c, text), now.URL))
		file, err := c.TempNarInfo(now)
		must(t, err)
		published, err := c.PublishNarInfo(t.Context(), file, hello)
		if must(t, err); !published {
			t.Error("it was not published")
		}
		want := string(now.Format())
		if same {
			want += "Sig: " + sig + "\nX-Foreign: yes\n"
		}
		got, err := c.ReadFile(narInfoName(hello))
		if must(t, err); string(got) != want {
			t.Errorf("narinfo is\n%s, want\n%s", got, want)
		}
		if left := unfinished(t, c); len(left) > 0 {
			t.Errorf("left is %q", left)
		}
	}
}

func TestLookSaysWhatReadSays(t *testing.T) {
	c := newCache(t)
	publish(t, c, hello, "contents")
	n := publish(t, c, libc, "other contents")
	const foreign, cut = "/gnu/store/00000000000000000000000000000000-foreign", storeDir + "/00000000000000000000000000000001-cut"
	must(t, c.replaceText(narInfoName(foreign), narInfo(foreign, "contents").Format()))
	must(t, c.replaceText(narInfoName(cut), []byte("StorePath: ")))
	must(t, os.Remove(filepath.Join(c.Path(), n.URL)))
	for _, p := range []string{hello, libc, foreign, cut, storeDir + "/00000000000000000000000000000002-none"} {
		want, _, wantErr := c.Read(HashPart(p))
		c.Look(t.Context(), []string{HashPart(p)}, func(_ string, got *NarInfo, err error) {
			if (got == nil) != (want == nil) || got != nil && !got.equal(want) || (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
				t.Errorf("of %s: %v, %v, want %v, %v", p, got, err, want, wantErr)
			}
		})
	}
}
