package nar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// defaultCaseHack is the default of Nix's setting use-case-hack.
const defaultCaseHack = runtime.GOOS == "darwin"

// caseHackSuffix starts what Nix appends to a name that differs from another
// one only by case.
const caseHackSuffix = "~nix~case~hack~"

// An entry is a file as its directory lists it.
type entry struct {
	name string
	kind uint32 // S_IFREG and so on; 0 if the file system doesn't say
}

// archiveName returns the name that e has in a NAR.
func (e entry) archiveName(caseHack bool) string {
	if caseHack {
		name, _, _ := strings.Cut(e.name, caseHackSuffix)
		return name
	}
	return e.name
}

// readEntries returns what is in the directory fd, in no order.
func (d *Dumper) readEntries(fd int) ([]entry, error) {
	var entries []entry
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(fd, d.dirents) })
		if err != nil || n == 0 {
			return entries, err
		}
		entries = appendEntries(entries, d.dirents[:n])
	}
}

// appendEntries appends what the records in dirents say, but for "." and "..".
// (unix.ParseDirent knows no types, and drops files that a FUSE file system gave
// no inode number.)
func appendEntries(entries []entry, dirents []byte) []entry {
	for len(dirents) > 0 {
		length := binary.NativeEndian.Uint16(dirents[unsafe.Offsetof(unix.Dirent{}.Reclen):])
		record := dirents[:length]
		dirents = dirents[length:]

		name, _, _ := bytes.Cut(record[unsafe.Offsetof(unix.Dirent{}.Name):], []byte{0})
		if string(name) == "." || string(name) == ".." {
			continue
		}
		// The types in a directory are those of stat, shifted.
		kind := uint32(record[unsafe.Offsetof(unix.Dirent{}.Type)]) << 12
		entries = append(entries, entry{string(name), kind})
	}
	return entries
}

// sortEntries returns entries in the order of a NAR. It uses the slice that it
// is given.
func sortEntries(entries []entry, caseHack bool) ([]entry, error) {
	slices.SortFunc(entries, func(a, b entry) int {
		return strings.Compare(a.archiveName(caseHack), b.archiveName(caseHack))
	})

	// A file that nix-store --optimise replaces while its directory is read may
	// be listed twice.
	entries = slices.Compact(entries)

	for i := 1; i < len(entries); i++ {
		a, b := entries[i-1], entries[i]
		if a.archiveName(caseHack) == b.archiveName(caseHack) {
			return nil, fmt.Errorf("%q and %q have the same name in a nar", a.name, b.name)
		}
	}
	return entries, nil
}
