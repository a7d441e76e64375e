package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// checkSource looks whether cache or queue lie in a source tree: Nix copies that into the
// store, with all that it does not know to leave out, and then whatever is built from it
// changes with every entry.
func checkSource(ctx context.Context, s *Setup) []Finding {
	var findings []Finding
	if s.Cache != "" {
		findings = append(findings, inSource(ctx, "cache", s.Cache)...)
	}
	if s.Queue != nil && s.Queue.Err == nil {
		findings = append(findings, inSource(ctx, "queue", s.Queue.File)...)
	}
	return findings
}

// A tree is a source tree, as Nix finds it (src/libflake/flakeref.cc): a flake is what
// git tracks of it if there is a .git at or above flake.nix, and otherwise everything.
type tree struct {
	flake, git string // directories, or ""
}

func treeAbove(dir string) tree {
	var t tree
	for ; ; dir = filepath.Dir(dir) {
		if t.flake == "" && t.git == "" && exists(filepath.Join(dir, "flake.nix")) {
			t.flake = dir
		}
		if exists(filepath.Join(dir, ".git")) {
			t.git = dir
			return t
		}
		if dir == filepath.Dir(dir) {
			return t
		}
	}
}

// inSource looks at a cache's directory, or a queue's file.
func inSource(ctx context.Context, what, name string) []Finding {
	// Where it really is: a link in a source tree is copied as a link.
	base := existing(name)
	real, err := filepath.EvalSymlinks(base)
	if err != nil {
		return nil
	}
	if rest, err := filepath.Rel(base, name); err == nil {
		real = filepath.Join(real, rest)
	}
	f := Finding{
		Severity: Problem,
		Why:      fmt.Sprintf("it is copied into the store with the tree, and all that is built from that changes with the %s", what),
		Advice:   fmt.Sprintf("choose a place outside of it with --%s", what),
	}
	switch t := treeAbove(filepath.Dir(real)); {
	case t.git == "" && t.flake == "":
		return nil
	case t.git == "":
		f.What = fmt.Sprintf("the %s %s is in the flake %s, which is not in git", what, name, t.flake)
		f.Why = "nix build copies all of such a flake into the store: " + f.Why
		return one(f)
	default:
		return one(inGit(ctx, f, t.git, what, real))
	}
}

// inGit looks whether git, and with it Nix, leaves something out.
func inGit(ctx context.Context, f Finding, top, what, name string) Finding {
	git := func(args ...string) (string, error) {
		// The tree may be somebody else's, which git otherwise refuses.
		out, err := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*", "-C", top}, args...)...).Output()
		return string(out), err
	}
	inside, ignore := name, fmt.Sprintf("echo %s >> %s", quote("/"+filepath.Base(name)+"*"), quote(filepath.Join(filepath.Dir(name), ".gitignore")))
	if what == "cache" { // larder makes this file; a cache of nix copy has none
		inside = filepath.Join(name, "nix-cache-info")
		ignore = "echo '*' > " + quote(filepath.Join(name, ".gitignore"))
	}
	f.What = fmt.Sprintf("the %s %s is in the source tree %s", what, name, top)
	tracked, err := git("ls-files", "--", name)
	if err != nil {
		f.Severity = Warning
		f.Why = fmt.Sprintf("git can't be asked whether it leaves it out (%v); if not, %s", err, f.Why)
		return f
	}
	if tracked != "" {
		f.What = fmt.Sprintf("git tracks the %s %s, in %s", what, name, top)
		f.Run = []string{fmt.Sprintf("git -C %s rm -r -q --cached -- %s", quote(top), quote(name)), ignore}
		f.Advice = "and commit that; or " + f.Advice
		return f
	}
	f.Severity = Warning
	if _, err := git("check-ignore", "-q", "--", inside); err != nil && exists(name) {
		f.What += ", and git does not ignore it"
		f.Why = "the next git add tracks it; then " + f.Why
		f.Run = []string{ignore}
		f.Advice = "or " + f.Advice
		return f
	}
	f.Why = "git leaves it out, and so does nix build; path: flakes, and src = ./. without a flake, do not: then " + f.Why
	return f
}
