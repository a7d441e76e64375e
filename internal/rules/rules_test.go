package rules

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nix-larder/larder/internal/nixstore"
)

// storePath returns a store path.
func storePath(name string) string {
	return "/nix/store/" + strings.Repeat("0", 32) + "-" + name
}

// registration is a nixstore.Registration of which only what matters is said.
type registration = nixstore.Registration

func named(name string, r registration) registration {
	r.Path = storePath(name)
	return r
}

// TestClassIsHowThePathCame has what Nix registers: see package nixstore's tests.
func TestClassIsHowThePathCame(t *testing.T) {
	drv, sig := storePath("x.drv"), []string{"cache.nixos.org-1:c2ln"}
	for name, test := range map[string]struct {
		reg    registration
		hooked bool
		want   Class
	}{
		"built":                             {registration{Deriver: drv, Ultimate: true, Output: true}, false, Built},
		"built, and signed":                 {registration{Deriver: drv, Ultimate: true, Output: true, Sigs: sig}, false, Built},
		"built, with a fixed output":        {registration{Deriver: drv, Ultimate: true, Output: true, CA: "fixed:sha256:x"}, false, Built},
		"built, the derivation is gone":     {registration{Deriver: drv, Ultimate: true}, false, Built},
		"built elsewhere, and the hook saw": {registration{Deriver: drv, Output: true}, true, Built},
		"built elsewhere":                   {registration{Deriver: drv, Output: true}, false, Downloaded},
		"substituted":                       {registration{Deriver: drv, Output: true, Sigs: sig}, false, Downloaded},
		"copied without a signature":        {registration{Deriver: drv}, false, Downloaded},
		"imported, nothing known":           {registration{}, false, Downloaded},
		"added":                             {registration{CA: "fixed:r:sha256:x"}, false, Sources},
		"builtins.toFile":                   {registration{CA: "text:sha256:x"}, false, Sources},
		"a source with a deriver":           {registration{CA: "fixed:r:sha256:x", Deriver: drv}, false, Downloaded},
		"a source with a signature":         {registration{CA: "fixed:r:sha256:x", Sigs: sig}, false, Downloaded},
		"a source that is an output":        {registration{CA: "fixed:sha256:x", Output: true}, false, Downloaded},
		"a source that the hook told of":    {registration{CA: "fixed:sha256:x"}, true, Built},
	} {
		if got := ClassOf(named("x", test.reg), test.hooked); got != test.want {
			t.Errorf("%s: class is %s, want %s", name, got, test.want)
		}
		// A derivation is one, whatever else is said of it.
		if got := ClassOf(named("x.drv", test.reg), test.hooked); got != Drvs {
			t.Errorf("%s, as a derivation: class is %s", name, got)
		}
	}
	for _, name := range []string{"x.drv.bz2", "drv", "xdrv", "x.DRV", "x.drv-1"} {
		if got := ClassOf(named(name, registration{Ultimate: true}), false); got != Built {
			t.Errorf("class of %s is %s, want built", name, got)
		}
	}
}

// One registration of each class.
var (
	built      = named("built", registration{Ultimate: true, NarSize: 1000})
	downloaded = named("downloaded", registration{NarSize: 1000})
	source     = named("source", registration{CA: "text:sha256:x", NarSize: 1000})
	derivation = named("x.drv", registration{CA: "text:sha256:x", NarSize: 1000})
)

func TestKeptClassesAreWanted(t *testing.T) {
	regs := map[Class]registration{Built: built, Downloaded: downloaded, Sources: source, Drvs: derivation}
	if len(regs) != len(Classes()) {
		t.Errorf("%d classes, want %d", len(Classes()), len(regs))
	}
	for _, keep := range [][]Class{nil, {Built}, {Downloaded}, {Sources}, {Drvs}, {Drvs, Built}, Classes(), Default().Keep} {
		for class, reg := range regs {
			why := Rules{Keep: keep}.Unwanted(reg, false)
			if got, want := why == "", slices.Contains(keep, class); got != want {
				t.Errorf("of %q, %s is wanted: %v, want %v", keep, class, got, want)
			}
			if why != "" && !strings.Contains(why, string(class)) {
				t.Errorf("%q does not name the class %s", why, class)
			}
		}
	}
	if why := (Rules{Keep: []Class{Built}}).Unwanted(downloaded, true); why != "" {
		t.Errorf("what the hook told of is unwanted: %s", why)
	}
}

