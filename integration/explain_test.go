package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An explained is what larder explain --json prints.
type explained struct {
	Path    string `json:"path"`
	State   string `json:"state"`
	Verdict string `json:"verdict"`
	Store   *struct {
		Class     string `json:"class"`
		NarSize   int64  `json:"nar_size"`
		Deriver   string `json:"deriver"`
		Closure   int    `json:"closure"`
		LookedAt  bool   `json:"looked_at"`
		WasBefore bool   `json:"was_before"`
	} `json:"store"`
	Rule              string `json:"rule"`
	Cut               []struct{ Path, Reason string }
	Upstream          string                              `json:"upstream"`
	Base              string                              `json:"base"`
	Job               *job                                `json:"job"`
	Rooted            bool                                `json:"rooted"`
	Entry             *entryFacts                         `json:"entry"`
	Damaged           string                              `json:"damaged"`
	MissingReferences []string                            `json:"missing_references"`
	Missing           []string                            `json:"missing"`
	SameName          []struct{ Path, Difference string } `json:"same_name"`
}

type entryFacts struct {
	URL         string `json:"url"`
	Compression string `json:"compression"`
	FileSize    int64  `json:"file_size"`
	OtherBuild  bool   `json:"other_build"`
}

// explained returns what larder says of a path.
func (l *larder) explained(t *testing.T, path string) explained {
	t.Helper()
	var e explained
	must(t, json.Unmarshal([]byte(l.run(t, "larder", "explain", "--queue", l.queue, "--json", path)), &e))
	return e
}

// always are the fields that every explanation has.
var always = []string{"path", "state", "verdict", "store", "job", "rooted", "entry"}

// is fails the test if the explanation is another one.
func (e explained) is(t *testing.T, state, verdict string) {
	t.Helper()
	if e.State != state || !strings.Contains(e.Verdict, verdict) {
		t.Errorf("state is %q, want %q; verdict is %q, want %q in it: %+v", e.State, state, e.Verdict, verdict, e)
	}
}

func TestExplainSaysHowItStandsWithAPath(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nixes[0])
	before := m.buildOne(t, "before")
	l := &larder{machine: m.with(patient), cache: filepath.Join(tempDir(t), "cache"), queue: rootsQueue}
	l.conf = l.lines(t, "larder", "init", "--cache", l.cache, "--exclude", "excluded")
	l.configure(t, l.conf[0])
	l.explained(t, before).is(t, "before", "larder sync queues it")
	never := "/nix/store/00000000000000000000000000000000-never"
	if e := l.explained(t, never); e.Store != nil || e.Entry != nil || e.Job != nil {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "unknown", "neither in the store nor in the cache")
	}

	excluded, drv := l.buildOne(t, "excluded"), l.instantiate(t, "--expr", oneExpr("planned"))[0]
	l.explained(t, excluded).is(t, "queued", "it will be left out when its turn comes")
	if e := l.explained(t, drv); !strings.Contains(e.Rule, "class is drvs, which is not kept") {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "left out", "not queued by itself: a rule leaves it out")
	}
	user := l.build(t, "--expr", `import /larder/graphs/derive.nix "user" { } "echo ${`+oneExpr("excluded")+`} > $out"`)[0]
	l.drain(t)
	if e := l.explained(t, user); e.Rule != "" || len(e.Cut) != 1 || e.Cut[0].Path != excluded || !slices.Contains(e.Missing, user) {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "left out", "its closure could not be complete")
	}

	added := l.run(t, "sh", "-euc", "echo added > added; nix-store --add added")
	if e := l.explained(t, added); e.Store.LookedAt || e.Store.WasBefore {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "unseen", "larder daemon or larder drain will queue it")
	}
	must(t, os.WriteFile(filepath.Join(l.rootsDir(t), filepath.Base(added)), nil, 0o644))
	if e := l.explained(t, added); !e.Rooted {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "queued", "it has a root: it will be queued")
	}
	l.drain(t)
	l.explained(t, added).is(t, "cached", "in the cache")

	bad := l.buildOne(t, "bad")
	if e := l.explained(t, bad); e.Job == nil || e.Job.State != "waiting" || e.Job.Drv == "" || !e.Rooted {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "waiting", "queued: it will be copied")
	}
	l.corrupt(t, bad)
	deadLetter.ofDrain(t, l)
	if e := l.explained(t, bad); e.Job == nil || !strings.Contains(e.Job.Error, "corrupt") {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "dead", "larder retry tries it again")
	}

	sticky, release := l.stickyJob(t)
	l.startWorker(t)
	eventually(t, "the job to be in hand", func() bool { return l.status(t).Claimed == 1 })
	l.explained(t, sticky).is(t, "claimed", "being copied")
	release()
}

// rootsDir returns where the roots of the machine's only queue are, on the host.
func (l *larder) rootsDir(t *testing.T) string {
	t.Helper()
	names, err := filepath.Glob(l.host("/nix/var/nix/gcroots/larder/*/queue"))
	must(t, err)
	if len(names) != 1 {
		t.Fatalf("queues with roots are %q", names)
	}
	return filepath.Dir(names[0])
}

