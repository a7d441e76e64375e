// Package rules says what is worth keeping.
//
// A rule is of one of four kinds:
//
//   - Classes, and the size of sources, choose which registrations become jobs. They
//     say nothing of what a job's closure needs: a source that is not kept for
//     itself is copied with what refers to it.
//   - With what was built comes its derivation, if that is wanted: the class drvs is for
//     all that are evaluated, be they built or not.
//   - Globs and the largest NAR keep a path out of the cache, and with it all that
//     refers to it: a cache is whole, or it is of no use.
//   - Upstreams and bases have paths already, with all that these refer to. Those
//     count as if they were in the cache.
//
// # Classes
//
// Nix does not note how a path came into the store. The classes are told from what
// its database does have, the first that fits:
//
//	drvs        the name ends in .drv; nothing else may be called so
//	built       it is marked as built here (ultimate), or the hook told of it
//	sources     it has a content address (ca), no deriver, no signature, and no
//	            derivation in the store has it as an output: nix-store --add,
//	            sources and fetched trees of an evaluation, builtins.toFile
//	downloaded  everything else: substituted, copied, or imported
//
// So what can't be told apart is: what a remote builder built and the hook did not
// tell of, from downloads; a source that came from an unsigned cache, from one that
// was added here; what builtins.fetchurl, fetchTarball or a flake downloaded, from a
// file of the user's; and what another machine built, from one's own, after it was
// imported by somebody whom Nix trusts to mark it so.
package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/nix-larder/larder/internal/nixstore"
)

// A Class is how a path came into the store.
type Class string

const (
	Built      Class = "built"
	Downloaded Class = "downloaded"
	Sources    Class = "sources"
	Drvs       Class = "drvs"
)

// Classes returns all classes.
func Classes() []Class { return []Class{Built, Downloaded, Sources, Drvs} }

// ErrInvalid says that rules are not possible.
var ErrInvalid = errors.New("invalid rules")

// Rules say what is worth keeping. They are not changed after Check.
type Rules struct {
	// Keep are the classes of registrations that become jobs.
	Keep []Class `json:"keep"`

	// WithDrvs brings the derivation of what was built along, with its closure, whatever
	// Keep says.
	WithDrvs bool `json:"with_drvs,omitempty"`

	// MaxSourceSize is the size of the largest source's NAR that becomes a job, in
	// bytes. Zero means that there is no bound.
	MaxSourceSize int64 `json:"max_source_size,omitempty"`

	// Exclude are globs of names, without the hash, that stay out of the cache: as
	// in a shell, for the whole name.
	Exclude []string `json:"exclude,omitempty"`

	// MaxNarSize is the size of the largest NAR that comes into the cache, in bytes.
	// Zero means that there is no bound.
	MaxNarSize int64 `json:"max_nar_size,omitempty"`

	// SkipSignedBy are the names of keys, such as cache.nixos.org-1: what they have
	// signed is left to those who have it.
	SkipSignedBy []string `json:"skip_signed_by,omitempty"`

	// Bases are caches, in their canonical form, whose entries count as present.
	Bases []string `json:"bases,omitempty"`
}

// Default returns the rules of a queue that nobody has set any for. Sources are
// bounded: a large file that was added to the store is rarely worth its space.
func Default() Rules {
	return Rules{Keep: []Class{Built, Downloaded, Sources}, MaxSourceSize: 256 << 20}
}

