package nixstore

import (
	"testing"
	"time"
)

const benched = 1000 // paths

// BenchmarkOpen is what every command that looks into the store does first.
func BenchmarkOpen(b *testing.B) {
	s, top := bigStore(b, benched)
	b.ReportAllocs()
	for b.Loop() {
		again, err := Open(s.dirs, time.Second)
		must(b, err)
		must(b, again.Check(b.Context(), []string{top}))
		must(b, again.Close())
	}
}

func BenchmarkClosure(b *testing.B) {
	s, top := bigStore(b, benched)
	b.ReportAllocs()
	for b.Loop() {
		g, err := s.Closure(b.Context(), []string{top}, nothing)
		must(b, err)
		if len(g) != benched {
			b.Fatalf("closure of %d paths, want %d", len(g), benched)
		}
	}
}

func BenchmarkContents(b *testing.B) {
	benchNodes(b, func(s *Store, g Graph) error {
		_, err := s.Contents(b.Context(), g)
		return err
	})
}

func BenchmarkNodeInfos(b *testing.B) {
	benchNodes(b, func(s *Store, g Graph) error {
		_, err := s.NodeInfos(b.Context(), g)
		return err
	})
}

func benchNodes(b *testing.B, read func(s *Store, g Graph) error) {
	s, top := bigStore(b, benched)
	g, err := s.Closure(b.Context(), []string{top}, nothing)
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		must(b, read(s, g))
	}
}
