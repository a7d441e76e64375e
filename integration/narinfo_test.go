package integration

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A narInfoEdit is something that may be in a narinfo of others, or be wrong with it.
type narInfoEdit struct {
	name string
	edit func(text string) string

	// strict says why larder does not take what Nix does; "" if it does.
	strict string
	// unseen says that only who unpacks the NAR finds out that it is wrong.
	unseen bool
}

// line replaces the line of a field, or with "" takes it away.
func line(field, by string) func(string) string {
	return func(text string) string {
		lines := strings.SplitAfter(text, "\n")
		i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, field+":") })
		if i < 0 {
			panic(text + "has no " + field)
		}
		lines[i] = by
		return strings.Join(lines, "")
	}
}

func replaced(from, to string) func(string) string {
	return func(text string) string { return strings.Replace(text, from, to, 1) }
}

// narInfoEdits are tried on a narinfo of Nix, of a NAR that is not compressed.
var narInfoEdits = []narInfoEdit{
	{name: "nothing", edit: func(text string) string { return text }},
	{name: "no file hash", edit: line("FileHash", "")},
	{name: "no file size", edit: line("FileSize", "")},
	{name: "file size 0", edit: line("FileSize", "FileSize: 0\n")},
	{name: "no references", edit: line("References", "")},
	{name: "no deriver", edit: line("Deriver", "")},
	{name: "unknown deriver", edit: line("Deriver", "Deriver: unknown-deriver\n")},
	{name: "system and more", edit: line("Deriver", "System: x86_64-linux\nX-Y: a: b\nProvenance: {\"a\":{\"b\":1}}\n")},
	{name: "unknown field without a space", edit: line("Deriver", "X:y\n")},
	{name: "another order", edit: func(text string) string {
		lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
		lines[len(lines)-1] += "\n"
		slices.Reverse(lines)
		return strings.Join(lines, "")
	}},
	{name: "hash in base 16", edit: line("FileHash", "FileHash: sha256:"+strings.Repeat("0", 64)+"\n")},
	{name: "file hash as in web pages", edit: line("FileHash", "FileHash: sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")},
	{name: "file hash without its algorithm", edit: line("FileHash", "FileHash: "+strings.Repeat("0", 52)+"\n")},
	{name: "file hash, sha512", edit: line("FileHash", "FileHash: sha512:"+strings.Repeat("0", 128)+"\n"), strict: "no cache has files named so"},
	{name: "signature of any key", edit: line("Deriver", "Sig: a-1:"+strings.Repeat("A", 86)+"==\n")},
	{name: "short signature", edit: line("Deriver", "Sig: a-1:AAAA\n")},
	{name: "signature without base 64", edit: line("Deriver", "Sig: a-1:!\n")},
	{name: "signature without a name", edit: line("Deriver", "Sig: AAAA\n")},
	{name: "empty signature", edit: line("Deriver", "Sig: \n")},
	{name: "carriage returns", edit: func(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }},
	{name: "space behind the path", edit: replaced("\nURL", " \nURL")},
	{name: "space behind the compression", edit: line("Compression", "Compression: none \n")},
	{name: "space behind the URL", edit: replaced("\nCompression", " \nCompression")},
	{name: "space behind the deriver", edit: replaced(".drv\n", ".drv \n")},
	{name: "space behind the references", edit: line("References", "References:  \n")},
	{name: "tab in the references", edit: line("References", "References: \t\n")},
	{name: "carriage return in the references", edit: line("References", "References: \r\n")},
	{name: "references without a space", edit: line("References", "References:\n")},
	{name: "reference to a path", edit: line("References", "References: /nix/store/00000000000000000000000000000000-x\n")},
	{name: "two reference lines", edit: line("References", "References: 00000000000000000000000000000000-x\nReferences: 00000000000000000000000000000000-x\n")},
	{name: "blank line before what is needed", edit: replaced("URL:", "\nURL:")},
	{name: "blank line before what is not", edit: replaced("Deriver:", "\nDeriver:")},
	{name: "junk before what is not", edit: replaced("Deriver:", "junk\nDeriver:")},
	{name: "blank line at the end", edit: func(text string) string { return text + "\n" }},
	{name: "no line feed at the end", edit: func(text string) string { return strings.TrimSuffix(text, "\n") }},
	{name: "no compression is bzip2", edit: line("Compression", ""), unseen: true},
	{name: "empty compression is bzip2", edit: line("Compression", "Compression: \n"), unseen: true},
	{name: "compression nobody knows", edit: line("Compression", "Compression: zip\n")},
	{name: "no NAR hash", edit: line("NarHash", "")},
	{name: "NAR hash of another kind", edit: line("NarHash", "NarHash: md5:00000000000000000000000000000000\n")},
	{name: "wrong NAR hash", edit: line("NarHash", "NarHash: sha256:"+strings.Repeat("0", 64)+"\n"), unseen: true},
	{name: "no NAR size", edit: line("NarSize", "")},
	{name: "NAR size 0", edit: line("NarSize", "NarSize: 0\n")},
	{name: "wrong NAR size", edit: line("NarSize", "NarSize: 5\n")},
	{name: "negative NAR size", edit: line("NarSize", "NarSize: -1\n")},
	{name: "NAR size of 2^64", edit: line("NarSize", "NarSize: 18446744073709551616\n")},
	{name: "NAR size of 2^63", edit: line("NarSize", "NarSize: 9223372036854775808\n")},
	{name: "NAR size of 2^63-1", edit: line("NarSize", "NarSize: 9223372036854775807\n")},
	{name: "NAR size with a plus", edit: replaced("NarSize: ", "NarSize: +")},
	{name: "NAR size with zeros", edit: replaced("NarSize: ", "NarSize: 00")},
	{name: "NAR size in hexadecimal", edit: line("NarSize", "NarSize: 0x10\n")},
	{name: "file size in words", edit: line("FileSize", "FileSize: many\n")},
	{name: "other file size", edit: line("FileSize", "FileSize: 5\n"), strict: "the NAR may be cut off"},
	{name: "no path", edit: line("StorePath", "")},
	{name: "another one's path", edit: replaced("StorePath: /nix/store/", "StorePath: /nix/store/00000000000000000000000000000000-")},
	{name: "another store", edit: replaced("StorePath: /nix/store/", "StorePath: /gnu/store/")},
	{name: "slashes in the path", edit: replaced("/nix/store/", "//nix///store//")},
	{name: "dots in the path", edit: replaced("/nix/store/", "/nix/./x/../store/")},
	{name: "slash behind the path", edit: replaced("\nURL", "/\nURL")},
	{name: "path without a slash", edit: replaced("/nix/store/", "")},
	{name: "two paths", edit: func(text string) string { return "StorePath: /nix/store/00000000000000000000000000000000-x\n" + text }},
	{name: "no URL", edit: line("URL", "")},
	{name: "URL without a space", edit: replaced("URL: ", "URL:")},
	{name: "URL to nothing", edit: line("URL", "URL: nar/nothing.nar\n")},
	{name: "URL of another machine", edit: line("URL", "URL: https://cache.example.org/nar/x.nar\n")},
	{name: "URL to a directory", edit: line("URL", "URL: nar\n")},
	{name: "URL with a dot", edit: replaced("URL: ", "URL: ./")},
	{name: "URL that leads up and back", edit: replaced("URL: ", "URL: nar/../")},
	{name: "URL with two slashes", edit: replaced("URL: nar/", "URL: nar//")},
	{name: "URL with a question", edit: replaced("\nCompression", "?x\nCompression")},
	{name: "deriver with a path", edit: replaced("Deriver: ", "Deriver: /nix/store/")},
	{name: "empty deriver", edit: line("Deriver", "Deriver: \n")},
	{name: "empty content address", edit: line("Deriver", "CA: \n")},
	{name: "content address without its method", edit: line("Deriver", "CA: sha256:"+strings.Repeat("0", 52)+"\n")},
	{name: "content address as in web pages", edit: line("Deriver", "CA: fixed:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")},
	{name: "two content addresses", edit: line("Deriver", "CA: text:sha256:"+strings.Repeat("0", 52)+"\nCA: text:sha256:"+strings.Repeat("0", 52)+"\n")},
	{name: "text by another algorithm", edit: line("Deriver", "CA: text:sha1:"+strings.Repeat("0", 32)+"\n")},
	{name: "content address of git", edit: line("Deriver", "CA: fixed:git:sha1:"+strings.Repeat("0", 32)+"\n")},
	{name: "empty", edit: func(string) string { return "" }},
	{name: "cut off in a line", edit: func(text string) string { return text[:len(text)*2/3] }},
	{name: "cut off behind a line", edit: func(text string) string { return text[:strings.Index(text, "NarHash")] }},
	{name: "bytes", edit: func(string) string { return "\x00\xff\xfe: \x80\n" }},
}

