// Command bench measures larder beside Nix, on real content.
//
// The content is what Debian packages are installed on this machine, built as
// one derivation each with their real dependency graph (see corpus.go), in a
// Nix store of its own:
//
//	$LARDER_BENCH_DIR/                 default /var/tmp/larder-bench
//	    lock                           held while a benchmark runs
//	    corpus-<paths>-<megabytes>/    kept, and used again once complete
//	        nix/                       what the benchmark sees as /nix
//	        lists/ corpus.nix          what nix-build was given
//	        build.log                  what it said
//	        corpus.json                written last: the corpus is complete
//	    scratch/                       caches and queues; emptied at each start
//
// The host's /nix is neither read nor written: the whole benchmark runs in a
// mount namespace in which the corpus's store lies over it.
//
// Contenders take turns (A B C A B C …), so that whatever else the machine does
// hits all of them; medians are compared, never means.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A config says what to measure and on what.
type config struct {
	Dir        string   // where corpora and scratch files lie
	Roots      string   // where other versions of Nix are unpacked, one folder each
	Bin        string   // where larder and larder-hook are
	Rows       []string // names of rows
	Contenders []string // which of allContenders; nil means all that are there
	Paths      int      // upper limit of the corpus, in packages
	Megabytes  int      // upper limit of the corpus, in 10⁶ bytes of NARs, roughly
	Runs       int      // timed runs of each contender and copy row
	Spawns     int      // timed runs of each contender of the hook row
	Rebuild    bool     // throw the corpus away first
	Quick      bool     // take the smaller of two sizes, where a row has two
	Tags       string   // build tags for Go benchmarks
	JSON       string   // also write the results here; "" means don't
	Markdown   bool     // print tables for a document
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "floor" {
		if err := runFloor(os.Args[2], os.Stdin); err != nil {
			fail(1, err)
		}
		return
	}
	cfg, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fail(2, err)
	}
	if os.Getenv(insideVar) == "" {
		code, err := reexec()
		if err != nil {
			fail(1, err)
		}
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = run(ctx, cfg)
	if ctx.Err() != nil {
		err = errors.New("measure: stopped") // not what became of the child we killed
	}
	if err != nil {
		fail(1, err)
	}
}

// A hintError is an error of which we know what to type next.
type hintError struct {
	error
	hint string
}

func (h hintError) Unwrap() error { return h.error }

func fail(code int, err error) {
	fmt.Fprintln(os.Stderr, "bench: error:", err)
	var h hintError
	if errors.As(err, &h) {
		fmt.Fprintln(os.Stderr, "bench: hint:", h.hint)
	}
	os.Exit(code)
}

func parse(args []string) (config, error) {
	cfg := config{
		Dir:   envOr("LARDER_BENCH_DIR", "/var/tmp/larder-bench"),
		Roots: envOr("LARDER_NIX_ROOTS", "/var/cache/larder/nix-roots"),
	}
	var chosen, contenders string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&cfg.Quick, "quick", false, "a smaller corpus, 1 run, 60 spawns, and without what takes longest (each can be set all the same)")
	f.StringVar(&chosen, "rows", strings.Join(rowNames(), ","), "what to measure")
	f.StringVar(&contenders, "contenders", "", "whom to measure: "+strings.Join(allContenders, ",")+"\n(default: larder, and every Nix that is there)")
	f.StringVar(&cfg.Bin, "bin", "bin", "where larder and larder-hook are")
	f.IntVar(&cfg.Runs, "runs", 5, "timed runs of each copy")
	f.IntVar(&cfg.Spawns, "spawns", 200, "timed spawns of the hook")
	f.IntVar(&cfg.Paths, "paths", 680, "at most so many packages in the corpus")
	f.IntVar(&cfg.Megabytes, "megabytes", 1820, "at most about so many megabytes of NARs in the corpus")
	f.BoolVar(&cfg.Rebuild, "rebuild", false, "build the corpus anew, from the packages as they are now")
	f.StringVar(&cfg.Tags, "tags", "", "build tags for Go benchmarks")
	f.StringVar(&cfg.JSON, "json", "", "also write the results to this `file`")
	f.BoolVar(&cfg.Markdown, "markdown", false, "print tables for a document")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	if f.NArg() > 0 {
		return cfg, fmt.Errorf("read command line: unexpected argument %q", f.Arg(0))
	}
	if cfg.Quick {
		small := map[string]string{"rows": strings.Join(quickRows(), ","), "runs": "1", "spawns": "60", "paths": "120", "megabytes": "150"}
		f.Visit(func(set *flag.Flag) { delete(small, set.Name) })
		for name, value := range small {
			f.Set(name, value) // constants of a known type: can't be refused
		}
	}
	var err error
	if cfg.Rows, err = choose("--rows", chosen, rowNames()); err != nil {
		return cfg, err
	}
	if contenders != "" {
		if cfg.Contenders, err = choose("--contenders", contenders, allContenders); err != nil {
			return cfg, err
		}
	}
	for name, n := range map[string]int{"runs": cfg.Runs, "spawns": cfg.Spawns, "paths": cfg.Paths, "megabytes": cfg.Megabytes} {
		if n < 1 {
			return cfg, fmt.Errorf("read --%s: is %d, want at least 1", name, n)
		}
	}
	// Absolute, because children run in other directories.
	for _, dir := range []*string{&cfg.Dir, &cfg.Roots, &cfg.Bin} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return cfg, fmt.Errorf("read command line: %w", err)
		}
	}
	return cfg, nil
}

func envOr(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

// choose splits a comma separated list and checks its words. The result has the
// order of known: it decides who takes the first turn.
func choose(name, list string, known []string) ([]string, error) {
	words := strings.Split(list, ",")
	for _, w := range words {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("read %s: %q is none of %s", name, w, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(known), func(k string) bool {
		return !slices.Contains(words, k)
	}), nil
}

// run is everything that happens inside the mount namespace.
func run(ctx context.Context, cfg config) error {
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()

	w, err := openWorkshop(cfg)
	if err != nil {
		return err
	}
	defer w.close()
	c, err := openCorpus(ctx, cfg, w)
	if err != nil {
		return err
	}
	contenders, skipped, err := findContenders(ctx, cfg, w)
	if err != nil {
		return err
	}

	rep := newReport(cfg, c, skipped)
	if err := measureRows(ctx, &bench{cfg, w, c, contenders}, rep); err != nil {
		return err
	}
	rep.print(os.Stdout, cfg.Markdown)
	if cfg.JSON != "" {
		return rep.writeJSON(cfg.JSON)
	}
	return nil
}
