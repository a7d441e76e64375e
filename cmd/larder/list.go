package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
)

func listCommand() *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "list the store paths in a cache",
		Description: "Prints store paths, one per line and sorted by name, for example for nix copy --from file://… --stdin. " +
			"It needs no Nix, but for --conflicts, and with --cache no queue, and changes nothing. " +
			"What can't be used is named on standard error; then the exit code is 1, and the rest is listed all the same.\n\n" +
			"For example:  larder list --conflicts | larder push --replace --stdin",
		Flags: []cli.Flag{
			cacheFlag(), queueFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print each entry as JSON, one per line"},
			&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "print a table, with sizes, the last use, and who has signed what"},
			trustedKeyFlag(),
			&cli.BoolFlag{Name: "conflicts", Usage: "list only paths of which the local store has other contents, for larder push --replace --stdin"},
			&cli.BoolFlag{Name: "key", Usage: "print a word that changes when, and only when, there is something new worth saving"},
		},
		Action: listCache,
	}
}

func listCache(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if formats := countSet(c, "long", "json", "key"); formats > 1 {
		return usageError("only one of --long, --json and --key can be printed", "larder list --help says what they print")
	}
	if countSet(c, "conflicts", "key") > 1 {
		return usageError("only one of --conflicts and --key can be printed", "larder list --help says what they print")
	}
	keys, err := trustedKeys(c)
	if err != nil {
		return err
	}
	settings, err := pushSettings(c)
	if err != nil {
		return err
	}
	var store *nixstore.Store
	storeDir := "" // any
	if c.Bool("conflicts") {
		if store, err = openStore(); err != nil {
			return err
		}
		defer store.Close()
		storeDir = store.Dirs().Store
	}
	cache, err := openReadOnly(c, settings, storeDir)
	if err != nil {
		return err
	}
	defer cache.Close()
	if c.Bool("key") {
		key, err := cache.Key(c.Context)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.App.Writer, key)
		return err
	}
	l := &lister{out: bufio.NewWriter(c.App.Writer), stderr: c.App.ErrWriter, cache: cache, keys: keys}
	switch {
	case store != nil:
		err = l.conflicts(c, store)
	case c.Bool("json"):
		err = l.json(c.Context)
	case c.Bool("long"):
		err = l.long(c.Context)
	default:
		err = l.paths(c.Context)
	}
	if flushErr := l.out.Flush(); err == nil { // also after an error, for whole lines
		err = flushErr
	}
	if err == nil && l.damaged > 0 {
		err = withHint(fmt.Errorf("list cache: %d files could not be used", l.damaged), hintVerify)
	}
	return err
}

// countSet counts the flags that are set.
func countSet(c *cli.Context, flags ...string) (n int) {
	for _, flag := range flags {
		if c.Bool(flag) {
			n++
		}
	}
	return n
}

// A lister lists what is in a cache.
type lister struct {
	out     *bufio.Writer
	stderr  io.Writer
	cache   *bincache.Cache
	keys    []signature.PublicKey
	damaged int // files that could not be used
}

// tell says that a file could not be used.
func (l *lister) tell(err error) {
	l.damaged++
	fmt.Fprintf(l.stderr, "larder: %s\n", printable(err.Error()))
}

// usable yields the entries that clients can use, and tells of the others.
func (l *lister) usable(ctx context.Context) iter.Seq[*bincache.NarInfo] {
	return func(yield func(*bincache.NarInfo) bool) {
		for n, err := range l.cache.Entries(ctx) {
			switch {
			case ctx.Err() != nil:
				return // whoever asked knows
			case err != nil:
				l.tell(err)
			case !yield(n):
				return
			}
		}
	}
}

