package bincache

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
)

func sum(text string) Hash { return sha256.Sum256([]byte(text)) }

const (
	refHello = "0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12"
	refLibc  = "1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38"
	sig      = "cache.example.org-1:X3Gq3SmNqn+0hVg9CyoLVAvVWnSbGNBcg9MmJkhbvr3jaIQkKPEmJkAWFoyG5HQX+EDXDpcCZLs5q9RbmSdVAw=="
)

// full is a narinfo with every field.
var full = NarInfo{
	StorePath: hello, URL: "nar/1x.nar.zst", Compression: "zstd",
	FileHash: sum("file"), FileSize: 1234, NarHash: sum("nar"), NarSize: 5678,
	References: []string{refHello, refLibc},
	Deriver:    "2b2q5sg1zi5kd2ypk8i3nqs3jp1a0rcm-hello-2.12.drv",
	Sigs:       []string{sig, "other:AAAA"},
	CA:         "fixed:r:" + sum("nar").String(),
}

const fullText = `StorePath: /nix/store/0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12
URL: nar/1x.nar.zst
Compression: zstd
FileHash: sha256:101bq2db3ma3wnf6ycg88s9ar67igjf30kz1sdm1p8zh6s7kb71v
FileSize: 1234
NarHash: sha256:0gsyc3g0w8wacg97wwm1iirigsl96k36iijdxiadn8cqcjmx18y1
NarSize: 5678
References: 0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12 1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38
Deriver: 2b2q5sg1zi5kd2ypk8i3nqs3jp1a0rcm-hello-2.12.drv
Sig: cache.example.org-1:X3Gq3SmNqn+0hVg9CyoLVAvVWnSbGNBcg9MmJkhbvr3jaIQkKPEmJkAWFoyG5HQX+EDXDpcCZLs5q9RbmSdVAw==
Sig: other:AAAA
CA: fixed:r:sha256:0gsyc3g0w8wacg97wwm1iirigsl96k36iijdxiadn8cqcjmx18y1
`

// TestNixWritesTheSameNarInfo has Nix write narinfos of every kind: they have to
// come back byte for byte.
func TestNixWritesTheSameNarInfo(t *testing.T) {
	s := nixtest.New(t)
	paths := s.Build(t, `let
		base = build "base" "echo base > $out" { };
		fixed = build "fixed" "echo fixed > $out" { outputHash = "`+sum("fixed\n").String()+`"; };
		text = builtins.toFile "text" "see ${builtins.toFile "other" ""}";
		in (build "all" "mkdir $out; echo $out $base $fixed $text > $out/refs; echo $out > $dev" {
			inherit base fixed text;
			outputs = [ "out" "dev" ];
		}).all`)
	paths = append(paths, s.Add(t, "source", "source"))
	key := filepath.Join(t.TempDir(), "key")
	for _, name := range []string{"one", "two"} {
		s.Run(t, "nix-store", "--generate-binary-cache-key", name, key+name, key+".pub")
		s.Run(t, "nix", append([]string{"store", "sign", "--key-file", key + name, "-r"}, paths...)...)
	}
	cache := t.TempDir()
	for _, compression := range []string{"none", "xz", "zstd"} {
		dir := filepath.Join(cache, compression)
		s.Run(t, "nix", append([]string{"copy", "--to", "file://" + dir + "?compression=" + compression}, paths...)...)
	}

	files, err := filepath.Glob(filepath.Join(cache, "*", "*.narinfo"))
	must(t, err)
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		n, err := ParseNarInfo(text)
		if err != nil {
			t.Errorf("%v in\n%s", err, text)
			continue
		}
		if diff := cmp.Diff(string(text), string(n.Format())); diff != "" {
			t.Errorf("(-nix +larder):\n%s", diff)
		}
		if name := NarName(n.FileHash, n.Compression); name != n.URL {
			t.Errorf("NAR is called %s, and %s by Nix", name, n.URL)
		}
		all.Write(text)
	}
	for _, part := range []string{"References: \n", "Deriver: ", "CA: fixed:sha256:", "CA: fixed:r:sha256:", "CA: text:sha256:", "\nSig: one:", "\nSig: two:", ".nar.xz\n", ".nar.zst\n"} {
		if !strings.Contains(all.String(), part) {
			t.Errorf("no narinfo of this test has %q", part)
		}
	}
}

func TestNarInfoIsWrittenInNixsOrder(t *testing.T) {
	if diff := cmp.Diff(fullText, string(full.Format())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	must(t, full.Check())
}

func TestCheckRefusesWhatNixCouldNotRead(t *testing.T) {
	for name, change := range map[string]func(*NarInfo){
		"line feed in a name": func(n *NarInfo) { n.StorePath += "\nURL: nar/x" },
		"reference to a path": func(n *NarInfo) { n.References = []string{libc} },
		"deriver with a path": func(n *NarInfo) { n.Deriver = hello + ".drv" },
		"signature, no name":  func(n *NarInfo) { n.Sigs = []string{"AAAA"} },
		"no size":             func(n *NarInfo) { n.NarSize = 0 },
		"unknown compression": func(n *NarInfo) { n.Compression = "zip" },
	} {
		n := full
		change(&n)
		if n.Check() == nil {
			t.Errorf("%s: Check found nothing wrong in\n%s", name, n.Format())
		}
	}
}
