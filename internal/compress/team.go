package compress

import "sync"

// A Team is some who compress NARs by the same method, and help each other with those
// that are large. Each has Frames of his own.
type Team struct {
	mu       sync.Mutex // guards what is below
	changed  *sync.Cond
	exchange *Exchange
	ended    bool
}

// NewTeam returns a team of so many.
func NewTeam(m Method, members int) *Team {
	t := &Team{}
	t.changed = sync.NewCond(&t.mu)
	t.exchange = NewExchange(m, t.changed, members)
	return t
}

// NewFrames returns what one of the team compresses with.
func (t *Team) NewFrames() *Frames { return NewFrames(t.exchange) }

// Help compresses what others of the team leave, until the team has ended.
func (t *Team) Help(f *Frames) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exchange.Help()
	defer t.exchange.StopHelping()
	for !t.ended {
		one := t.exchange.Take()
		if one == nil {
			t.changed.Wait()
			continue
		}
		t.mu.Unlock()
		f.Compress(one)
		t.mu.Lock()
	}
}

// End ends the team: whoever goes on compressing does so alone.
func (t *Team) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.changed.Broadcast()
}
