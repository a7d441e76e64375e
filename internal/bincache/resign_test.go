package bincache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nix-larder/larder/internal/cachetest"
	"github.com/nix-larder/larder/internal/trouble"
)

func init() {
	parts["resign"] = resignInChild
}

const foreign = "foreign-1:QUFB" // a signature by somebody else

func newKey(t testing.TB, name string) signature.SecretKey {
	t.Helper()
	key, _, err := signature.GenerateKeypair(name, nil)
	must(t, err)
	return key
}

// smallBatch is how many entries are changed together, so that several batches don't
// take many files.
const smallBatch = 16

func inSmallBatches(t *testing.T) {
	was := resignBatch
	resignBatch = smallBatch
	t.Cleanup(func() { resignBatch = was })
}

func publicKeys(keys ...signature.SecretKey) (public []signature.PublicKey) {
	for _, key := range keys {
		public = append(public, key.ToPublicKey())
	}
	return public
}

// manyEntries makes a cache with entries that each need the one before, all signed by a
// key, and by somebody else. Their narinfos have a field that we do not know.
func manyEntries(t testing.TB, count int, key signature.SecretKey) (c *Cache, paths []string) {
	t.Helper()
	c = newCache(t)
	for i := range count {
		n := narInfo(cachetest.Path(i), fmt.Sprint("contents ", i))
		if i > 0 {
			n.References = []string{filepath.Base(paths[i-1])}
		}
		n.Sigs = append(signs(t, n, key), foreign)
		must(t, os.WriteFile(filepath.Join(c.Path(), n.URL), []byte(fmt.Sprint("contents ", i)), 0o644))
		must(t, os.WriteFile(filepath.Join(c.Path(), narInfoName(n.StorePath)), []byte("Unknown: field\n"+string(n.Format())), 0o644))
		paths = append(paths, n.StorePath)
	}
	return c, paths
}

func signs(t testing.TB, n *NarInfo, keys ...signature.SecretKey) []string {
	t.Helper()
	sigs, err := n.Sign(keys)
	must(t, err)
	return sigs
}

// signers fails the test if an entry has other signatures than valid ones by some keys,
// and those of somebody else.
func signers(t *testing.T, c *Cache, path string, others []string, keys ...signature.SecretKey) {
	t.Helper()
	n, err := c.Entry(path)
	must(t, err)
	want := sortedSet(append(signs(t, n, keys...), others...))
	if diff := cmp.Diff(want, sortedSet(n.Sigs)); diff != "" {
		t.Errorf("signatures of %s (-want +got):\n%s", path, diff)
	}
}

// resigned fails the test if Resign says something else.
func resigned(t *testing.T, c *Cache, o Resigning, want Resigned) {
	t.Helper()
	got, err := c.Resign(t.Context(), o)
	must(t, err)
	if got != want {
		t.Errorf("Resign says %+v, want %+v", got, want)
	}
}

func TestEveryEntryGoesFromOneKeyToTheOtherAtOnce(t *testing.T) {
	inSmallBatches(t)
	const count = 3*smallBatch/2 + 1
	before, after := newKey(t, "old-1"), newKey(t, "new-1")
	c, paths := manyEntries(t, count, before)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				n, err := c.Entry(paths[rand.N(count)])
				if err != nil {
					t.Error(err)
					return
				}
				signed, _ := n.SignedBy([]signature.SecretKey{before})
				if again, _ := n.SignedBy([]signature.SecretKey{after}); again == signed || len(n.Sigs) != 2 {
					t.Errorf("entry has %q", n.Sigs)
				}
			}
		})
	}
	o := Resigning{Keys: []signature.SecretKey{after}, Drop: []string{"old-1"}}
	var progress []int
	o.Progress = func(done, total int) { progress = append(progress, done, total) }
	o.DryRun = true
	was := times(t, c.Path())
	want := Resigned{Entries: count, Changed: count, Added: count, Dropped: count}
	resigned(t, c, o, want)
	if diff := cmp.Diff(was, times(t, c.Path())); diff != "" {
		t.Errorf("a dry run changed (-before +after):\n%s", diff)
	}
	o.DryRun, progress = false, nil
	resigned(t, c, o, want)
	close(done)
	readers.Wait()
	if want := []int{smallBatch, count, count, count}; !slices.Equal(progress, want) {
		t.Errorf("progress is %v, want %v", progress, want)
	}
	for _, path := range paths {
		signers(t, c, path, []string{foreign}, after)
		_, text, err := c.Read(HashPart(path))
		must(t, err)
		if !strings.HasPrefix(string(text), "Unknown: field\nStorePath: ") {
			t.Fatalf("narinfo is now %s", text)
		}
	}
	was = times(t, c.Path())
	resigned(t, c, o, Resigned{Entries: count})
	if diff := cmp.Diff(was, times(t, c.Path())); diff != "" {
		t.Errorf("the second time changed (-before +after):\n%s", diff)
	}
}

