package main

import (
	"errors"
	"fmt"
	"os"
)

// A spawner starts a program again and again, with as little work of its own as can be.
type spawner struct {
	w         *workshop
	file      string
	null, log *os.File
}

func newSpawner(w *workshop, file string) (*spawner, error) {
	log, err := os.Create(w.path("output"))
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", file, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("run %s: %w", file, err)
	}
	return &spawner{w: w, file: file, null: null, log: log}, nil
}

func (s *spawner) close() {
	s.log.Close()
	s.null.Close()
}

// start starts the program: by os.StartProcess and not by os/exec, whose own work would
// be half of what we measure.
func (s *spawner) start(vars ...string) (*os.Process, error) {
	p, err := os.StartProcess(s.file, []string{s.file}, &os.ProcAttr{
		Dir:   s.w.dir,
		Env:   env(s.w.dir, vars...),
		Files: []*os.File{s.null, s.log, s.log},
	})
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", s.file, err)
	}
	return p, nil
}

// wait waits for a process that start has started. The sample has no wall time.
func (s *spawner) wait(p *os.Process) (sample, error) {
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = errors.New(state.String())
	}
	if err != nil {
		return sample{}, fmt.Errorf("run %s: %w", s.file, err)
	}
	return sampleOf(state), nil
}

// check returns an error if one of the processes said something. A hook exits 0 whatever
// happens and tells its troubles on stderr: one that gives up early would look fast.
func (s *spawner) check() error {
	if text := said(s.log); text != "" {
		return fmt.Errorf("run %s: it says: %s", s.file, lastLine(text))
	}
	return nil
}

// buildEnv is what Nix would tell the hook of a build of the corpus.
func buildEnv(queue string, c *corpus, n int) []string {
	e := c.Entries[n%len(c.Entries)]
	return []string{"LARDER_QUEUE=" + queue, "DRV_PATH=" + e.Deriver, "OUT_PATHS=" + e.Path}
}
