package closurefile

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// maxRealisation is the largest of those that is read.
const maxRealisation = 1 << 20

// Tar writes the closures as a cache in a tar archive: whoever unpacks it has a cache
// that is whole at every moment, and a cache for Nix when nix-cache-info is there, which
// comes last.
//
// The same entries give the same archive: neither times nor owners get in, and the order
// depends on the entries alone.
//
// NARs are not decompressed, but compared with the hash of the file, if there is one.
// What is damaged ends the archive with an error, before its narinfo is written.
func (e *Exporter) Tar(ctx context.Context, w io.Writer, log *slog.Logger) (Result, error) {
	out := &counter{to: w}
	t := &tarball{Exporter: e, ctx: ctx, log: log, tar: tar.NewWriter(out), has: make(map[string]bool)}
	err := t.write()
	if err == nil {
		err = t.tar.Close()
	}
	e.bytes = out.bytes
	return e.result(), err
}

// A tarball is an archive that is being written.
type tarball struct {
	*Exporter
	ctx context.Context
	log *slog.Logger
	tar *tar.Writer
	has map[string]bool // names of NARs and directories that are in it
}

func (t *tarball) write() error {
	for _, dir := range bincache.ReaderDirs {
		if err := t.dir(dir); err != nil {
			return err
		}
	}
	if err := t.each(t.ctx, t.entry); err != nil {
		return err
	}
	for _, dir := range bincache.RealisationDirs {
		if err := t.realisations(dir); err != nil {
			return err
		}
	}
	return t.file("nix-cache-info")
}

// entry writes an entry, with its log and listing.
func (t *tarball) entry(n *bincache.NarInfo, text []byte) error {
	if !t.has[n.URL] {
		if err := t.nar(n); err != nil {
			return err
		}
		t.has[n.URL] = true
	}
	hash := bincache.HashPart(n.StorePath)
	names := []string{hash + ".ls"}
	for _, drv := range []string{n.Deriver, path.Base(n.StorePath)} {
		if strings.HasSuffix(drv, ".drv") {
			names = append(names, "log/"+drv)
		}
	}
	for _, name := range names {
		if t.has[name] {
			continue // several outputs have one log
		}
		if err := t.file(name); err != nil {
			return err
		}
	}
	t.narBytes.Add(n.NarSize)
	return t.bytes(hash+".narinfo", text)
}

func (t *tarball) nar(n *bincache.NarInfo) error {
	file, size, err := t.openNar(n)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := t.dir(path.Dir(n.URL)); err != nil {
		return err
	}
	if err := t.tar.WriteHeader(header(n.URL, size)); err != nil {
		return err
	}
	want := n.FileHash
	if want == (bincache.Hash{}) && n.Compression == "none" {
		want = n.NarHash
	}
	h := sha256.New()
	if err := t.copy(io.MultiWriter(t.tar, h), file, size); err != nil {
		return err
	}
	if is := bincache.Hash(h.Sum(nil)); want != (bincache.Hash{}) && is != want {
		return fmt.Errorf("%w: hash of %s is %s, want %s", bincache.ErrDamaged, n.URL, is, want)
	}
	return nil
}

// copy writes exactly size bytes.
func (t *tarball) copy(to io.Writer, file io.Reader, size int64) error {
	_, err := io.CopyN(to, &source{ctx: t.ctx, from: file}, size)
	if err == io.EOF {
		err = fmt.Errorf("it was cut while it was read: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// file writes a file of the cache, if there is one that can be read.
func (t *tarball) file(name string) error {
	text, err := t.open(name)
	if err != nil {
		return nil
	}
	defer text.Close()
	info, err := text.Stat()
	if err != nil {
		t.leaveOut(name, err)
		return nil
	}
	t.has[name] = true
	if err := t.tar.WriteHeader(header(name, info.Size())); err != nil {
		return err
	}
	if err := t.copy(t.tar, text, info.Size()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// open opens a regular file of the cache. It tells of what can't be read.
func (t *tarball) open(name string) (fs.File, error) {
	files := t.closure.Cache.FS()
	// By name first: to open what is not a regular file may take forever.
	info, err := fs.Lstat(files, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	var f fs.File
	if err == nil {
		f, err = files.Open(name)
	}
	if err != nil {
		t.leaveOut(name, err)
	}
	return f, err
}

func (t *tarball) leaveOut(name string, err error) {
	t.log.Warn("left out what can't be read", "cache", t.closure.Cache.Path(), "file", name, "err", err)
}

// realisations writes those files below a directory that are about the closures.
func (t *tarball) realisations(dir string) error {
	return fs.WalkDir(t.closure.Cache.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			t.leaveOut(name, err)
			return nil
		case d.IsDir() || !strings.HasSuffix(name, ".doi"):
			return t.ctx.Err()
		}
		text := t.realisation(name)
		if text == nil {
			return nil
		}
		if err := t.dir(path.Dir(name)); err != nil {
			return err
		}
		return t.bytes(name, text)
	})
}

// realisation returns the text of a realisation that is about the closures, or nil.
func (t *tarball) realisation(name string) []byte {
	f, err := t.open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRealisation))
	var about struct {
		OutPath string `json:"outPath"`
	}
	if err == nil {
		err = json.Unmarshal(text, &about)
	}
	if err != nil {
		t.leaveOut(name, err)
		return nil
	}
	id, ok := t.closure.ids[path.Base(about.OutPath)]
	if !ok || t.closure.items[id].state != visited {
		return nil
	}
	return text
}

// dir writes a directory, with those above it.
func (t *tarball) dir(name string) error {
	if name == "." || t.has[name] {
		return nil
	}
	if err := t.dir(path.Dir(name)); err != nil {
		return err
	}
	t.has[name] = true
	h := header(name+"/", 0)
	h.Typeflag, h.Mode = tar.TypeDir, 0o755
	return t.tar.WriteHeader(h)
}

func (t *tarball) bytes(name string, text []byte) error {
	if err := t.tar.WriteHeader(header(name, int64(len(text)))); err != nil {
		return err
	}
	_, err := t.tar.Write(text)
	return err
}

// header describes a file of which only name and size are known, and are to be known.
func header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
}