// A key may have been made anew under its old name.
func TestDroppedNameIsKeptOfTheKeyThatSigns(t *testing.T) {
	before, after := newKey(t, "ci-1"), newKey(t, "ci-1")
	c, paths := manyEntries(t, 1, before)
	o := Resigning{Keys: []signature.SecretKey{after}, Drop: []string{"ci-1"}}
	resigned(t, c, o, Resigned{Entries: 1, Changed: 1, Added: 1, Dropped: 1})
	signers(t, c, paths[0], []string{foreign}, after)
	resigned(t, c, o, Resigned{Entries: 1})
	resigned(t, c, Resigning{Drop: []string{"ci-1", "foreign-1"}}, Resigned{Entries: 1, Changed: 1, Dropped: 2, Unsigned: 1})
	signers(t, c, paths[0], nil)
}

func TestClosuresAreSignedAsFarAsTheCacheHasThem(t *testing.T) {
	old, key := newKey(t, "old-1"), newKey(t, "new-1")
	c, paths := manyEntries(t, 4, old)
	must(t, os.Remove(filepath.Join(c.Path(), narInfoName(paths[0])))) // an upstream has it
	o := Resigning{Keys: []signature.SecretKey{key}, Paths: paths[2:3]}
	resigned(t, c, o, Resigned{Entries: 2, Changed: 2, Added: 2})
	signers(t, c, paths[1], []string{foreign}, old, key)
	signers(t, c, paths[2], []string{foreign}, old, key)
	signers(t, c, paths[3], []string{foreign}, old)
	for _, path := range []string{paths[0], paths[1] + "-other"} {
		o.Paths = []string{paths[3], path}
		if _, err := c.Resign(t.Context(), o); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	signers(t, c, paths[3], []string{foreign}, old)
}

// Who can write to a cache, but has no key, must not get a signature for what he made.
func TestOnlyWhatATrustedKeyHasSignedIsSigned(t *testing.T) {
	trusted, untrusted, key := newKey(t, "old-1"), newKey(t, "other-1"), newKey(t, "new-1")
	entries, _ := signedEntries(t)
	dir := filepath.Dir(entries["source"].StorePath)
	c, err := Create(filepath.Join(t.TempDir(), "cache"), dir, Options{})
	must(t, err)
	defer c.Close()
	write := func(n *NarInfo, sigs ...string) string {
		t.Helper()
		n.Sigs = sigs
		n.URL, n.Compression, n.FileHash, n.FileSize = "nar/x", "zstd", Hash{}, 0
		must(t, os.WriteFile(filepath.Join(c.Path(), narInfoName(n.StorePath)), n.Format(), 0o644))
		return n.StorePath
	}
	must(t, os.WriteFile(filepath.Join(c.Path(), "nar/x"), []byte("x"), 0o644))
	entry := func(i int) *NarInfo { return narInfo(dir+"/"+filepath.Base(cachetest.Path(i)), "contents") }
	good, unsigned, theirs, tampered := entry(1), entry(2), entry(3), entry(4)
	goodPath := write(good, signs(t, good, trusted)...)
	write(unsigned)
	write(theirs, signs(t, theirs, untrusted)...)
	sig := signs(t, tampered, trusted)
	tampered.NarHash = sum("something else")
	write(tampered, sig...)
	// Its name says what is in it, but its hash of the NAR is another one's: were that
	// signed, it would do without the CA.
	ca := *entries["source"]
	ca.NarHash = sum("something else")
	caPath := write(&ca)

	o := Resigning{Keys: []signature.SecretKey{key}, Trusted: publicKeys(trusted), Drop: []string{"other-1"}}
	want := Resigned{Entries: 5, Changed: 2, Added: 1, Dropped: 1, Untrusted: 4, Unsigned: 2}
	resigned(t, c, o, want)
	signers(t, c, goodPath, nil, trusted, key)
	signers(t, c, theirs.StorePath, nil)
	signers(t, c, caPath, nil)
	// The old key can go at the same time.
	o.Drop = append(o.Drop, "old-1")
	resigned(t, c, o, Resigned{Entries: 5, Changed: 2, Dropped: 2, Untrusted: 4, Unsigned: 3})
	signers(t, c, goodPath, nil, key)
}

func TestNothingIsAddedToWhatIsDamaged(t *testing.T) {
	old, key := newKey(t, "old-1"), newKey(t, "new-1")
	c, paths := manyEntries(t, 3, old)
	n, err := c.Entry(paths[0])
	must(t, err)
	must(t, os.Remove(filepath.Join(c.Path(), n.URL)))
	must(t, os.WriteFile(filepath.Join(c.Path(), narInfoName(paths[1])), []byte("nonsense"), 0o644))
	var told []string
	o := Resigning{Keys: []signature.SecretKey{key}, Drop: []string{"old-1"}, Tell: func(err error) { told = append(told, err.Error()) }}
	// The key may have been stolen: its signature must not come back with the NAR.
	resigned(t, c, o, Resigned{Entries: 3, Changed: 2, Added: 1, Dropped: 2, Damaged: 2})
	if len(told) != 2 || !strings.Contains(strings.Join(told, "\n"), narInfoName(paths[0])) || !strings.Contains(strings.Join(told, "\n"), narInfoName(paths[1])) {
		t.Errorf("told %q", told)
	}
	must(t, os.WriteFile(filepath.Join(c.Path(), n.URL), []byte("contents 0"), 0o644))
	signers(t, c, paths[0], []string{foreign})
	signers(t, c, paths[2], []string{foreign}, key)
}

// TestResigningLosesNoSignature has others add theirs at the same time.
func TestResigningLosesNoSignature(t *testing.T) {
	old, key := newKey(t, "old-1"), newKey(t, "new-1")
	c, paths := manyEntries(t, 40, old)
	var writers sync.WaitGroup
	all := []string{foreign}
	for w := range 4 {
		sig := fmt.Sprintf("writer-%d:QUFB", w)
		all = append(all, sig)
		writers.Go(func() {
			for _, path := range paths {
				n, err := c.Entry(path)
				if err == nil {
					n.Sigs = []string{sig}
					_, err = c.AddSignatures(t.Context(), n)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	resigned(t, c, Resigning{Keys: []signature.SecretKey{key}, Drop: []string{"old-1"}}, Resigned{Entries: 40, Changed: 40, Added: 40, Dropped: 40})
	writers.Wait()
	for _, path := range paths {
		signers(t, c, path, all, key)
	}
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

func TestResigningWaitsForTheLock(t *testing.T) {
	old, key := newKey(t, "old-1"), newKey(t, "new-1")
	c, paths := manyEntries(t, 1, old)
	unlock, err := c.lock(t.Context())
	must(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := c.Resign(t.Context(), Resigning{Keys: []signature.SecretKey{key}})
		done <- err
	}()
	for len(unfinished(t, c)) == 0 { // it is prepared
		time.Sleep(time.Millisecond)
	}
	signers(t, c, paths[0], []string{foreign}, old)
	must(t, unlock())
	must(t, <-done)
	signers(t, c, paths[0], []string{foreign}, old, key)
}

// resignInChild is a child that goes from one key to the other.
func resignInChild(args []string) error {
	resignBatch = smallBatch
	c, err := Open(args[0], storeDir)
	if err != nil {
		return err
	}
	key, err := signature.LoadSecretKey(args[1])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = c.Resign(context.Background(), Resigning{Keys: []signature.SecretKey{key}, Drop: []string{"old-1"}})
	return err
}

// TestKilledResigningGoesOn kills processes at any moment that one takes.
func TestKilledResigningGoesOn(t *testing.T) {
	const count = 12 * smallBatch
	old, key := newKey(t, "old-1"), newKey(t, "new-1")
	start := func(c *Cache) (child *exec.Cmd) {
		t.Helper()
		child = trouble.Command(t, "resign", c.Path(), key.String())
		stdout, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
			t.Fatalf("child says %q, %v", line, err)
		}
		return child
	}
	undisturbed, _ := manyEntries(t, count, old)
	child := start(undisturbed)
	begin := time.Now()
	must(t, child.Wait())
	takes := time.Since(begin)

	c, paths := manyEntries(t, count, old)
	killed, changed := 0, 0
	for i := 0; i < 5 || killed == 0; i++ { // a slow machine may have become a fast one
		child := start(c)
		killer := time.AfterFunc(rand.N(takes/2), func() { _ = child.Process.Kill() })
		if child.Wait() != nil {
			killed++
		}
		killer.Stop()
		changed = 0
		for _, path := range paths {
			n, err := c.Entry(path)
			must(t, err)
			before, _ := n.SignedBy([]signature.SecretKey{old})
			after, _ := n.SignedBy([]signature.SecretKey{key})
			if before == after || len(n.Sigs) != 2 {
				t.Fatalf("entry has %q", n.Sigs)
			}
			if after {
				changed++
			}
		}
	}
	must(t, c.SweepTemp(0))
	t.Logf("%d were killed, and left %d of %d to do", killed, count-changed, count)
	left := count - changed
	resigned(t, c, Resigning{Keys: []signature.SecretKey{key}, Drop: []string{"old-1"}}, Resigned{Entries: count, Changed: left, Added: left, Dropped: left})
	if left := unfinished(t, c); len(left) > 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}