// What has become of an entry is no secret, nor how to mend it.
func TestExplainSaysWhatIsWrongWithAnEntry(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--compression", "none")
	l.unconfigure(t)
	l.configure(t, l.conf[0])
	items := l.build(t, chain("2")...)
	l.drain(t)
	all := entries(t, l.cache)
	if e := l.explained(t, items[1]); e.Entry == nil || e.Entry.URL != all[items[1]].nar || e.Entry.Compression != "none" || e.Entry.FileSize != all[items[1]].size || e.Entry.OtherBuild {
		t.Errorf("explained is %+v", e)
	}

	must(t, os.Remove(filepath.Join(l.cache, all[items[0]].nar)))
	if e := l.explained(t, items[0]); !strings.Contains(e.Damaged, "entry is damaged") || e.Entry != nil || !slices.Equal(e.Missing, items[:1]) {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "missing", "larder sync queues it again")
	}
	if e := l.explained(t, items[1]); !slices.Equal(e.MissingReferences, items[:1]) {
		t.Errorf("explained is %+v", e)
	} else {
		e.is(t, "broken", "larder push mends it")
	}
	l.run(t, "larder", "push", items[1])
	for _, path := range items {
		l.explained(t, path).is(t, "cached", "")
	}
	must(t, os.Remove(filepath.Join(l.cache, filepath.Base(items[0])[:32]+".narinfo")))
	l.explained(t, items[0]).is(t, "missing", "larder sync queues it again")
	l.run(t, "larder", "sync")
	l.drain(t)
	l.explained(t, items[0]).is(t, "cached", "")

	const random = `import /larder/graphs/derive.nix "random" { } "head -c 16 /dev/urandom > $out"`
	l.build(t, "--expr", random)
	l.drain(t)
	l.collectGarbage(t)
	again := l.build(t, "--expr", random)[0]
	if e := l.explained(t, again); e.Entry == nil || !e.Entry.OtherBuild {
		t.Errorf("explained is %+v", e)
	}
}

func TestExplainKnowsThatOnlyHooksTell(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--hook-only")
	added := l.run(t, "sh", "-euc", "echo added > added; nix-store --add added")
	l.explained(t, added).is(t, "missing", "with --hook-only nobody else does")
	l.run(t, "larder", "sync")
	l.drain(t)
	l.explained(t, added).is(t, "cached", "")
}

// Why is it built again? Some input is not what it was.
func TestExplainNamesTheInputThatMakesAnotherPath(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l := newLarder(t, n)
		user := func(flavour string) string {
			return `let d = import /larder/graphs/derive.nix; lib = d "lib" { flavour = "` + flavour + `"; } "echo $flavour > $out";
				in d "user" { } "echo ${d "between" { } "echo ${lib} > $out"} > $out"`
		}
		there := l.build(t, "--expr", user("vanilla"))[0]
		l.drain(t)
		here := l.outputs(t, l.instantiate(t, "--expr", user("mint"))...)[0]
		e := l.explained(t, here)
		e.is(t, "unknown", "neither in the store nor in the cache")
		if len(e.SameName) != 1 || e.SameName[0].Path != there || !strings.Contains(e.SameName[0].Difference, "flavour of lib") {
			t.Errorf("explained is %+v", e)
		}
		text := l.run(t, "larder", "explain", here)
		for _, want := range []string{there, "flavour of lib", "mint", "vanilla"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in what people are told:\n%s", want, text)
			}
		}
		if e := l.explained(t, there); e.SameName != nil {
			t.Errorf("explained is %+v", e)
		}
	})
}

// Scripts read these: fields may come, and may not go or change.
func TestExplanationsInJSON(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0], "--watch-only")
	l.run(t, "nix-build", "--expr", oneExpr("built"))
	l.drain(t)
	never := "/nix/store/00000000000000000000000000000000-never"
	lines := l.lines(t, "larder", "explain", "--json", "./result", never, "result")
	if len(lines) != 3 || lines[0] != lines[2] {
		t.Fatalf("lines are %q", lines)
	}
	cached, unknown := object(t, lines[0], always...), object(t, lines[1], always...)
	if path := l.run(t, "readlink", "result"); cached["path"] != path || unknown["path"] != never {
		t.Errorf("paths are %v and %v, want %s and %s", cached["path"], unknown["path"], path, never)
	}
	for name, fields := range map[string][]string{
		"store": {"class", "nar_size", "deriver", "closure", "looked_at", "was_before"},
		"entry": {"url", "compression", "file_size", "other_build"},
	} {
		text, err := json.Marshal(cached[name])
		must(t, err)
		object(t, string(text), fields...)
		if unknown[name] != nil {
			t.Errorf("%s of %s is %v", name, never, unknown[name])
		}
	}
	if text := l.run(t, "larder", "explain", "result", never); strings.Count(text, "\n\n") != 1 || !strings.Contains(text, "\n\n"+never+"\n  neither in the store") {
		t.Errorf("two paths are explained by\n%s", text)
	}
}

func TestExplainRefusesWhatItCannotExplain(t *testing.T) {
	t.Parallel()
	l := newLarder(t, nixes[0])
	path := l.buildOne(t, "built")
	refusal{2, "no path is named", "larder explain ./result"}.changesNothing(t, l.machine, "larder", "explain")
	refusal{2, "-nonsense", "larder explain --help"}.changesNothing(t, l.machine, "larder", "explain", path, "--nonsense")
	refusal{1, `"/etc/passwd" is not a store path`, "./result works too"}.changesNothing(t, l.machine, "larder", "explain", path, "/etc/passwd")
	refusal{1, "no such file", "larder init"}.changesNothing(t, l.machine, "larder", "explain", "--queue", "/root/none.db", path)
	must(t, os.Rename(l.cache, l.cache+".away"))
	refusal{1, "no such file", "is the disk mounted?"}.changesNothing(t, l.machine, "larder", "explain", path)
}
