package integration

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Everything that puts paths into a store, in a random order and at the same time,
// while daemons of all kinds are killed at random moments, or none is there. Set
// LARDER_SEED as for the worker that is killed again and again.
func TestWhateverEntersTheStoreIsInTheCacheHoweverOftenTheWatcherIsKilled(t *testing.T) {
	t.Parallel()
	rounds := 1
	if os.Getenv("LARDER_LONG") == "1" {
		rounds = 20
	}
	for i, n := range nixes {
		for round := range rounds {
			t.Run(fmt.Sprintf("%s/%d", n.name, round), func(t *testing.T) {
				t.Parallel()
				watchThroughKills(t, n, nixes[(i+1+round)%len(nixes)], seed(t))
			})
		}
	}
}

func watchThroughKills(t *testing.T, n, other nix, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	goods := newGoods(t, n)
	l := newLarder(t, n)
	l.machine = l.with("LARDER_HOOK_DEADLINE=") // as it is in real life
	l.configure(t, "trusted-public-keys = "+goods.key)
	before := l.validPaths(t)

	ways := goods.ways(t)
	random.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
	last := ways[len(ways)-3:] // the gap that nobody but a drain closes
	c := &chaos{larder: l, random: random, todo: ways[:len(ways)-3]}
	c.run(t)
	c.todo, c.alone = last, true
	c.run(t)
	t.Logf("%d daemons were killed; %d entries then", c.kills, len(l.cached(t)))
	l.drain(t)
	l.nothingLeft(t)

	want := l.wanted(t, l.arrived(t, before))
	l.holds(t, want)
	hasPaths(t, "cache", want, goods.paths)
	hasPaths(t, "cache", want, l.outputs(t, l.derivations(t, standardGraph)...)) // compilers, so to speak, included
	hasPaths(t, "cache", want, c.said())

	fresh := newMachine(t, other)
	fresh.substitute(t, l.cache, want...)
	equalPaths(t, "fresh machine", fresh.validPaths(t), want)
	if here, there := l.query(t, "--hash", want...), fresh.query(t, "--hash", want...); !slices.Equal(here, there) {
		t.Error("what comes out of the cache is not what came in")
	}
	fresh.run(t, "nix-store", "--verify", "--check-contents")
}

// A chaos is a machine on which several commands run at a time, while its daemons
// come and go.
type chaos struct {
	*larder
	random *rand.Rand
	todo   [][]string // commands to run
	alone  bool       // no daemon is to be there

	daemon  *process // nil if there is none
	running []*process
	ended   []*process
	kills   int
}

// run returns when all commands have ended, and no daemon is left. Fewer than a few
// would say nothing.
func (c *chaos) run(t *testing.T) {
	t.Helper()
	for len(c.todo)+len(c.running) > 0 || c.kills < 5 {
		for len(c.todo) > 0 && len(c.running) < 3 {
			c.running = append(c.running, c.start(t, c.todo[0]...))
			c.todo = c.todo[1:]
		}
		if !c.alone {
			c.startWatcher(t)
		}
		time.Sleep(time.Duration(c.random.ExpFloat64() * float64(300*time.Millisecond))) // any moment
		c.killWatcher(t)
		c.running = slices.DeleteFunc(c.running, func(p *process) bool {
			if !p.ended() {
				return false
			}
			p.endsWell(t)
			c.ended = append(c.ended, p)
			return true
		})
	}
}

// startWatcher starts a daemon of some kind, or none.
func (c *chaos) startWatcher(t *testing.T) {
	t.Helper()
	kinds := [][]string{{}, {}, {"--watch-only"}, {"--hook-only"}, nil}
	if kind := kinds[c.random.IntN(len(kinds))]; kind != nil {
		c.daemon = c.start(t, append([]string{"larder", "daemon", "--poll", "50ms"}, kind...)...)
	}
}

func (c *chaos) killWatcher(t *testing.T) {
	t.Helper()
	if c.daemon == nil {
		return
	}
	if c.daemon.ended() {
		t.Fatalf("ended by itself: %v", c.daemon)
	}
	c.daemon.kill(t)
	c.daemon = nil
	c.kills++
	checkWhole(t, c.cache)
}

// said returns the store paths that the commands have printed.
func (c *chaos) said() (paths []string) {
	for _, p := range c.ended {
		for _, word := range strings.Fields(strings.ReplaceAll(p.stdout.String(), `"`, " ")) {
			if strings.HasPrefix(word, "/nix/store/") && !isDrv(word) {
				paths = append(paths, word)
			}
		}
	}
	return paths
}