// paths prints store paths only, for other programs.
func (l *lister) paths(ctx context.Context) error {
	var paths []string
	for n := range l.usable(ctx) {
		paths = append(paths, strings.Clone(n.StorePath)) // not all that was read with it
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortFunc(paths, byName)
	for _, p := range paths {
		fmt.Fprintln(l.out, p)
	}
	return nil
}

// byName compares store paths by their names, and those of the same by their hashes.
func byName(a, b string) int {
	return cmp.Or(cmp.Compare(nixstore.Name(a), nixstore.Name(b)), cmp.Compare(a, b))
}

// A listed is an entry as list prints it.
type listed struct {
	Path           string                  `json:"path"`
	NarHash        string                  `json:"nar_hash"`
	NarSize        int64                   `json:"nar_size"`
	FileSize       int64                   `json:"file_size"`
	URL            string                  `json:"url"` // relative to the cache
	Compression    string                  `json:"compression"`
	References     []string                `json:"references"`
	Deriver        string                  `json:"deriver"`    // "" if it is unknown
	CA             string                  `json:"ca"`         // "" if it has none
	Signatures     []string                `json:"signatures"` // names of keys
	SignatureState bincache.SignatureState `json:"signature_state,omitempty"`
	Listing        bool                    `json:"listing"` // the cache has one; so it is with log
	Log            bool                    `json:"log"`
	LastUse        *time.Time              `json:"last_use"` // null if no record tells
}

// entries yields all entries, sorted, and with all that is known of them.
func (l *lister) entries(ctx context.Context) iter.Seq2[*listed, error] {
	return func(yield func(*listed, error) bool) {
		var all []*bincache.NarInfo
		graph := bincache.NewGraph()
		for n := range l.usable(ctx) {
			all = append(all, n)
			graph.Add(path.Base(n.StorePath), n.References)
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err) // also if there was none yet
			return
		}
		used, damaged := l.cache.Used()
		for _, err := range damaged {
			l.tell(err)
		}
		last := graph.LastUse(used)
		slices.SortFunc(all, func(a, b *bincache.NarInfo) int { return byName(a.StorePath, b.StorePath) })
		for _, n := range all {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			e := l.entry(n)
			if id, ok := graph.Find(n.StorePath); ok && !last[id].IsZero() {
				e.LastUse = &last[id]
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (l *lister) entry(n *bincache.NarInfo) *listed {
	dir := path.Dir(n.StorePath)
	e := &listed{
		Path: n.StorePath, NarHash: n.NarHash.String(), NarSize: n.NarSize, FileSize: n.FileSize, URL: n.URL,
		Compression: n.Compression, CA: n.CA, References: []string{}, Signatures: bincache.Signers(n.Sigs),
		Listing: l.cache.Has(bincache.ListingName(n.StorePath)),
	}
	for _, ref := range n.References {
		e.References = append(e.References, dir+"/"+ref)
	}
	if n.Deriver != "" {
		e.Deriver = dir + "/" + n.Deriver
		e.Log = l.cache.Has(bincache.LogName(n.Deriver))
	}
	if len(l.keys) > 0 {
		e.SignatureState = n.SignatureState(l.keys)
	}
	return e
}

// json prints entries for other programs, one object per line.
func (l *lister) json(ctx context.Context) error {
	encoder := json.NewEncoder(l.out)
	encoder.SetEscapeHTML(false)
	for e, err := range l.entries(ctx) {
		if err == nil {
			err = encoder.Encode(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// long prints entries for people.
func (l *lister) long(ctx context.Context) error {
	table := tabwriter.NewWriter(l.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PATH\tNAR\tFILE\tWITH\tLAST USE\tSIGNED BY")
	for e, err := range l.entries(ctx) {
		if err != nil {
			return err
		}
		last := "-"
		if e.LastUse != nil {
			last = localTime(*e.LastUse)
		}
		signed := printable(strings.Join(e.Signatures, " "))
		if e.SignatureState != "" {
			signed += fmt.Sprintf(" (%s)", e.SignatureState)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Path,
			ibytes(e.NarSize), ibytes(e.FileSize), e.with(), last, signed)
	}
	return table.Flush()
}

// with says what the cache has of an entry besides its NAR.
func (e *listed) with() string {
	switch {
	case e.Listing && e.Log:
		return "listing, log"
	case e.Listing:
		return "listing"
	case e.Log:
		return "log"
	}
	return "-"
}
