package bincache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// A Realisation says which store path an output of a derivation turned out to be: what
// Nix asks a cache for before it builds a content-addressed derivation. There are two
// layouts, which do not read each other's files (registerDrvOutput in Nix's
// src/libstore/binary-cache-store.cc):
//
//	realisations/sha256:<hex>!<output>.doi       up to 2.34
//	build-trace-v2/<derivation>/<output>.doi     since 2.35
type Realisation struct {
	Drv     string   // sha256:<hex> in the first layout, the derivation's base name in the second
	Output  string   // such as out
	OutPath string   // base name of the store path
	Sigs    []string // name:base64, sorted

	// Dependent are the realisations that this one depends on, <drv>!<output>, and the
	// base names of their store paths. Only the first layout has them.
	Dependent map[string]string
}

// Folders of realisations.
const (
	realisationsDir = "realisations"
	buildTraceDir   = "build-trace-v2"
)

// RealisationDirs are the directories that have realisations in them.
var RealisationDirs = []string{realisationsDir, buildTraceDir}

var (
	realisationName = pattern(`^realisations/(sha256:[0-9a-f]{64})!([^/!]+)\.doi$`)
	buildTraceName  = pattern(`^build-trace-v2/([^/!]+\.drv)/([^/!]+)\.doi$`)
	drvHash         = pattern(`^sha256:[0-9a-f]{64}$`)
	outputName      = pattern(`^[0-9A-Za-z+_?=-][0-9A-Za-z+._?=-]*$`)
	pathName        = pattern(`^[0-9a-z]{32}-[0-9A-Za-z+._?=-]+$`)
)

// ID names what is realised.
func (r *Realisation) ID() string { return r.Drv + "!" + r.Output }

// isTrace tells whether it is of the second layout.
func (r *Realisation) isTrace() bool { return !strings.HasPrefix(r.Drv, "sha256:") }

// File returns where in a cache it is.
func (r *Realisation) File() string {
	if r.isTrace() {
		return path.Join(buildTraceDir, r.Drv, r.Output+".doi")
	}
	return path.Join(realisationsDir, r.ID()+".doi")
}

// fileOf returns where the realisation of the first layout is that another one of that
// layout depends on.
func fileOf(id string) string { return path.Join(realisationsDir, id+".doi") }

// Check returns an error if there can't be such a realisation.
func (r *Realisation) Check() error {
	switch {
	case !drvHash().MatchString(r.Drv) && (!pathName().MatchString(r.Drv) || !strings.HasSuffix(r.Drv, ".drv")):
		return fmt.Errorf("%q is no derivation", r.Drv)
	case !outputName().MatchString(r.Output):
		return fmt.Errorf("%q is no output", r.Output)
	case !pathName().MatchString(r.OutPath):
		return fmt.Errorf("%q is no store path", r.OutPath)
	case r.isTrace() && len(r.Dependent) > 0:
		return errors.New("it depends on others, for which this layout has no place")
	}
	for id, out := range r.Dependent {
		drv, output, _ := strings.Cut(id, "!")
		if !drvHash().MatchString(drv) || !outputName().MatchString(output) || !pathName().MatchString(out) {
			return fmt.Errorf("it depends on %q, realised as %q", id, out)
		}
	}
	for _, sig := range r.Sigs {
		if err := checkSig(sig); err != nil {
			return err
		}
	}
	return nil
}

// A realisationJSON is a realisation of the first layout as Nix writes it: its keys are
// sorted, and there is no space between them.
type realisationJSON struct {
	Dependent map[string]string `json:"dependentRealisations"`
	ID        string            `json:"id"`
	OutPath   string            `json:"outPath"`
	Sigs      []string          `json:"signatures,omitempty"`
}

// A traceJSON is one of the second.
type traceJSON struct {
	OutPath string    `json:"outPath"`
	Sigs    []sigJSON `json:"signatures"`
}

type sigJSON struct {
	Name string `json:"keyName"`
	Sig  string `json:"sig"`
}

// Format writes a realisation as Nix does.
func (r *Realisation) Format() []byte {
	sigs := slices.Compact(slices.Sorted(slices.Values(r.Sigs)))
	if r.isTrace() {
		t := traceJSON{r.OutPath, []sigJSON{}}
		for _, sig := range sigs {
			name, sig, _ := strings.Cut(sig, ":")
			t.Sigs = append(t.Sigs, sigJSON{name, sig})
		}
		return toJSON(t)
	}
	j := struct {
		realisationJSON
		Sigs []string `json:"signatures"`
	}{r.json(r.Dependent), append([]string{}, sigs...)}
	return toJSON(j)
}

