package bincache

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// edit returns fullText with a line replaced: "URL" and "URL: x\n".
func edit(field, line string) string {
	var b strings.Builder
	for l := range strings.Lines(fullText) {
		if strings.HasPrefix(l, field+":") {
			l, line = line, ""
		}
		b.WriteString(l)
	}
	return b.String()
}

func TestNarInfoIsReadAsNixDoes(t *testing.T) {
	hash := sum("nar")
	for _, tt := range []struct {
		name, text string
		want       func(*NarInfo)
	}{
		{"everything", fullText, func(*NarInfo) {}},
		{"no compression is bzip2", edit("Compression", ""), func(n *NarInfo) { n.Compression = "bzip2" }},
		{"empty compression is bzip2", edit("Compression", "Compression: \n"), func(n *NarInfo) { n.Compression = "bzip2" }},
		{"the last compression counts", edit("Compression", "Compression: xz\nCompression: \n"), func(n *NarInfo) { n.Compression = "bzip2" }},
		{"no references", edit("References", "References: \n"), func(n *NarInfo) { n.References = nil }},
		{"references missing", edit("References", ""), func(n *NarInfo) { n.References = nil }},
		{"references twice, first empty", edit("References", "References: \nReferences: "+refLibc+"\n"), func(n *NarInfo) { n.References = []string{refLibc} }},
		{"references with spaces", edit("References", "References:   "+refHello+"  "+refLibc+" \n"), func(*NarInfo) {}},
		{"no file hash", edit("FileHash", ""), func(n *NarInfo) { n.FileHash = Hash{} }},
		{"no file size", edit("FileSize", ""), func(n *NarInfo) { n.FileSize = 0 }},
		{"no deriver", edit("Deriver", ""), func(n *NarInfo) { n.Deriver = "" }},
		{"unknown deriver", edit("Deriver", "Deriver: unknown-deriver\n"), func(n *NarInfo) { n.Deriver = "" }},
		{"the last deriver counts", edit("Deriver", "Deriver: "+refLibc+"\nDeriver: unknown-deriver\n"), func(n *NarInfo) { n.Deriver = "" }},
		{"no content address", edit("CA", ""), func(n *NarInfo) { n.CA = "" }},
		{"content address of a text", edit("CA", "CA: text:"+hash.String()+"\n"), func(n *NarInfo) { n.CA = "text:" + hash.String() }},
		{"the last store path counts", edit("StorePath", "StorePath: "+libc+"\nStorePath: "+hello+"\n"), func(*NarInfo) {}},
		{"the last URL counts", edit("URL", "URL: nar/0\nURL: nar/1x.nar.zst\n"), func(*NarInfo) {}},
		{"fields of other releases", edit("URL", "System: x86_64-linux\nNew: a: b\nURL: nar/1x.nar.zst\n"), func(*NarInfo) {}},
		{"no colon before what is not needed", edit("CA", "junk\nCA: x\n"), func(n *NarInfo) { n.CA = "" }},
		{"blank line before what is not needed", edit("Deriver", "\nDeriver: "+refHello+"\n"), func(n *NarInfo) { n.Deriver = "" }},
		{"no space behind what nobody knows", edit("CA", "X:\nCA: x\nY:y\n"), func(n *NarInfo) { n.CA = "" }},
		{"store path that is not clean", edit("StorePath", "StorePath: //nix/./x/../store//"+refHello+"/\n"), func(*NarInfo) {}},
		{"any order", edit("StorePath", "") + "StorePath: " + hello + "\n", func(*NarInfo) {}},
		{"hash in base 16", edit("NarHash", "NarHash: sha256:"+hex.EncodeToString(hash[:])+"\n"), func(*NarInfo) {}},
		{"hash in base 64", edit("NarHash", "NarHash: sha256:"+base64.StdEncoding.EncodeToString(hash[:])+"\n"), func(*NarInfo) {}},
		{"hash as in a web page", edit("NarHash", "NarHash: sha256-"+base64.StdEncoding.EncodeToString(hash[:])+"\n"), func(*NarInfo) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseNarInfo([]byte(tt.text))
			must(t, err)
			want := full
			tt.want(&want)
			if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNarInfoThatNixRefusesIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"empty":                       "",
		"no store path":               edit("StorePath", ""),
		"no URL":                      edit("URL", ""),
		"empty URL":                   edit("URL", "URL: \n"),
		"no NAR hash":                 edit("NarHash", ""),
		"no NAR size":                 edit("NarSize", ""),
		"NAR size 0":                  edit("NarSize", "NarSize: 0\n"),
		"negative size":               edit("NarSize", "NarSize: -1\n"),
		"size that is too large":      edit("NarSize", "NarSize: 18446744073709551616\n"),
		"size in words":               edit("FileSize", "FileSize: 12 bytes\n"),
		"carriage returns":            strings.ReplaceAll(fullText, "\n", "\r\n"),
		"one carriage return":         strings.Replace(fullText, "hello-2.12\n", "hello-2.12\r\n", 1),
		"no line feed at the end":     strings.TrimSuffix(fullText, "\n"),
		"cut in the middle":           fullText[:len(fullText)/2],
		"blank line":                  strings.Replace(fullText, "URL", "\nURL", 1),
		"blank line at the end":       fullText + "\n",
		"no space behind the colon":   edit("References", "References:\n"),
		"value right at the colon":    edit("URL", "URL:nar/1x.nar.zst\n"),
		"two reference lines":         edit("References", "References: "+refLibc+"\nReferences: "+refHello+"\n"),
		"two content addresses":       edit("CA", "CA: text:"+sum("").String()+"\nCA: text:"+sum("").String()+"\n"),
		"content address":             edit("CA", "CA: sha256:0\n"),
		"references with a tab":       edit("References", "References: "+refHello+"\t"+refLibc+"\n"),
		"references, carriage return": edit("References", "References: "+refHello+"\r\n"),
		"text by another algorithm":   edit("CA", "CA: text:sha1:"+strings.Repeat("0", 32)+"\n"),
		"address as in a web page":    edit("CA", "CA: fixed:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"),
		"address of git":              edit("CA", "CA: fixed:git:sha1:"+strings.Repeat("0", 32)+"\n"),
		"name with a slash":           edit("References", "References: "+libc+"\n"),
		"name without a hash":         edit("References", "References: glibc\n"),
		"path without a hash":         edit("StorePath", "StorePath: /nix/store/hello\n"),
		"name that is too long":       edit("References", "References: "+refLibc+strings.Repeat("x", 250-len(refLibc))+"\n"),
		"path with a colon":           edit("StorePath", "StorePath:x: "+hello+"\n"),
		"deriver with a path":         edit("Deriver", "Deriver: "+hello+"\n"),
		"empty deriver":               edit("Deriver", "Deriver: \n"),
		"signature without a name":    edit("Sig", "Sig: AAAA\n"),
		"signature with no base 64":   edit("Sig", "Sig: key:****\n"),
		"empty signature":             edit("Sig", "Sig: \n"),
		"compression nobody knows":    edit("Compression", "Compression: zip\n"),
		"hash without its algorithm":  edit("NarHash", "NarHash: "+sum("nar").Digits()+"\n"),
		"hash of another algorithm":   edit("NarHash", "NarHash: sha1:"+strings.Repeat("0", 40)+"\n"),
		"hash that is cut off":        edit("NarHash", "NarHash: "+sum("nar").String()[:40]+"\n"),
		"hash with letters wrong":     edit("NarHash", "NarHash: sha256:"+strings.Repeat("e", 52)+"\n"),
		"hash that decodes short":     edit("NarHash", "NarHash: sha256:"+strings.Repeat("A", 32)+strings.Repeat("\r", 12)+"\n"),
		"URL that leads up":           edit("URL", "URL: ../nar/x\n"),
		"URL that leads up inside":    edit("URL", "URL: nar/../../x\n"),
		"URL with a dot":              edit("URL", "URL: ./nar/x\n"),
		"URL of another place":        edit("URL", "URL: /etc/passwd\n"),
	} {
		if n, err := ParseNarInfo([]byte(text)); err == nil {
			t.Errorf("%s: read as %+v", name, n)
		}
	}
}
