package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// written is an image of small programs, for two platforms.
func written(t *testing.T) (img image, dir string) {
	t.Helper()
	img = image{version: "v1.2.3", source: "https://example.org/larder", created: time.Unix(1_700_000_000, 0).UTC()}
	for _, arch := range []string{"amd64", "arm64"} {
		folder := t.TempDir()
		for _, name := range programs {
			must(t, os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n# "+name+" for "+arch+"\n"), 0o600))
		}
		img.parts = append(img.parts, part{v1.Platform{OS: "linux", Architecture: arch}, folder})
	}
	dir = filepath.Join(t.TempDir(), "oci")
	must(t, img.write(dir))
	return img, dir
}

// A layout is what a test reads from one.
type layout struct {
	dir  string
	used map[string]bool // the blobs that were read
}

// read checks that a blob is what its descriptor says.
func (l layout) read(t *testing.T, d v1.Descriptor, mediaType string) []byte {
	t.Helper()
	name := filepath.Join("blobs", "sha256", d.Digest.Encoded())
	blob, err := os.ReadFile(filepath.Join(l.dir, name))
	must(t, err)
	if d.MediaType != mediaType || d.Size != int64(len(blob)) || d.Digest != digest.FromBytes(blob) {
		t.Errorf("the descriptor says %+v; the file has %d bytes with %s, want a %s", d, len(blob), digest.FromBytes(blob), mediaType)
	}
	l.used[name] = true
	return blob
}

func decode[T any](t *testing.T, text []byte) (v T) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	must(t, d.Decode(&v))
	return v
}

// checkLayout checks that the layout in dir is whole, and an image of programs, by
// architecture and name, and of nothing else.
func checkLayout(t *testing.T, dir, version string, created time.Time, want map[string]map[string]string) {
	t.Helper()
	l := layout{dir, map[string]bool{"oci-layout": true, "index.json": true}}
	text, err := os.ReadFile(filepath.Join(dir, "oci-layout"))
	must(t, err)
	if v := decode[v1.ImageLayout](t, text); v.Version != "1.0.0" {
		t.Errorf("layout is %+v", v)
	}
	text, err = os.ReadFile(filepath.Join(dir, "index.json"))
	must(t, err)
	top := decode[v1.Index](t, text)
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations[v1.AnnotationRefName] != version {
		t.Fatalf("index.json has %+v, want one image with the tag %s", top.Manifests, version)
	}
	index := decode[v1.Index](t, l.read(t, top.Manifests[0], v1.MediaTypeImageIndex))
	checkVersion(t, version, index.Annotations)

	got := make(map[string]map[string]string)
	for _, d := range index.Manifests {
		manifest := decode[v1.Manifest](t, l.read(t, d, v1.MediaTypeImageManifest))
		config := decode[v1.Image](t, l.read(t, manifest.Config, v1.MediaTypeImageConfig))
		checkVersion(t, version, manifest.Annotations, config.Config.Labels)
		if d.Platform == nil || d.Platform.OS != "linux" || config.OS != "linux" || d.Platform.Architecture != config.Architecture {
			t.Errorf("the index says it is for %+v, its configuration %+v", d.Platform, config.Platform)
		}
		if len(manifest.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 || !config.Created.Equal(created) {
			t.Fatalf("layers are %v and %v, made %v; want one, made %v", manifest.Layers, config.RootFS, config.Created, created)
		}
		files := gunzip(t, l.read(t, manifest.Layers[0], v1.MediaTypeImageLayerGzip))
		if id := config.RootFS.DiffIDs[0]; id != digest.FromBytes(files) {
			t.Errorf("the layer is %s, want %s", digest.FromBytes(files), id)
		}
		got[config.Architecture] = untar(t, files, created)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		if len(diff) > 2000 {
			diff = diff[:2000] + "…"
		}
		t.Errorf("the image has other files (-want +got):\n%s", diff)
	}

	must(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !l.used[name] {
			t.Errorf("nothing refers to %s", name)
		}
		return err
	}))
}

func gunzip(t *testing.T, packed []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	must(t, err)
	content, err := io.ReadAll(z)
	must(t, err)
	return content
}

func checkVersion(t *testing.T, version string, annotations ...map[string]string) {
	t.Helper()
	for _, a := range annotations {
		if a[v1.AnnotationVersion] != version {
			t.Errorf("annotations are %v, want the version %s", a, version)
		}
	}
}

// untar returns the files of a layer, all of which must be root's programs.
func untar(t *testing.T, layer []byte, created time.Time) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		if h.Typeflag != tar.TypeReg || h.Mode != 0o755 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || !h.ModTime.Equal(created) {
			t.Errorf("%s is %+v, want a program of root's, made %v", h.Name, h, created)
		}
		text, err := io.ReadAll(r)
		must(t, err)
		files[h.Name] = string(text)
	}
}