// goods are what another machine has made, for all ways in which it can be had.
type goods struct {
	dir   string
	key   string   // the public one of what is signed
	paths []string // all of it, sorted

	unsigned, signed, copied, exported []string // what to ask for
}

func newGoods(t *testing.T, n nix) *goods {
	t.Helper()
	g := &goods{dir: tempDir(t)}
	m := newMachine(t, n)
	m.run(t, "nix-store", "--generate-binary-cache-key", "goods-1", g.dir+"/secret", g.dir+"/public")
	g.key = m.run(t, "cat", g.dir+"/public")
	build := func(salt string) (outs []string) {
		args := []string{standardGraph, "--argstr", "salt", salt}
		if salt != "unsigned" {
			args = []string{manyGraph, "--arg", "count", "8", "--arg", "chained", "true", "--argstr", "salt", salt}
		}
		m.build(t, args...)
		outs = m.outputs(t, m.derivations(t, args...)...)
		g.paths = append(g.paths, m.closure(t, outs...)...)
		return outs
	}
	publish := func(cache string, outs []string) {
		m.run(t, append([]string{"nix", "copy", "--to", "file://" + g.dir + "/" + cache + "?compression=none"}, outs...)...)
	}
	g.unsigned, g.signed, g.copied, g.exported = build("unsigned"), build("signed"), build("copied"), build("exported")
	publish("unsigned", g.unsigned)
	m.run(t, append([]string{"nix", "store", "sign", "--recursive", "--key-file", g.dir + "/secret"}, g.signed...)...)
	publish("signed", g.signed)
	publish("copied", g.copied)
	m.run(t, append([]string{"sh", "-euc", `out=$1; shift; nix-store --export "$@" > "$out"`, "-", g.dir + "/export"}, m.closure(t, g.exported...)...)...)
	slices.Sort(g.paths)
	g.paths = slices.Compact(g.paths)

	must(t, os.WriteFile(filepath.Join(g.dir, "file"), []byte("a file to fetch\n"), 0o644))
	tree := filepath.Join(g.dir, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "dir", "leaf"), []byte("leaf\n"), 0o644))
	must(t, os.WriteFile(tree+".tar", tarball(t, g.dir, "tree/dir/leaf"), 0o644))
	return g
}

// tarball packs files of a directory.
func tarball(t *testing.T, dir string, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}))
		_, err = w.Write(text)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// ways returns commands that bring the goods into the store, and others that make
// what is not there yet.
func (g *goods) ways(t *testing.T) [][]string {
	t.Helper()
	substitute := func(cache string, paths []string) []string {
		return append([]string{"nix-store", "--realise", "--max-jobs", "0", "--option", "substituters", "file://" + g.dir + "/" + cache}, paths...)
	}
	evaluate := func(expr string) []string {
		return []string{"nix-instantiate", "--eval", "--read-write-mode", "--expr", expr}
	}
	build := func(args ...string) []string {
		return append([]string{"nix-build", "--no-out-link", "--option", "substituters", ""}, args...)
	}
	many := func(salt string, chained string, args ...string) []string {
		return build(append([]string{manyGraph, "--arg", "count", "15", "--arg", "chained", chained, "--argstr", "salt", salt}, args...)...)
	}
	return [][]string{
		build(standardGraph),
		build(append([]string{standardGraph, "--argstr", "salt", "unheard"}, without...)...),
		many("chain", "true"),
		many("crowd", "false", "--max-jobs", "2"),
		many("unheard", "true", without...),
		substitute("unsigned?trusted=1", g.unsigned),
		substitute("signed", g.signed),
		append([]string{"nix", "copy", "--no-check-sigs", "--from", "file://" + g.dir + "/copied"}, g.copied...),
		{"sh", "-euc", `exec nix-store --option require-sigs false --import < "$1"`, "-", g.dir + "/export"},
		evaluate(`builtins.fetchurl "file://` + g.dir + `/file"`),
		evaluate(`"${builtins.fetchTarball "file://` + g.dir + `/tree.tar"}"`),
		evaluate(`"${/larder/graphs}"`),
		addTexts("texts", 40),
		{"sh", "-euc", addScript, "-", "one"},
		{"sh", "-euc", addScript, "-", "two"},
		{"nix-store", "--add-fixed", "--recursive", "sha256", g.dir + "/tree"},
		{"nix-instantiate", manyGraph, "--arg", "count", "30", "--argstr", "salt", "never built"},
	}
}
