package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // go-digest has only what is imported
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// programs is all that an image has, at its top.
var programs = []string{"larder", "larder-hook"}

// An image is what to write.
type image struct {
	version, source string
	created         time.Time
	parts           []part
}

// A part of an image is for one platform.
type part struct {
	platform v1.Platform
	folder   string // has the programs
}

// write makes the layout in dir, which must not have one yet.
func (img image) write(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, v1.ImageBlobsDir, digest.SHA256.String()), 0o755); err != nil {
		return err
	}
	var manifests []v1.Descriptor
	for _, p := range img.parts {
		manifest, err := img.writePart(dir, p)
		if err != nil {
			return fmt.Errorf("write image for %s/%s: %w", p.platform.OS, p.platform.Architecture, err)
		}
		manifests = append(manifests, manifest)
	}
	index, err := writeJSON(dir, v1.MediaTypeImageIndex, v1.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   v1.MediaTypeImageIndex,
		Manifests:   manifests,
		Annotations: img.annotations(),
	})
	if err != nil {
		return err
	}
	// The layout has one image, not one for each platform: what copies it need not be
	// told which.
	index.Annotations = map[string]string{v1.AnnotationRefName: img.version}
	top, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{index},
	})
	if err != nil {
		return err
	}
	layout, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, v1.ImageLayoutFile), layout, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, v1.ImageIndexFile), top, 0o644)
}

// writePart writes what one platform needs, and returns its manifest.
func (img image) writePart(dir string, p part) (v1.Descriptor, error) {
	files, err := img.layer(p.folder)
	if err != nil {
		return v1.Descriptor{}, err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if _, err := z.Write(files); err != nil {
		return v1.Descriptor{}, err
	}
	if err := z.Close(); err != nil {
		return v1.Descriptor{}, err
	}
	layer, err := writeBlob(dir, v1.MediaTypeImageLayerGzip, packed.Bytes())
	if err != nil {
		return v1.Descriptor{}, err
	}
	config, err := writeJSON(dir, v1.MediaTypeImageConfig, v1.Image{
		Created:  &img.created,
		Platform: p.platform,
		Config:   v1.ImageConfig{Entrypoint: []string{"/" + programs[0]}, Labels: img.annotations()},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(files)}},
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := writeJSON(dir, v1.MediaTypeImageManifest, v1.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   v1.MediaTypeImageManifest,
		Config:      config,
		Layers:      []v1.Descriptor{layer},
		Annotations: img.annotations(),
	})
	manifest.Platform = &p.platform
	return manifest, err
}

// layer returns the programs of a folder as a tar.
func (img image) layer(folder string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range programs {
		program, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		header := tar.Header{Name: name, Mode: 0o755, Size: int64(len(program)), ModTime: img.created, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(program); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// annotations are what an image says of itself, in the words of the specification.
func (img image) annotations() map[string]string {
	return map[string]string{
		v1.AnnotationTitle:    "larder",
		v1.AnnotationVersion:  img.version,
		v1.AnnotationSource:   img.source,
		v1.AnnotationLicenses: "MIT",
		v1.AnnotationCreated:  img.created.Format(time.RFC3339),
	}
}

func writeJSON(dir, mediaType string, content any) (v1.Descriptor, error) {
	text, err := json.Marshal(content)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return writeBlob(dir, mediaType, text)
}

// writeBlob writes a file that is named by its hash.
func writeBlob(dir, mediaType string, content []byte) (v1.Descriptor, error) {
	d := digest.FromBytes(content)
	err := os.WriteFile(filepath.Join(dir, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), content, 0o644)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}, err
}
