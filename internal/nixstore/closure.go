package nixstore

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
)

//go:embed sql/edges.sql
var edgesSQL string

// A Node is a store path of a [Graph]. It holds no text, so that a closure of
// 100,000 paths stays small; NodeInfo tells the rest.
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
	var w walk
	err := s.db.read(ctx, func(tx *sql.Tx) error {
		w = walk{skip: skip, index: make(map[int64]int32)}
		for _, path := range paths {
			id, err := rowOf(ctx, tx, path)
			if err != nil {
				return fmt.Errorf("read closure of %s: %w", path, err)
			}
			if err := w.from(ctx, tx, id); err != nil {
				return fmt.Errorf("read closure of %s: %w", path, err)
			}
			if i, ok := w.index[id]; ok {
				w.graph[i].Asked = true
			}
		}
		return nil
	})
	return w.graph, err
}

// A walk visits paths depth first and puts each into the graph when it leaves it.
type walk struct {
	skip  func(id int64) bool
	graph Graph
	index map[int64]int32 // where in the graph a path is; open while it is on the stack
	stack []visit         // our own, since a chain of references may be long
}

// A visit is a path of which the references before next have been visited.
type visit struct {
	id   int64
	refs []int64
	next int
}

const open = -1

func (w *walk) from(ctx context.Context, tx *sql.Tx, id int64) error {
	if err := w.enter(ctx, tx, id); err != nil {
		return err
	}
	for len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		if top.next < len(top.refs) {
			top.next++
			if err := w.enter(ctx, tx, top.refs[top.next-1]); err != nil {
				return err
			}
			continue
		}
		if err := w.leave(top); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) enter(ctx context.Context, tx *sql.Tx, id int64) error {
	if _, seen := w.index[id]; seen || w.skip(id) {
		return nil
	}
	refs, err := queryAll[int64](ctx, tx, edgesSQL, sql.Named("id", id))
	if err != nil {
		return err
	}
	w.index[id] = open
	w.stack = append(w.stack, visit{id: id, refs: refs})
	return nil
}

func (w *walk) leave(v *visit) error {
	node := Node{ID: v.id, Refs: make([]int32, 0, len(v.refs))}
	for _, ref := range v.refs {
		i, ok := w.index[ref]
		if !ok {
			continue // skipped
		}
		if i == open {
			return fmt.Errorf("path %d of Nix's database refers to itself through others", ref)
		}
		node.Refs = append(node.Refs, i)
	}
	w.index[v.id] = int32(len(w.graph))
	w.graph = append(w.graph, node)
	w.stack = w.stack[:len(w.stack)-1]
	return nil
}
