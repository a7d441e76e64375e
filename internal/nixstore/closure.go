package nixstore

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
)

var (
	//go:embed sql/edges.sql
	edgesSQL string
	//go:embed sql/edges_contents.sql
	edgesContentsSQL string
)

// A Node is a store path of a [Graph]. It holds no text, so that a closure of
// 100,000 paths stays small; Contents and NodeInfos tell the rest.
type Node struct {
	ID    int64   // the path's row in Nix's database
	Refs  []int32 // where in the graph its references are, itself excepted
	Asked bool    // it is one of those whose closure this is
}

// A Graph is a set of store paths in an order in which every path comes after
// all that it refers to.
type Graph []Node

// Closure returns the closures of the given paths, but for the paths for which
// skip says true, and what only they refer to. The error wraps [ErrNotValid] if
// one of the paths is not in the store.
func (s *Store) Closure(ctx context.Context, paths []string, skip func(id int64) bool) (Graph, error) {
	return s.ClosureContents(ctx, paths, skip, func() func(int64, Content) bool { return nil })
}

// ClosureContents is Closure that tells the contents of paths while it reads: to what begin
// returns, as long as that says that it wants more. If what was read does not count after
// all, begin is called again.
func (s *Store) ClosureContents(ctx context.Context, paths []string, skip func(id int64) bool, begin func() (see func(id int64, c Content) (more bool))) (Graph, error) {
	var graph Graph
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		roots, err := rowsOf(ctx, tx, paths)
		if err != nil {
			return fmt.Errorf("read closure of %w", err)
		}
		w := walk{skip: skip, see: begin(), number: make(map[int64]int32)}
		if err := w.readAll(ctx, tx, roots); err != nil {
			return fmt.Errorf("read closure of %s: %w", several(paths), err)
		}
		graph = make(Graph, 0, len(w.ids))
		for i, root := range roots {
			n := w.number[root]
			if n == skipped {
				continue
			}
			if graph, err = w.sortFrom(n, graph); err != nil {
				return fmt.Errorf("read closure of %s: %w", paths[i], err)
			}
			graph[w.place[n]].Asked = true
		}
		w.renumber()
		return nil
	})
	return graph, err
}

// several names paths in an error that may be of any of them.
func several(paths []string) string {
	if len(paths) == 1 {
		return paths[0]
	}
	return fmt.Sprintf("%d paths", len(paths))
}

// A walk reads the edges of a closure, as many as possible at a time, and then puts its
// paths in order. Until then a path is known by the number that it was found as.
type walk struct {
	skip   func(id int64) bool
	see    func(id int64, c Content) (more bool) // nil if nobody wants to know
	number map[int64]int32                       // by row
	ids    []int64                               // rows, by number
	first  []int32                               // where in edges the references of a path begin, by number
	edges  []int32                               // numbers of references; in the end, places in the graph
	place  []int32                               // in the graph, by number
}

const (
	skipped = -1 // in number

	unvisited = -2 // in place
	open      = -1 // in place: of a path that is on the stack
)

// edgesAtOnce is of how many paths a statement reads the references.
const edgesAtOnce = 1024

// readAll finds all paths, breadth first: a statement for each row would take more
// time than everything else.
func (w *walk) readAll(ctx context.Context, tx *sql.Tx, roots []int64) error {
	for _, id := range roots {
		w.find(id)
	}
	for begin := 0; begin < len(w.ids); {
		end := min(begin+edgesAtOnce, len(w.ids))
		if err := w.readEdges(ctx, tx, w.ids[begin:end]); err != nil {
			return err
		}
		begin = end
	}
	w.first = append(w.first, int32(len(w.edges)))
	return nil
}

// find returns the number of a path, or skipped.
func (w *walk) find(id int64) int32 {
	n, ok := w.number[id]
	if !ok {
		n = skipped
		if !w.skip(id) {
			n = int32(len(w.ids))
			w.ids = append(w.ids, id)
		}
		w.number[id] = n
	}
	return n
}

func (w *walk) readEdges(ctx context.Context, tx *sql.Tx, ids []int64) error {
	var refs sql.NullString
	var row contentRow
	query, dest := edgesSQL, []any{&refs}
	if w.see != nil {
		query, dest = edgesContentsSQL, append(dest, &row.path, &row.hash, &row.sigs)
	}
	next := 0 // in ids
	return readRows(ctx, tx, query, ids, func(rows *sql.Rows) error {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if w.see != nil {
			c, err := row.content()
			if err != nil {
				return err
			}
			if !w.see(ids[next], c) {
				w.see = nil
			}
		}
		next++
		return w.addEdges(refs.String)
	})
}

// addEdges adds the references of the next path: rows with commas between them.
func (w *walk) addEdges(refs string) error {
	w.first = append(w.first, int32(len(w.edges)))
	if refs == "" {
		return nil
	}
	for ref := range strings.SplitSeq(refs, ",") {
		id, err := strconv.ParseInt(ref, 10, 64)
		if err != nil {
			return err
		}
		if n := w.find(id); n != skipped {
			w.edges = append(w.edges, n)
		}
	}
	return nil
}

// refs returns the references of a path, by its number.
func (w *walk) refs(n int32) []int32 { return w.edges[w.first[n]:w.first[n+1]:w.first[n+1]] }

// A visit is a path of which the references before next have been visited.
type visit struct {
	number int32
	next   int32
}

// sortFrom adds a path to the graph behind all that it refers to, and that is not there
// yet, depth first. The stack is our own, since a chain of references may be long.
func (w *walk) sortFrom(root int32, graph Graph) (Graph, error) {
	if w.place == nil {
		w.place = make([]int32, len(w.ids))
		for i := range w.place {
			w.place[i] = unvisited
		}
	}
	if w.place[root] != unvisited {
		return graph, nil
	}
	w.place[root] = open
	stack := []visit{{number: root}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		refs := w.refs(top.number)
		if int(top.next) == len(refs) {
			w.place[top.number] = int32(len(graph))
			graph = append(graph, Node{ID: w.ids[top.number], Refs: refs})
			stack = stack[:len(stack)-1]
			continue
		}
		ref := refs[top.next]
		top.next++
		switch w.place[ref] {
		case open:
			return nil, fmt.Errorf("path %d of Nix's database refers to itself through others", w.ids[ref])
		case unvisited:
			w.place[ref] = open
			stack = append(stack, visit{number: ref})
		}
	}
	return graph, nil
}

// renumber makes the references of the graph's nodes places in it.
func (w *walk) renumber() {
	for i, n := range w.edges {
		w.edges[i] = w.place[n]
	}
}

// jsonArray returns rows as a statement takes them.
func jsonArray(ids []int64) string {
	b := make([]byte, 0, 2+8*len(ids))
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, id, 10)
	}
	return string(append(b, ']'))
}