// contents reads the programs of every part.
func (img image) contents(t *testing.T) map[string]map[string]string {
	t.Helper()
	all := make(map[string]map[string]string)
	for _, p := range img.parts {
		files := make(map[string]string)
		for _, name := range programs {
			text, err := os.ReadFile(filepath.Join(p.folder, name))
			must(t, err)
			files[name] = string(text)
		}
		all[p.platform.Architecture] = files
	}
	return all
}

func TestImageHasTheProgramsAndNothingElse(t *testing.T) {
	img, dir := written(t)
	checkLayout(t, dir, img.version, img.created, img.contents(t))
}

func TestArgumentsAreFollowed(t *testing.T) {
	img, dir := written(t)
	program := filepath.Join(t.TempDir(), "oci")
	run(t, "go", "build", "-o", program, ".")
	again := filepath.Join(t.TempDir(), "again")
	args := []string{"--version", img.version, "--source", img.source, "--time", fmt.Sprint(img.created.Unix()), again}
	for _, p := range img.parts {
		args = append(args, "linux/"+p.platform.Architecture+"="+p.folder)
	}
	run(t, program, args...)
	if diff := cmp.Diff(tree(t, dir), tree(t, again)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSameProgramsMakeTheSameImage(t *testing.T) {
	img, dir := written(t)
	for _, p := range img.parts { // neither times nor modes of theirs get in
		name := filepath.Join(p.folder, programs[0])
		must(t, errors.Join(os.Chmod(name, 0o777), os.Chtimes(name, time.Now(), time.Unix(1, 0))))
	}
	again := filepath.Join(t.TempDir(), "again")
	must(t, img.write(again))
	if diff := cmp.Diff(tree(t, dir), tree(t, again)); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		files[name] = string(text)
		return err
	}))
	return files
}

func TestMissingProgramIsNamed(t *testing.T) {
	img, _ := written(t)
	must(t, os.Remove(filepath.Join(img.parts[1].folder, "larder-hook")))
	err := img.write(t.TempDir())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "linux/arm64") || !strings.Contains(err.Error(), "larder-hook") {
		t.Errorf("error is %v, want that larder-hook for linux/arm64 is not there", err)
	}
}

// TestOthersTakeTheImage has Debian's skopeo and umoci read what was written.
func TestOthersTakeTheImage(t *testing.T) {
	img, dir := written(t)
	want := img.contents(t)
	t.Run("skopeo", func(t *testing.T) {
		program := installed(t, "skopeo")
		to := filepath.Join(t.TempDir(), "copy")
		// All of it, as to a registry, and then the part that a machine would take.
		run(t, program, "copy", "--all", "--preserve-digests", "--insecure-policy", "oci:"+dir, "oci:"+to+":"+img.version)
		checkLayout(t, to, img.version, img.created, want)
		for arch, files := range want {
			out := run(t, program, "inspect", "--override-os", "linux", "--override-arch", arch, "oci:"+dir+":"+img.version)
			got := decode[map[string]any](t, []byte(out))
			if got["Architecture"] != arch {
				t.Errorf("for %s it shows %s", arch, out)
			}
			single := filepath.Join(t.TempDir(), "single")
			run(t, program, "copy", "--override-arch", arch, "--insecure-policy", "oci:"+dir, "dir:"+single)
			manifest := decode[v1.Manifest](t, []byte(tree(t, single)["manifest.json"]))
			layer := gunzip(t, []byte(tree(t, single)[manifest.Layers[0].Digest.Encoded()]))
			if diff := cmp.Diff(files, untar(t, layer, img.created)); diff != "" {
				t.Errorf("for %s it copies (-want +got):\n%s", arch, diff)
			}
		}
	})
	t.Run("umoci", func(t *testing.T) {
		program := installed(t, "umoci")
		for _, p := range img.parts { // it knows no images for several platforms
			one, dir := img, filepath.Join(t.TempDir(), "oci")
			one.parts = []part{p}
			must(t, one.write(dir))
			bundle := filepath.Join(t.TempDir(), "bundle")
			run(t, program, "unpack", "--rootless", "--image", dir+":"+img.version, bundle)
			if diff := cmp.Diff(want[p.platform.Architecture], tree(t, filepath.Join(bundle, "rootfs"))); diff != "" {
				t.Errorf("it unpacks (-want +got):\n%s", diff)
			}
		}
	})
}

// installed returns a program, or skips the test.
func installed(t *testing.T, name string) string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("not tried with %s: %v", name, err)
	}
	return program
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, stderr.String())
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