func TestUnwantedSaysWhy(t *testing.T) {
	all := Rules{Keep: Classes()}
	with := func(change func(*Rules)) Rules {
		r := all
		change(&r)
		return r
	}
	sized := func(r registration, size int64) registration { r.NarSize = size; return r }
	signed := func(r registration, sigs ...string) registration { r.Sigs = sigs; return r }
	smallSources := with(func(r *Rules) { r.MaxSourceSize = 1 << 20 })
	smallNars := with(func(r *Rules) { r.MaxNarSize = 1 << 20 })
	upstream := with(func(r *Rules) { r.SkipSignedBy = []string{"cache.nixos.org-1"} })
	exclude := with(func(r *Rules) { r.Exclude = []string{"sec*"} })
	for name, test := range map[string]struct {
		rules Rules
		reg   registration
		want  string // a part of the reason; empty: it is wanted
	}{
		"anything": {all, sized(source, 1<<50), ""},
		"a derivation, with what was built from it": {
			with(func(r *Rules) { r.Keep, r.WithDrvs = []Class{Built}, true }), derivation, "kept only with what was built from it",
		},
		"any derivation, in any case":     {with(func(r *Rules) { r.WithDrvs = true }), derivation, ""},
		"a source of the largest size":    {smallSources, sized(source, 1<<20), ""},
		"a source that is larger":         {smallSources, sized(source, 1<<20+1<<10), "it is a source of 1.0 MiB, more than the 1.0 MiB"},
		"a source of unknown size":        {smallSources, sized(source, 0), ""},
		"a build has no source's bound":   {smallSources, sized(built, 1<<30), ""},
		"the largest NAR":                 {smallNars, sized(built, 1<<20), ""},
		"a larger NAR":                    {smallNars, sized(built, 5<<20), "its NAR has 5.0 MiB, more than the 1.0 MiB"},
		"a larger NAR, of a source":       {smallNars, sized(source, 5<<20), "its NAR has 5.0 MiB"},
		"signed by an upstream":           {upstream, signed(downloaded, "other-1:eA==", "cache.nixos.org-1:eA=="), "it is signed by cache.nixos.org-1"},
		"signed by somebody else":         {upstream, signed(downloaded, "cache.nixos.org-2:eA=="), ""},
		"built here, and signed upstream": {upstream, signed(built, "cache.nixos.org-1:eA=="), "it is signed by cache.nixos.org-1"},
		"excluded":                        {exclude, named("secret", built), `its name matches "sec*"`},
		"not excluded":                    {exclude, built, ""},
	} {
		got := test.rules.Unwanted(test.reg, false)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: the reason is %q, want %q", name, got, test.want)
		}
	}
}