// Parse reads what Format wrote. Nothing means the default.
func Parse(text string) (Rules, error) {
	if text == "" {
		return Default(), nil
	}
	var r *Rules
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields() // a rule of a newer release can't be followed
	if err := d.Decode(&r); err != nil {
		return Rules{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := d.Token(); err != io.EOF || r == nil {
		return Rules{}, fmt.Errorf("%w: want one JSON object", ErrInvalid)
	}
	return *r, r.Check()
}

// Format writes rules as JSON: equal rules are equal texts.
func (r Rules) Format() string {
	r.Keep = append([]Class{}, r.Keep...) // never null
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(text)
}

// Check returns an error that wraps [ErrInvalid] if there can't be such rules.
func (r Rules) Check() error {
	for _, class := range r.Keep {
		if !slices.Contains(Classes(), class) {
			return fmt.Errorf("%w: %q is not a class, want some of %q", ErrInvalid, class, Classes())
		}
	}
	for _, glob := range r.Exclude {
		if _, err := match(glob, ""); err != nil || glob == "" || strings.Contains(glob, "/") {
			return fmt.Errorf("%w: %q is not a glob for names", ErrInvalid, glob)
		}
	}
	for _, key := range r.SkipSignedBy {
		if key == "" || strings.ContainsAny(key, ": \t\n") {
			return fmt.Errorf("%w: %q is not the name of a key, such as cache.nixos.org-1", ErrInvalid, key)
		}
	}
	if r.MaxSourceSize < 0 || r.MaxNarSize < 0 {
		return fmt.Errorf("%w: a size is negative", ErrInvalid)
	}
	return nil
}

// ClassOf returns the class of a registration. hooked says that the hook told of it.
func ClassOf(r nixstore.Registration, hooked bool) Class {
	switch {
	case strings.HasSuffix(r.Path, ".drv"):
		return Drvs
	case hooked || r.Ultimate:
		return Built
	case r.CA != "" && r.Deriver == "" && len(r.Sigs) == 0 && !r.Output:
		return Sources
	}
	return Downloaded
}

// ownHook is what larder init calls the hook that it adds to the store.
const ownHook = "larder-hook"

// Unwanted returns why a registration does not become a job, or "" if it does.
func (r Rules) Unwanted(reg nixstore.Registration, hooked bool) string {
	if nixstore.Name(reg.Path) == ownHook {
		return "it is larder's own hook, which is of use on this machine only"
	}
	class := ClassOf(reg, hooked)
	if !slices.Contains(r.Keep, class) {
		if class == Drvs && r.WithDrvs {
			return "its class is drvs, which is kept only with what was built from it"
		}
		return fmt.Sprintf("its class is %s, which is not kept", class)
	}
	if class == Sources && r.MaxSourceSize > 0 && reg.NarSize > r.MaxSourceSize {
		return fmt.Sprintf("it is a source of %s, more than the %s that are kept", size(reg.NarSize), size(r.MaxSourceSize))
	}
	if key := r.Upstream(reg.Sigs); key != "" {
		return fmt.Sprintf("it is signed by %s, and so left to that upstream", key)
	}
	return r.Cut(reg.Path, reg.NarSize)
}

// Cut returns why a path, and all that refers to it, stays out of the cache, or ""
// if it does not.
func (r Rules) Cut(storePath string, narSize int64) string {
	name := nixstore.Name(storePath)
	for _, glob := range r.Exclude {
		if ok, _ := match(glob, name); ok { // Check has seen to the error
			return fmt.Sprintf("its name matches %q, which is excluded", glob)
		}
	}
	if r.MaxNarSize > 0 && narSize > r.MaxNarSize {
		return fmt.Sprintf("its NAR has %s, more than the %s that are let in", size(narSize), size(r.MaxNarSize))
	}
	return ""
}

// match tells whether a glob is for a name. What a shell writes as [!…], package path
// writes as [^…]; no name has a ! that could be meant.
func match(glob, name string) (bool, error) {
	return path.Match(strings.ReplaceAll(glob, "[!", "[^"), name)
}

// Upstream returns the key in whose upstream a path with these signatures is, or "".
func (r Rules) Upstream(sigs []string) string {
	for _, sig := range sigs {
		if key, _, ok := strings.Cut(sig, ":"); ok && slices.Contains(r.SkipSignedBy, key) {
			return key
		}
	}
	return ""
}

func size(bytes int64) string { return humanize.IBytes(uint64(bytes)) }
