package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotCache says that a directory has other things in it than a cache.
	ErrNotCache = errors.New("not a binary cache")
	// ErrStoreDir says that a cache is for a store in another place.
	ErrStoreDir = errors.New("cache is for another store directory")
)

const (
	infoFile      = "nix-cache-info"
	narInfoEnding = ".narinfo"
	hashLen       = 32 // of the first part of a store path

	tmpDir   = ".larder/tmp"
	runsDir  = ".larder/runs"
	lockFile = ".larder/lock"
	cacheTag = "CACHEDIR.TAG"
)

// dirs are made when a cache is, and again if a copy of it lost them.
var dirs = append(slices.Clone(ReaderDirs), ".larder", tmpDir, runsDir)

// A Cache is a binary cache in a directory. It is safe for use by several
// goroutines, and by several processes.
type Cache struct {
	root     *os.Root // every path we touch is below it
	path     string
	storeDir string
	fileMode fs.FileMode
	info     fs.FileInfo // of nix-cache-info when the cache was opened; of the directory if it has none
	proof    string      // a directory without which it is gone; "" if there is none
	held     heldDirs
	room     room
}

// Options say how a cache is made. Opening one that is there does not need them.
type Options struct {
	// Mode is the mode of files. Directories have it too, with an x for every r.
	// Zero means 0644: any client has to be able to read the cache.
	Mode fs.FileMode

	// Group owns the files, by name or number, and directories are made so that
	// they pass it on (setgid). Empty means whatever the system gives them.
	Group string

	// Settings are what the cache remembers from the beginning.
	Settings Settings
}