func TestGlobsAreForTheWholeName(t *testing.T) {
	for glob, test := range map[string]struct{ in, out []string }{
		"hello":           {[]string{"hello"}, []string{"hello-2.12", "ahello", "hell", "Hello"}},
		"hello-*":         {[]string{"hello-", "hello-2.12.1", "hello-2.12.tar.gz"}, []string{"hello", "othello-2.12", "hello2"}},
		"*":               {[]string{"a", "hello-2.12", ".hidden"}, nil},
		"*.iso":           {[]string{"nixos.iso", "a.b.iso", ".iso"}, []string{"iso", "nixos.iso.zst", "nixosXiso"}},
		"*secret*":        {[]string{"secret", "my-secret-2"}, []string{"secre"}},
		"v?.?":            {[]string{"v1.2", "v..."}, []string{"v1", "v1.20", "v1-2"}},
		"[ab]-1":          {[]string{"a-1", "b-1"}, []string{"c-1", "ab-1", "[ab]-1"}},
		"x-[0-9]*":        {[]string{"x-1", "x-9.0"}, []string{"x-a", "x-", "x-beta-1"}},
		"x-[^0-9]*":       {[]string{"x-a", "x-beta-1"}, []string{"x-1", "x-"}},
		"x-[!0-9]*":       {[]string{"x-a", "x-beta-1"}, []string{"x-1", "x-"}}, // as shells have it
		"a?b":             {[]string{"a?b", "a.b", "a=b"}, []string{"ab", "a..b"}},
		`a\?b`:            {[]string{"a?b"}, []string{"a.b"}},
		"gcc-[1-9]*[0-9]": {[]string{"gcc-12.3.0", "gcc-10"}, []string{"gcc-9", "gcc-12-lib"}},
	} {
		r := Rules{Keep: Classes(), Exclude: []string{"no such name", glob}}
		if err := r.Check(); err != nil {
			t.Errorf("%q: %v", glob, err)
		}
		for _, name := range test.in {
			if got := r.Cut(storePath(name), 1); !strings.Contains(got, strconv.Quote(glob)) {
				t.Errorf("%q does not match %q: %q", glob, name, got)
			}
		}
		for _, name := range test.out {
			if got := r.Cut(storePath(name), 1); got != "" {
				t.Errorf("%q matches %q: %s", glob, name, got)
			}
		}
	}
	// The hash is none of a glob's business.
	if got := (Rules{Exclude: []string{"0*"}}).Cut(storePath("x"), 1); got != "" {
		t.Errorf("the hash matches: %s", got)
	}
}

func TestCutIsForAnyClassAndSizesMayBeUnknown(t *testing.T) {
	r := Rules{MaxNarSize: 100, MaxSourceSize: 10, SkipSignedBy: []string{"k"}}
	for size, want := range map[int64]bool{0: false, 11: false, 100: false, 101: true, 1 << 62: true} {
		if got := r.Cut(storePath("x"), size) != ""; got != want {
			t.Errorf("a NAR of %d bytes is cut: %v, want %v", size, got, want)
		}
	}
	if got := (Rules{}).Cut(storePath("x"), 1<<62); got != "" {
		t.Errorf("without a bound: %s", got)
	}
}

func TestUpstreamIsTheOneWhoseKeySigned(t *testing.T) {
	r := Rules{SkipSignedBy: []string{"cache.nixos.org-1", "a", "my.cache-2"}}
	for _, test := range []struct {
		sigs []string
		want string
	}{
		{nil, ""},
		{[]string{"cache.nixos.org-1:c2ln"}, "cache.nixos.org-1"},
		{[]string{"other-1:c2ln", "my.cache-2:c2ln"}, "my.cache-2"},
		{[]string{"a:c2ln", "cache.nixos.org-1:c2ln"}, "a"},
		{[]string{"cache.nixos.org-2:c2ln", "cache.nixos.org-11:c2ln", "cache.nixos.org:c2ln", "cacheXnixos.org-1:c2ln"}, ""},
		{[]string{"xcache.nixos.org-1:c2ln", "other:cache.nixos.org-1:c2ln"}, ""},
		{[]string{"cache.nixos.org-1", "", ":", ":c2ln", "A:c2ln"}, ""}, // no signatures of any of them
	} {
		if got := r.Upstream(test.sigs); got != test.want {
			t.Errorf("upstream of %q is %q, want %q", test.sigs, got, test.want)
		}
	}
	if got := (Rules{}).Upstream([]string{":c2ln", "a:c2ln"}); got != "" {
		t.Errorf("without upstreams it is %q", got)
	}
}

var full = Rules{
	Keep: []Class{Built, Drvs}, MaxSourceSize: 1, Exclude: []string{"<*>", `a"b`, "[a-z]*"}, MaxNarSize: 1 << 60,
	SkipSignedBy: []string{"cache.nixos.org-1", "x"}, Bases: []string{"file:///base?trusted=true"},
}