// What every Nix reads, larder does; what some Nix does not, larder names.
func TestLarderTakesTheEntriesThatEveryNixTakes(t *testing.T) {
	t.Parallel()
	maker := newMachine(t, nixes[0])
	var items strings.Builder
	for i := range narInfoEdits {
		items.WriteString(" (import /larder/graphs/derive.nix \"" + string(rune('a'+i/26)) + string(rune('a'+i%26)) + "\" { } \"echo x > $out\")")
	}
	paths := maker.build(t, "--expr", "["+items.String()+"]")
	cache := filepath.Join(tempDir(t), "cache")
	maker.run(t, append([]string{"nix", "copy", "--to", "file://" + cache + "?compression=none"}, paths...)...)
	for i, e := range narInfoEdits {
		file := narInfoFile(cache, paths[i])
		text, err := os.ReadFile(file)
		must(t, err)
		edited := e.edit(string(text))
		if edited == string(text) && i > 0 {
			t.Fatalf("%s changes nothing in\n%s", e.name, text)
		}
		must(t, os.WriteFile(file, []byte(edited), 0o644))
	}
	for _, dir := range []string{"log", "realisations", "build-trace-v2"} { // what each Nix makes
		must(t, errors.Join(os.MkdirAll(filepath.Join(cache, dir), 0o755)))
	}
	before := files(t, cache)

	taken := make(map[string]int)
	for _, n := range nixes {
		n.need(t)
		m := newMachine(t, n)
		const loop = `for path; do nix-store --realise --max-jobs 0 --option substituters "$CACHE" "$path" 2>&1 || : ; done`
		m.with("CACHE=file://"+cache+"?trusted=1").run(t, append([]string{"sh", "-uc", loop, "-"}, paths...)...)
		for _, path := range m.validPaths(t) {
			taken[path]++
			t.Logf("%s takes %s", n.name, narInfoEdits[slices.Index(paths, path)].name)
		}
	}
	stdout, stderr, exit := maker.tryRun(t, "larder", "list", "--cache", cache)
	listed := strings.Fields(stdout)
	if exit != 1 {
		t.Errorf("exit %d, want 1", exit)
	}
	for i, path := range paths {
		e := narInfoEdits[i]
		byNix, byLarder := taken[path] == len(nixes), slices.Contains(listed, path)
		switch {
		case byNix && !byLarder && e.strict == "":
			t.Errorf("%s: larder does not take it", e.name)
		case !byNix && byLarder && !e.unseen:
			t.Errorf("%s: larder takes it, and only %d of %d Nixes do", e.name, taken[path], len(nixes))
		case e.strict != "" && !(byNix && !byLarder), e.unseen && !(byLarder && !byNix):
			t.Errorf("%s: larder is no longer different: taken by larder: %v, by Nix: %v", e.name, byLarder, byNix)
		}
		if name := filepath.Base(narInfoFile(cache, path)); byLarder == strings.Contains(stderr, name) {
			t.Errorf("%s: %s is listed: %v, and named in\n%s", e.name, name, byLarder, stderr)
		}
	}
	unchanged(t, "a cache that was read", before, files(t, cache))
}

func narInfoFile(cache, path string) string {
	return filepath.Join(cache, filepath.Base(path)[:32]+".narinfo")
}
