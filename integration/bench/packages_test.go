package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// table is what dpkg-query would print for these packages, tab for tab.
func table(lines ...string) string {
	return strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "|-", "\t")
}

func TestDependenciesAreThoseInstalled(t *testing.T) {
	pkgs := parsePackages(table(
		"installed|-amd64|-app|-app|-1|-|-libc6 (>= 2.36), not-here | awk:any, debconf (>= 1) | debconf-2.0, not-here",
		"installed|-amd64|-libc6|-libc6:amd64|-2|-libc6-api|-, ",
		"installed|-i386|-libc6|-libc6:i386|-2|-|-, ",
		"installed|-all|-mawk|-mawk|-3|-awk (= 1), sawk|-, libc6",
		"config-files|-all|-gawk|-gawk|-3|-awk|-, ",
		"installed|-all|-cdebconf|-cdebconf|-4|-debconf-2.0|-, app",
	), "amd64")

	want := map[string]string{
		"app":      "[cdebconf libc6 mawk]",
		"libc6":    "[]",
		"mawk":     "[libc6]",
		"cdebconf": "[app]",
	}
	got := make(map[string]string)
	for name, p := range pkgs {
		got[name] = fmt.Sprint(p.Depends)
	}
	if !maps.Equal(got, want) {
		t.Errorf("dependencies are %v, want %v", got, want)
	}
	if q := pkgs["libc6"].Query; q != "libc6:amd64" {
		t.Errorf("libc6 is asked for as %s, want libc6:amd64", q)
	}
}

func TestCyclesAreBrokenTheSameWayEachTime(t *testing.T) {
	for range 20 { // map order differs
		pkgs := graph("a:b,c", "b:c", "c:a,c,d", "d:")
		breakCycles(pkgs)
		var got []string
		for _, name := range slices.Sorted(maps.Keys(pkgs)) {
			got = append(got, name+":"+strings.Join(pkgs[name].Depends, ","))
		}
		if want := []string{"a:b,c", "b:c", "c:d", "d:"}; !slices.Equal(got, want) {
			t.Fatalf("graph is %v, want %v", got, want)
		}
	}
}

func TestSelectionIsClosedAndFits(t *testing.T) {
	pkgs := graph("a:b", "b:", "c:b", "d:huge", "e:", "huge:", "f:a,e")
	for _, p := range pkgs {
		p.Bytes = 10
	}
	pkgs["huge"].Bytes = 1000
	for paths := 1; paths <= len(pkgs); paths++ {
		chosen := selectPackages(pkgs, paths, 800)
		if len(chosen) > paths {
			t.Errorf("%d packages were chosen, want at most %d", len(chosen), paths)
		}
		for _, p := range chosen {
			if p.Name == "huge" || p.Name == "d" {
				t.Errorf("%s was chosen, but has too large a package in its closure", p.Name)
			}
			for _, d := range p.Depends {
				if chosen[d] == nil {
					t.Errorf("%s was chosen without %s", p.Name, d)
				}
			}
		}
	}
	if n := len(selectPackages(pkgs, 100, 800)); n != 5 {
		t.Errorf("%d packages were chosen without a limit to their number, want 5", n)
	}
}

func TestLeavesHaveNoParents(t *testing.T) {
	got := leaves([]string{
		"/.", "/etc", "/etc/empty", "/bin", "/bin/sh", "package diverts others to: /bin/sh.distrib",
		"/etc/a", "/etc/a b/c", "/etc/a b", "/etc/a",
	})
	if want := []string{"bin/sh", "etc/a", "etc/a b/c", "etc/empty"}; !slices.Equal(got, want) {
		t.Errorf("leaves are %q, want %q", got, want)
	}
}

// graph makes packages from lines such as "a:b,c".
func graph(lines ...string) map[string]*pkg {
	pkgs := make(map[string]*pkg)
	for _, line := range lines {
		name, depends, _ := strings.Cut(line, ":")
		pkgs[name] = &pkg{Name: name}
		if depends != "" {
			pkgs[name].Depends = strings.Split(depends, ",")
		}
	}
	return pkgs
}