func TestRulesComeBackAsTheyWereWritten(t *testing.T) {
	for _, want := range []Rules{Default(), full, {Keep: []Class{}}, {Keep: []Class{Drvs}}, {}} {
		got, err := Parse(want.Format())
		if err != nil {
			t.Errorf("%s: %v", want.Format(), err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("rules (-written +read):\n%s", diff)
		}
		if got.Format() != want.Format() {
			t.Errorf("equal rules are two texts: %s and %s", got.Format(), want.Format())
		}
	}
	if one, two := (Rules{}).Format(), (Rules{Keep: []Class{}, Bases: []string{}}).Format(); one != two {
		t.Errorf("rules that keep nothing are two texts: %s and %s", one, two)
	}
	// This is in queues.
	const text = `{"keep":["built","downloaded","sources"],"max_source_size":268435456}`
	if got := Default().Format(); got != text {
		t.Errorf("the default is written as %s, want %s", got, text)
	}
}

func TestDefaultIsAllButDerivationsAndLargeSources(t *testing.T) {
	got, err := Parse("")
	if diff := cmp.Diff(Default(), got); diff != "" || err != nil {
		t.Errorf("nothing means %v (-want +got):\n%s", err, diff)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
	large := source
	large.NarSize = 256<<20 + 1
	for reg, want := range map[*registration]bool{&built: true, &downloaded: true, &source: true, &derivation: false, &large: false} {
		if why := got.Unwanted(*reg, false); (why == "") != want {
			t.Errorf("%s is wanted: %v, want %v: %s", reg.Path, why == "", want, why)
		}
	}
}

func TestImpossibleRulesAreInvalid(t *testing.T) {
	for name, r := range map[string]Rules{
		"no class":           {Keep: []Class{Built, "bulit"}},
		"an empty class":     {Keep: []Class{""}},
		"an open bracket":    {Exclude: []string{"ok", "a["}},
		"an empty bracket":   {Exclude: []string{"[]"}},
		"a bad range":        {Exclude: []string{"*[a-]"}},
		"a lone backslash":   {Exclude: []string{`x\`}},
		"an empty glob":      {Exclude: []string{""}},
		"a store path":       {Exclude: []string{"/nix/store/*-x"}},
		"an empty key":       {SkipSignedBy: []string{""}},
		"a key with a colon": {SkipSignedBy: []string{"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="}},
		"a key with a space": {SkipSignedBy: []string{"cache.nixos.org-1 other"}},
		"less than nothing":  {MaxNarSize: -1},
		"a negative source":  {MaxSourceSize: -1},
	} {
		if err := r.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if _, err := Parse(r.Format()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, as text: %v, want ErrInvalid", name, err)
		}
	}
	for _, text := range []string{
		`{"keep":["built"],"max_age":7}`, `{"keep":"built"}`, `{"max_nar_size":"1G"}`, `{"max_nar_size":1.5}`, `{`, ` `, `built`, `[]`, `null`,
		`{"keep":["built"]}{"exclude":["secret"]}`, `{"keep":["built"]} x`,
	} {
		if r, err := Parse(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s is read as %+v, %v, want ErrInvalid", text, r, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", Default().Format(), full.Format(), `{"exclude":["[!a]","\\"]}`, `{} {}`, `null`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%q: %v, want ErrInvalid", text, err)
			}
			return
		}
		again, err := Parse(r.Format())
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty()); diff != "" || err != nil || again.Format() != r.Format() {
			t.Errorf("%q comes back otherwise, %v (-want +got):\n%s", text, err, diff)
		}
		for _, name := range []string{"x", "hello-2.12", strings.Repeat("a.", 100)} {
			r.Unwanted(named(name, registration{NarSize: 1}), false) // and does not panic
			for _, glob := range r.Exclude {
				if _, err := match(glob, name); err != nil {
					t.Errorf("%q is a glob only sometimes: %v", glob, err)
				}
			}
		}
	})
}

func TestOwnHookIsNotKept(t *testing.T) {
	r := Rules{Keep: Classes()}
	hook := nixstore.Registration{Row: nixstore.Row{Path: storePath("larder-hook")}, CA: "fixed:r:sha256:x"}
	if r.Unwanted(hook, false) == "" {
		t.Error("larder's own hook is kept")
	}
	hook.Path = storePath("larder-hook-2")
	if got := r.Unwanted(hook, false); got != "" {
		t.Errorf("another path is not kept: %s", got)
	}
}
