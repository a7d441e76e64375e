package bincache

import (
	"path"
	"slices"
	"strings"
	"time"
)

// A Graph is what entries refer to. It numbers the entries, in the order in which they
// were added, and keeps little of each, so that it can have all those of a large cache.
type Graph struct {
	ids   map[string]int32 // by base name of the store path
	names []string         // base names, also of what is only referred to
	refs  [][]int32        // of entries; nil of what is only referred to
}

// NewGraph returns a graph without entries.
func NewGraph() *Graph { return &Graph{ids: make(map[string]int32)} }

// Add adds an entry by its store path's base name, with those that it refers to.
func (g *Graph) Add(name string, references []string) int32 {
	id := g.id(name)
	refs := make([]int32, 0, len(references)) // never nil
	for _, r := range references {
		if ref := g.id(r); ref != id {
			refs = append(refs, ref)
		}
	}
	g.refs[id] = refs
	return id
}

func (g *Graph) id(name string) int32 {
	id, ok := g.ids[name]
	if !ok {
		name = strings.Clone(name) // not all that was read with it
		id = int32(len(g.names))
		g.ids[name] = id
		g.names = append(g.names, name)
		g.refs = append(g.refs, nil)
	}
	return id
}

// Len returns how many numbers there are: those of entries, and of what is only referred
// to.
func (g *Graph) Len() int { return len(g.names) }

// Name returns the base name that has a number.
func (g *Graph) Name(id int32) string { return g.names[id] }

// Has tells whether there is an entry with a number.
func (g *Graph) Has(id int32) bool { return g.refs[id] != nil }

// References returns the numbers of what an entry refers to, entries or not, itself not
// among them.
func (g *Graph) References(id int32) []int32 { return g.refs[id] }

// Find returns the number of an entry by its store path, or its base name.
func (g *Graph) Find(storePath string) (id int32, ok bool) {
	id, ok = g.ids[path.Base(storePath)]
	return id, ok && g.Has(id)
}

// Closure calls visit for every entry that some entries need, themselves included. What
// visit refuses is not gone into.
func (g *Graph) Closure(of []int32, visit func(id int32) bool) {
	todo := slices.Clone(of) // not by recursion: a chain may be as long as the cache is large
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if g.Has(id) && visit(id) {
			todo = append(todo, g.refs[id]...)
		}
	}
}

// Order returns the numbers of all entries, each behind those that it refers to, as far
// as they are not in a circle.
func (g *Graph) Order() []int32 {
	order := make([]int32, 0, len(g.refs))
	seen := make([]bool, len(g.refs))
	type step struct {
		id   int32
		next int // of its references
	}
	var stack []step
	for first := range g.refs {
		if seen[first] || g.refs[first] == nil {
			continue
		}
		seen[first] = true
		stack = append(stack, step{id: int32(first)})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			refs := g.refs[top.id]
			if top.next == len(refs) {
				order = append(order, top.id)
				stack = stack[:len(stack)-1]
				continue
			}
			ref := refs[top.next]
			top.next++
			if !seen[ref] && g.refs[ref] != nil {
				seen[ref] = true
				stack = append(stack, step{id: ref})
			}
		}
	}
	return order
}

// LastUse tells when entries were used last: when the newest run ended that names them,
// or an entry that needs them. used says when the newest run ended that names an entry,
// by base name. The result is by number; what nobody has used has the zero time.
func (g *Graph) LastUse(used map[string]time.Time) []time.Time {
	var named []int32
	for name := range used {
		if id, ok := g.Find(name); ok { // or nobody knows what it needed
			named = append(named, id)
		}
	}
	// Newest first: whoever comes to an entry first has its time.
	slices.SortFunc(named, func(a, b int32) int { return used[g.names[b]].Compare(used[g.names[a]]) })
	last := make([]time.Time, len(g.refs))
	for _, id := range named {
		at := used[g.names[id]]
		g.Closure([]int32{id}, func(id int32) bool {
			first := last[id].IsZero()
			if first {
				last[id] = at
			}
			return first
		})
	}
	return last
}