// Create opens the cache in the directory path, and makes it first if path is
// missing or empty. The error wraps [ErrNotCache] if something else is there, and
// otherwise what Open's does.
func Create(path, storeDir string, o Options) (*Cache, error) {
	c, err := Open(path, storeDir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if err := create(path, storeDir, o); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return Open(path, storeDir)
}

func create(path, storeDir string, o Options) error {
	if o.Mode == 0 {
		o.Mode = 0o644
	}
	gid := -1
	if o.Group != "" {
		var err error
		if gid, err = lookupGroup(o.Group); err != nil {
			return err
		}
	}
	if err := makeParents(path); err != nil {
		return err
	}
	if err := ignoreExist(os.Mkdir(path, 0o777)); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// Somebody may be making the same cache at this moment, or was killed.
		if name := e.Name(); name != infoFile && !isOurs(name) {
			return fmt.Errorf("%s: %w, and has %s in it", path, ErrNotCache, name)
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	mode := dirMode(o.Mode)
	if gid >= 0 {
		if err := root.Chown(".", -1, gid); err != nil {
			return err
		}
		mode |= fs.ModeSetgid
	}
	if err := chmodDir(root, ".", mode); err != nil {
		return err
	}

	c := &Cache{root: root, path: path, fileMode: o.Mode}
	defer c.held.close()
	if err := c.makeDirs(); err != nil {
		return err
	}
	if o.Settings != (Settings{}) {
		if err := c.writeOnce(settingsFile, o.Settings.format("")); err != nil {
			return err
		}
	}
	// This one last: it makes a directory a cache, and says how files are made.
	return c.writeInfo(storeDir)
}

// isOurs tells whether a name in a cache's top directory is one that makeDirs
// makes, or mkfs.
func isOurs(name string) bool {
	switch name {
	case ".larder", ".keep", ".gitignore", cacheTag, "lost+found":
		return true
	}
	return slices.Contains(ReaderDirs, name)
}

// makeParents makes the directories above a cache that are missing. Those who
// read the cache have to get through, whatever our umask is.
func makeParents(path string) error {
	parent := filepath.Dir(path)
	if _, err := os.Stat(parent); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeParents(parent); err != nil {
		return err
	}
	if err := os.Mkdir(parent, 0o777); err != nil {
		return ignoreExist(err)
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	return chmodDir(root, ".", 0o755)
}

// makeDirs makes every directory and small file that is missing. Archives and
// CI providers drop empty directories, which is what .keep is against.
func (c *Cache) makeDirs() error {
	for _, dir := range dirs {
		err := c.root.Mkdir(dir, 0o777)
		if errors.Is(err, fs.ErrExist) && c.info != nil {
			continue
		}
		// Without nix-cache-info it may be there because somebody was killed who
		// was making the cache, and still have the mode that the umask gave it.
		if err := ignoreExist(err); err != nil {
			return err
		}
		if err := chmodDir(c.root, dir, dirMode(c.fileMode)); err != nil {
			return err
		}
	}
	files := map[string]string{
		lockFile:     "",
		".keep":      "",
		".gitignore": "*\n",
		cacheTag:     "Signature: 8a477f597d28d172789f06886806bc55\n# A binary cache for Nix. See https://bford.info/cachedir/\n",
	}
	for _, dir := range dirs {
		files[dir+"/.keep"] = ""
	}
	for name, text := range files {
		if err := c.writeOnce(name, text); err != nil {
			return err
		}
	}
	return nil
}

// Open opens the cache in the directory path for reading and writing, and makes what is
// missing in it, such as nix-cache-info beside entries. The error wraps
// [fs.ErrNotExist] if there is none, and [ErrStoreDir] if its paths are not below
// storeDir. An empty storeDir stands for the one that the cache itself names.
func Open(path, storeDir string) (*Cache, error) {
	c, err := OpenReadOnly(path, storeDir)
	if err != nil {
		return nil, err
	}
	c.proof = tmpDir
	err = c.makeDirs()
	if err == nil && !c.HasInfo() {
		if err = c.writeInfo(c.storeDir); err == nil {
			err = c.readInfo()
		}
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return c, nil
}

// OpenReadOnly opens a cache that somebody else may have made, and changes nothing
// in it. Its errors are Open's.
func OpenReadOnly(path, storeDir string) (*Cache, error) {
	// To open what is no directory may take forever.
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	c := &Cache{root: root, path: path, storeDir: storeDir}
	if c.isDir("nar") { // it need not be one of ours, and may have lost that
		c.proof = "nar"
	}
	if err := c.readInfo(); err != nil {
		root.Close()
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return c, nil
}

// CheckWritable returns an error if files can't be made in the cache. It makes none:
// see the package comment. Of what goes wrong later a worker's jobs tell.
func (c *Cache) CheckWritable() error {
	for _, dir := range []string{tmpDir, "."} {
		if err := c.mayWrite(dir); err != nil {
			return fmt.Errorf("write to %s: %w", filepath.Join(c.path, dir), err)
		}
	}
	return nil
}

func (c *Cache) mayWrite(dir string) error {
	d, err := c.dir(dir)
	if err != nil {
		return err
	}
	// Root may write everywhere but on a file system that is read-only.
	return unix.Faccessat(int(d.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS)
}

// Replaced tells whether the cache is gone from where it was opened, or is another
// one: then nothing that is remembered of it holds.
func (c *Cache) Replaced() bool {
	name := infoFile
	if !c.HasInfo() {
		name = "."
	}
	now, err := os.Stat(filepath.Join(c.path, name))
	// The file may be another one with the same inode.
	if err != nil || !os.SameFile(c.info, now) || c.HasInfo() && !c.info.ModTime().Equal(now.ModTime()) {
		return true
	}
	// All but that one file may have been deleted.
	return c.proof != "" && !c.isDir(c.proof)
}

// Identity names the cache that was opened: one that is deleted and made again, or
// restored from a copy, has another. It does not change while one is used.
func (c *Cache) Identity() string {
	sys := c.info.Sys().(*syscall.Stat_t)
	var made int64
	if c.HasInfo() { // a directory changes with what is in it
		made = c.info.ModTime().UnixNano()
	}
	return fmt.Sprintf("%s %d %d", c.path, sys.Ino, made)
}

// Close closes the cache.
func (c *Cache) Close() error {
	c.held.close()
	return c.root.Close()
}

// Path returns the directory.
func (c *Cache) Path() string { return c.path }

// dirMode returns the mode of a directory that goes with a mode of files.
func dirMode(file fs.FileMode) fs.FileMode { return file | file&0o444>>2 | 0o700 }

// chmodDir sets a directory's mode against the umask, and keeps the setgid bit
// that it may have inherited.
func chmodDir(root *os.Root, name string, mode fs.FileMode) error {
	info, err := root.Stat(name)
	if err != nil {
		return err
	}
	return root.Chmod(name, mode|info.Mode()&fs.ModeSetgid)
}

func lookupGroup(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

func ignoreExist(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// narInfoName returns the file that describes a store path.
func narInfoName(storePath string) string { return HashPart(storePath) + narInfoEnding }

// HashPart returns the first part of a store path's name.
func HashPart(storePath string) string {
	hash, _, _ := strings.Cut(filepath.Base(storePath), "-")
	return hash
}