// json returns what a signature vouches for in the first layout.
func (r *Realisation) json(dependent map[string]string) realisationJSON {
	if dependent == nil {
		dependent = map[string]string{}
	}
	return realisationJSON{Dependent: dependent, ID: r.ID(), OutPath: r.OutPath}
}

// toJSON writes a value as Nix's library does, which has no need to be safe in HTML.
func toJSON(value any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic(err) // strings only
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// ParseRealisation reads the file of a realisation, whose name tells what it is of.
func ParseRealisation(file string, text []byte) (*Realisation, error) {
	r := &Realisation{}
	match, trace := realisationName().FindStringSubmatch(file), false
	if match == nil {
		match, trace = buildTraceName().FindStringSubmatch(file), true
	}
	if match == nil {
		return nil, fmt.Errorf("%q is no name of a realisation", file)
	}
	r.Drv, r.Output = match[1], match[2]
	var j struct {
		ID        *string           `json:"id"`
		Dependent map[string]string `json:"dependentRealisations"`
		OutPath   string            `json:"outPath"`
		Sigs      []anySig          `json:"signatures"`
	}
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	r.OutPath = j.OutPath
	for _, sig := range j.Sigs {
		r.Sigs = append(r.Sigs, string(sig))
	}
	slices.Sort(r.Sigs)
	r.Sigs = slices.Compact(r.Sigs)
	if !trace {
		if j.ID == nil || *j.ID != r.ID() {
			return nil, fmt.Errorf("parse %s: it is not of what its name says", file)
		}
		if len(j.Dependent) > 0 {
			r.Dependent = j.Dependent
		}
	}
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	return r, nil
}

// An anySig is a signature in either of the forms that Nix 2.35 reads.
type anySig string

func (s *anySig) UnmarshalJSON(text []byte) error {
	if text = bytes.TrimSpace(text); len(text) > 0 && text[0] == '"' {
		return json.Unmarshal(text, (*string)(s))
	}
	var parts sigJSON
	err := json.Unmarshal(text, &parts)
	*s = anySig(parts.Name + ":" + parts.Sig)
	return err
}

// fingerprints returns what signatures vouch for: the realisation without signatures.
// Since Nix 2.33 what it depends on does not count, and is not looked at, but is there,
// empty, so that a signature of one that depends on nothing is good for all of them.
func (r *Realisation) fingerprints() []string {
	if r.isTrace() {
		var f struct {
			Key struct {
				Drv    string `json:"drvPath"`
				Output string `json:"outputName"`
			} `json:"key"`
			Value struct {
				OutPath string `json:"outPath"`
			} `json:"value"`
		}
		f.Key.Drv, f.Key.Output, f.Value.OutPath = r.Drv, r.Output, r.OutPath
		return []string{string(toJSON(f))}
	}
	all := []string{string(toJSON(r.json(r.Dependent)))}
	if len(r.Dependent) > 0 {
		all = append(all, string(toJSON(r.json(nil))))
	}
	return all
}

// SignatureState returns the state of a realisation's signatures. One of its forms has to be
// signed: which one a client asks for depends on its version.
func (r *Realisation) SignatureState(keys []signature.PublicKey) SignatureState {
	state := Unsigned
	for _, fingerprint := range r.fingerprints() {
		switch s := signatureState(fingerprint, r.Sigs, keys); s {
		case Valid:
			return s
		case Invalid:
			state = s
		}
	}
	return state
}

// sign returns the signatures by some keys. The same key always makes the same ones.
func (r *Realisation) sign(keys []signature.SecretKey) ([]string, error) {
	return r.signAs(r.fingerprints(), keys)
}

// signAs is sign for some of the fingerprints.
func (r *Realisation) signAs(fingerprints []string, keys []signature.SecretKey) ([]string, error) {
	var sigs []string
	for _, key := range keys {
		for _, fingerprint := range fingerprints {
			sig, err := key.Sign(nil, fingerprint)
			if err != nil {
				return nil, fmt.Errorf("sign realisation %s: %w", r.ID(), err)
			}
			sigs = append(sigs, sig.String())
		}
	}
	return sigs, nil
}
